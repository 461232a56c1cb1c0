//! A throw-away PostgreSQL with the extension preloaded, reachable through a socket in a folder of
//! its own.
//!
//! The postmaster is our child, so a test can stop, kill and start it. A keeper process waits at a
//! pipe that ends with us, however we end, and then stops the server and removes the folder:
//! nothing is left behind by a panic, an exit or a SIGKILL.

use crate::{Database, Session, eventually, place};
use postgres::Config;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, a checkpoint is written.
    Fast,
    /// No farewell to anybody; recovery at the next start.
    Immediate,
    /// As a machine that loses power: SIGKILL for the postmaster, its children find out.
    Kill,
}

impl Stop {
    fn signal(self) -> Signal {
        match self {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        }
    }
}

/// A running PostgreSQL.
pub struct Cluster {
    home: PathBuf,
    /// Where its programs are.
    bin: PathBuf,
    subreaper: bool,
    postmaster: Mutex<Option<Child>>,
    keeper: Child,
}

/// A copy of a data directory that no server has run in yet.
pub struct Backup {
    home: PathBuf,
    keeper: Child,
    bin: PathBuf,
}

impl Cluster {
    /// The one for tests that disturb nobody: each takes a [`Database`] of its own.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Cluster::private(&[("pg_caption.max_workers", "16")]))
    }

    /// One for a test that stops or kills things, with further settings.
    pub fn private(settings: &[(&str, &str)]) -> Cluster {
        Self::launch(settings, false)
    }

    /// One whose postmaster adopts its children's orphans, as PID 1 of a container does.
    pub fn subreaper(settings: &[(&str, &str)]) -> Cluster {
        Self::launch(settings, true)
    }

    /// One of the older major that OLD_PG_CONFIG names, if there is one: to be upgraded from.
    pub fn of_older_major(settings: &[(&str, &str)]) -> Option<Cluster> {
        let bin = place::older_bindir()?;
        let (home, keeper) = folder();
        initdb(&bin, &home.join("data"));
        Some(Self::configured(home, keeper, bin, settings, false, fs::write))
    }

    /// A hot standby that streams from this one.
    pub fn standby(&self) -> Cluster {
        let (home, keeper) = folder();
        let mut backup = self.tool("pg_basebackup");
        let output = backup
            .args(["-c", "fast", "-R", "-D"])
            .arg(home.join("data"))
            .output()
            .expect("pg_basebackup");
        assert!(
            output.status.success(),
            "pg_basebackup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // After what it has copied, which says where the primary is: the last line of a name
        // counts.
        let append = |path: PathBuf, conf: String| {
            let before = fs::read_to_string(&path)?;
            fs::write(path, before + &conf)
        };
        Self::configured(home, keeper, self.bin.clone(), &[], false, append)
    }

    /// A base backup of this one, taken now: to be restored with [`Cluster::restored`].
    pub fn backup(&self) -> Backup {
        let (home, keeper) = folder();
        let mut backup = self.tool("pg_basebackup");
        let output = backup
            .args(["-c", "fast", "-D"])
            .arg(home.join("data"))
            .output()
            .expect("pg_basebackup");
        assert!(
            output.status.success(),
            "pg_basebackup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Backup { home, keeper, bin: self.bin.clone() }
    }

    /// What a base backup becomes with the log of changes that was archived since, as far as a
    /// restore point.
    pub fn restored(
        backup: Backup,
        archive: &Path,
        point: &str,
        settings: &[(&str, &str)],
    ) -> Cluster {
        let from = format!("cp {}/%f %p", archive.display());
        let mut all = vec![
            ("restore_command", from.as_str()),
            ("recovery_target_name", point),
            ("recovery_target_action", "promote"),
        ];
        all.extend(settings);
        let Backup { home, keeper, bin } = backup;
        let signal =
            as_server_user("touch").arg(home.join("data/recovery.signal")).status().expect("touch");
        assert!(signal.success(), "touching recovery.signal");
        let cluster = Self::configured(home, keeper, bin, &all, false, fs::write);
        eventually("recovery is over", || {
            cluster.session("postgres").holds("NOT pg_is_in_recovery()")
        });
        cluster
    }

    /// What `older` has become after pg_upgrade, started.
    ///
    /// # Panics
    /// If pg_upgrade fails; what it said is shown.
    pub fn upgraded_from(older: &Cluster, settings: &[(&str, &str)]) -> Cluster {
        older.stop(Stop::Fast);
        let (bin, (home, keeper)) = (place::bindir(), folder());
        initdb(&bin, &home.join("data"));
        let mut upgrade = as_server_user(bin.join("pg_upgrade"));
        upgrade
            .current_dir(&home)
            .args(["-U", "postgres"])
            .arg("-b")
            .arg(&older.bin)
            .arg("-B")
            .arg(&bin);
        upgrade.arg("-d").arg(older.data()).arg("-D").arg(home.join("data")).arg("-s").arg(&home);
        // It starts both servers: the new one, too, must know the library.
        let preload = "-c shared_preload_libraries=pg_caption -c fsync=off";
        let output = upgrade.args(["-o", preload, "-O", preload]).output().expect("pg_upgrade");
        let logs = || {
            let mut find = Command::new("sh");
            find.args(["-c", "cat \"$0\"/pg_upgrade_output.d/*/log/pg_upgrade_dump_*.log"])
                .arg(home.join("data"));
            String::from_utf8_lossy(&find.output().expect("sh").stdout).into_owned()
        };
        assert!(
            output.status.success(),
            "pg_upgrade: {}\n{}",
            String::from_utf8_lossy(&output.stdout),
            logs()
        );
        Self::configured(home, keeper, bin, settings, false, fs::write)
    }

    fn launch(settings: &[(&str, &str)], subreaper: bool) -> Cluster {
        let (home, keeper) = folder();
        let copied = as_server_user("cp")
            .arg("-a")
            .arg(template())
            .arg(home.join("data"))
            .status()
            .expect("cp");
        assert!(copied.success(), "copying the template cluster");
        Self::configured(home, keeper, place::bindir(), settings, subreaper, fs::write)
    }

    /// Writes the settings of a data directory and starts its server.
    fn configured(
        home: PathBuf,
        keeper: Child,
        bin: PathBuf,
        settings: &[(&str, &str)],
        subreaper: bool,
        write: impl FnOnce(PathBuf, String) -> std::io::Result<()>,
    ) -> Cluster {
        let mut conf = format!(
            "shared_preload_libraries = 'pg_caption'\n\
             listen_addresses = ''\n\
             unix_socket_directories = '{}'\n\
             fsync = off\n\
             max_worker_processes = 32\n\
             log_line_prefix = '%m [%p] %b %d: '\n\
             pg_caption.allowed_networks = '127.0.0.0/8'\n\
             pg_caption.model = '{}'\n\
             pg_caption.min_confidence = 0\n",
            home.display(),
            place::model().display()
        );
        for (name, value) in settings {
            conf += &format!("{name} = '{value}'\n");
        }
        write(home.join("data/postgresql.auto.conf"), conf).expect("writing the settings");
        let cluster = Cluster { home, bin, subreaper, postmaster: Mutex::new(None), keeper };
        cluster.start();
        cluster
    }

    /// A client program of its PostgreSQL, told how to reach it as the superuser.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = as_server_user(self.bin.join(name));
        command.env("PGHOST", &self.home).env("PGPORT", "5432").env("PGUSER", "postgres");
        command
    }

    /// The same as a connection string.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host={} port=5432 user=postgres dbname={database}", self.home.display())
    }

    /// Starts the server and waits until it lets people in.
    ///
    /// # Panics
    /// If it ends instead; its log is shown.
    pub fn start(&self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.join("log"))
            .expect("the log");
        let postgres = self.bin.join("postgres");
        let mut command = if self.subreaper {
            let mut command = as_server_user(subreaper_program());
            command.arg(postgres);
            command
        } else {
            as_server_user(postgres)
        };
        command
            .arg("-D")
            .arg(self.home.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log);
        let mut child = command.spawn().expect("postgres");
        eventually("the server lets people in", || {
            if let Some(status) = child.try_wait().expect("the postmaster") {
                panic!("the server ended: {status}\n{}", self.log());
            }
            Session::open(&self.config("postgres")).is_ok()
        });
        *self.postmaster.lock().unwrap() = Some(child);
    }

    /// Stops the server and waits for its end, and for that of every process of it.
    pub fn stop(&self, how: Stop) {
        let Some(mut child) = self.postmaster.lock().unwrap().take() else { return };
        let family = descendants(child.id());
        signal(child.id().into(), how.signal());
        child.wait().expect("the postmaster");
        // Children of a killed postmaster notice by themselves; a start before that would be
        // refused.
        eventually("the server's processes have ended", || family.iter().all(|pid| !alive(*pid)));
    }

    /// Every process of the server, the engine included.
    pub fn processes(&self) -> Vec<u32> {
        self.postmaster
            .lock()
            .unwrap()
            .as_ref()
            .map(|child| descendants(child.id()))
            .unwrap_or_default()
    }

    /// The postmaster.
    ///
    /// # Panics
    /// If it was stopped.
    pub fn postmaster(&self) -> i64 {
        self.postmaster.lock().unwrap().as_ref().expect("a running server").id().into()
    }

    /// Stops and starts again.
    pub fn restart(&self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// How to reach a database of it, as the superuser.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.home)
            .port(5432)
            .user("postgres")
            .dbname(database)
            .application_name("test");
        config
    }

    /// A connection to a database of it, as the superuser.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn session(&self, database: &str) -> Session {
        Session::open(&self.config(database)).unwrap_or_else(|error| {
            panic!("connecting to {database}: {error}\n{}", self.log_tail("FATAL"))
        })
    }

    /// A new database with the extension.
    pub fn database(&self) -> Database<'_> {
        Database::create(self, Some("CREATE EXTENSION pg_caption"))
    }

    /// A new database with the SQL objects of an earlier release.
    pub fn database_of_release(&self, version: &str) -> Database<'_> {
        place::install_release(version);
        Database::create(self, Some(&format!("CREATE EXTENSION pg_caption VERSION '{version}'")))
    }

    /// A new database without it.
    pub fn empty_database(&self) -> Database<'_> {
        Database::create(self, None)
    }

    /// The process id of the server process that calls itself so in `pg_stat_activity`, if there is
    /// exactly one.
    pub fn process(&self, backend_type: &str) -> Option<i64> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{backend_type}'");
        match self.session("postgres").rows(&sql).as_slice() {
            [row] => row[0].as_ref().map(|pid| pid.parse().expect("a process id")),
            _ => None,
        }
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.join("log")).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log that concern a database (or hold some other word), and those of
    /// the extension's processes.
    pub fn log_tail(&self, word: &str) -> String {
        let log = self.log();
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains(word) || line.contains("pg_caption")).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.home.join(".s.PGSQL.5432")
    }

    /// Rereads the settings.
    pub fn reload(&self) {
        self.session("postgres").run("SELECT pg_reload_conf()");
    }

    /// Changes one of the server's settings; it takes effect at the next start or reload.
    pub fn set(&self, name: &str, value: &str) {
        self.session("postgres").run(&format!("ALTER SYSTEM SET {name} = '{value}'"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
        drop(self.keeper.stdin.take());
        self.keeper.wait().expect("the keeper");
    }
}

/// Whether a process is there and not merely unburied.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat_fields(&stat).0, "Z" | "X"))
}

/// State and parent in a line of /proc/PID/stat. The name before them may hold anything, in
/// parentheses.
fn stat_fields(stat: &str) -> (&str, u32) {
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = fields.next().unwrap_or_default();
    (state, fields.next().and_then(|parent| parent.parse().ok()).unwrap_or_default())
}

/// Children, their children, and so on.
fn descendants(ancestor: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, stat_fields(&fs::read_to_string(entry.path().join("stat")).ok()?).1))
    });
    let parents: Vec<(u32, u32)> = processes.collect();
    let mut family = vec![ancestor];
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family
            .extend(parents.iter().filter(|process| process.1 == parent).map(|process| process.0));
        next += 1;
    }
    family.split_off(1)
}

/// Sends a signal to a process of ours or of the server's.
///
/// # Panics
/// If there is no such process.
pub fn signal(pid: i64, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// The program beside the test binaries (`target/debug/deps/live-…`).
fn subreaper_program() -> PathBuf {
    let here = std::env::current_exe().expect("this program");
    here.ancestors().nth(2).expect("target/debug").join("as_subreaper")
}

/// A command that runs as the user who may run a server.
fn as_server_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = place::server_user() {
        command.uid(uid).gid(gid);
    }
    command
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8")
        .env("RUST_BACKTRACE", "1")
        .env_remove("RUST_LIB_BACKTRACE")
        .env_remove("PGDATA");
    command
}

/// A new folder that the server's user owns, short enough for a socket's address, and the keeper
/// that removes it.
fn folder() -> (PathBuf, Child) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let home = PathBuf::from(format!(
        "/tmp/pgc-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    fs::create_dir(&home).unwrap_or_else(|error| panic!("{}: {error}", home.display()));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("permissions");
    if let Some((uid, gid)) = place::server_user() {
        std::os::unix::fs::chown(&home, Some(uid), Some(gid)).expect("chown");
    }
    let script = r#"cat >/dev/null
        "$1" -D "$2/data" -m fast -t 10 stop || "$1" -D "$2/data" -m immediate stop
        rm -rf "$2""#;
    let mut keeper = as_server_user("/bin/sh");
    keeper.args(["-c", script, "keeper"]).arg(place::bindir().join("pg_ctl")).arg(&home);
    // A group of its own: Ctrl-C at the terminal is meant for the tests, and must not take their
    // keeper along.
    keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    (home, keeper.spawn().expect("sh"))
}

/// Makes a data directory. Without checksums, as 15 does by itself: pg_upgrade wants both sides
/// alike.
fn initdb(bin: &Path, data: &Path) {
    let mut command = as_server_user(bin.join("initdb"));
    command.arg("-D").arg(data).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]);
    let knows = Command::new(bin.join("initdb")).arg("--help").output().expect("initdb");
    if String::from_utf8_lossy(&knows.stdout).contains("--no-data-checksums") {
        command.arg("--no-data-checksums");
    }
    let output = command.output().expect("initdb");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

/// A cluster as initdb leaves it, made once: copying is quicker.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (home, _keeper) = TEMPLATE.get_or_init(|| {
        let (home, keeper) = folder();
        let data = home.join("template");
        initdb(&place::bindir(), &data);
        (data, keeper)
    });
    home
}
