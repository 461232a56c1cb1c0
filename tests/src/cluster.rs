//! A temporary PostgreSQL cluster with the extension preloaded, reachable through a socket in its
//! own folder. Used by every live test.
//!
//! The postmaster is a child process, so a test can stop, kill and start it. A keeper process reads
//! a pipe that closes when the test process ends, for whatever reason. It then stops the server and
//! removes the folder. A panic, an exit or a SIGKILL leaves nothing behind.

use crate::{TestDatabase, TestSession, eventually, locations};
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
pub enum StopMode {
    /// Ends sessions and writes a checkpoint.
    Fast,
    /// Ends all processes without a checkpoint; the next start performs recovery.
    Immediate,
    /// Sends SIGKILL to the postmaster, like a power loss; its children notice by themselves.
    Kill,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
            StopMode::Kill => Signal::KILL,
        }
    }
}

/// A running PostgreSQL.
pub struct TestCluster {
    home: PathBuf,
    /// The folder of the PostgreSQL programs.
    bin: PathBuf,
    subreaper: bool,
    postmaster: Mutex<Option<Child>>,
    keeper: Child,
}

/// A base backup: a copy of a data directory in which no server has run yet.
pub struct ClusterBackup {
    home: PathBuf,
    keeper: Child,
    bin: PathBuf,
}

impl TestCluster {
    /// The cluster shared by tests that stop nothing and change no server settings. Each test
    /// creates its own [`TestDatabase`].
    pub fn shared() -> &'static TestCluster {
        static SHARED: OnceLock<TestCluster> = OnceLock::new();
        SHARED.get_or_init(|| TestCluster::private(&[("pg_caption.max_workers", "16")]))
    }

    /// A cluster for one test that stops or kills processes, with additional settings.
    pub fn private(settings: &[(&str, &str)]) -> TestCluster {
        Self::launch(settings, false)
    }

    /// A cluster whose postmaster adopts orphaned descendants, like PID 1 of a container.
    pub fn subreaper(settings: &[(&str, &str)]) -> TestCluster {
        Self::launch(settings, true)
    }

    /// A cluster of the older major version that OLD_PG_CONFIG names, as the source of an upgrade.
    /// `None` if the variable is not set.
    pub fn of_older_major(settings: &[(&str, &str)]) -> Option<TestCluster> {
        let bin = locations::older_bindir()?;
        let (home, keeper) = folder();
        initdb(&bin, &home.join("data"));
        Some(Self::configured(home, keeper, bin, settings, false, fs::write))
    }

    /// A hot standby that streams from this cluster.
    pub fn standby(&self) -> TestCluster {
        let (home, keeper) = self.base_backup(&["-R"]);
        // The copied file names the primary. Of repeated settings the last one counts.
        let append = |path: PathBuf, conf: String| {
            let before = fs::read_to_string(&path)?;
            fs::write(path, before + &conf)
        };
        Self::configured(home, keeper, self.bin.clone(), &[], false, append)
    }

    /// Takes a base backup, to be restored with [`TestCluster::restored`].
    pub fn backup(&self) -> ClusterBackup {
        let (home, keeper) = self.base_backup(&[]);
        ClusterBackup { home, keeper, bin: self.bin.clone() }
    }

    /// Runs pg_basebackup into a new folder.
    fn base_backup(&self, options: &[&str]) -> (PathBuf, Child) {
        let (home, keeper) = folder();
        let mut command = self.tool("pg_basebackup");
        command.args(["-c", "fast"]).args(options).arg("-D").arg(home.join("data"));
        let output = command.output().expect("pg_basebackup");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pg_basebackup: {error}");
        (home, keeper)
    }

    /// Restores a base backup up to a restore point, from the WAL that was archived since.
    pub fn restored(
        backup: ClusterBackup,
        archive: &Path,
        point: &str,
        settings: &[(&str, &str)],
    ) -> TestCluster {
        let from = format!("cp {}/%f %p", archive.display());
        let mut all = vec![
            ("restore_command", from.as_str()),
            ("recovery_target_name", point),
            ("recovery_target_action", "promote"),
        ];
        all.extend(settings);
        let ClusterBackup { home, keeper, bin } = backup;
        let signal =
            as_server_user("touch").arg(home.join("data/recovery.signal")).status().expect("touch");
        assert!(signal.success(), "touching recovery.signal");
        let cluster = Self::configured(home, keeper, bin, &all, false, fs::write);
        eventually("the recovery ends", || {
            cluster.session("postgres").holds("NOT pg_is_in_recovery()")
        });
        cluster
    }

    /// Upgrades `older` with pg_upgrade and starts the new cluster.
    ///
    /// # Panics
    /// If pg_upgrade fails; the message contains its output.
    pub fn upgraded_from(older: &TestCluster, settings: &[(&str, &str)]) -> TestCluster {
        older.stop(StopMode::Fast);
        let (bin, (home, keeper)) = (locations::bindir(), folder());
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
        // pg_upgrade starts both servers; both must preload the library.
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

    fn launch(settings: &[(&str, &str)], subreaper: bool) -> TestCluster {
        let (home, keeper) = folder();
        let copied = as_server_user("cp")
            .arg("-a")
            .arg(template())
            .arg(home.join("data"))
            .status()
            .expect("cp");
        assert!(copied.success(), "copying the template cluster");
        Self::configured(home, keeper, locations::bindir(), settings, subreaper, fs::write)
    }

    /// Writes the settings of a data directory and starts its server.
    fn configured(
        home: PathBuf,
        keeper: Child,
        bin: PathBuf,
        settings: &[(&str, &str)],
        subreaper: bool,
        write: impl FnOnce(PathBuf, String) -> std::io::Result<()>,
    ) -> TestCluster {
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
            locations::model().display()
        );
        for (name, value) in settings {
            conf += &format!("{name} = '{value}'\n");
        }
        write(home.join("data/postgresql.auto.conf"), conf).expect("writing the settings");
        let cluster = TestCluster { home, bin, subreaper, postmaster: Mutex::new(None), keeper };
        cluster.start();
        cluster
    }

    /// A client program of this PostgreSQL, with the environment to connect as the superuser.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = as_server_user(self.bin.join(name));
        command.env("PGHOST", &self.home).env("PGPORT", "5432").env("PGUSER", "postgres");
        command
    }

    /// The connection string of a database, as the superuser.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host={} port=5432 user=postgres dbname={database}", self.home.display())
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Panics
    /// If the server ends instead; the message contains its log.
    pub fn start(&self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.join("log"))
            .expect("the log");
        let postgres = self.bin.join("postgres");
        let mut command = if self.subreaper {
            let mut command = as_server_user(locations::test_program("as_subreaper"));
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
        eventually("the server accepts connections", || {
            if let Some(status) = child.try_wait().expect("the postmaster") {
                panic!("the server ended: {status}\n{}", self.log());
            }
            TestSession::open(&self.config("postgres")).is_ok()
        });
        *self.postmaster.lock().unwrap() = Some(child);
    }

    /// Stops the server and waits until all its processes have ended.
    pub fn stop(&self, how: StopMode) {
        let Some(mut child) = self.postmaster.lock().unwrap().take() else { return };
        let family = descendants(child.id());
        signal(child.id().into(), how.signal());
        child.wait().expect("the postmaster");
        // Children of a killed postmaster end by themselves. A start before that is refused.
        eventually("the server's processes end", || family.iter().all(|pid| !alive(*pid)));
    }

    /// The process ids of all the server's processes, including the engine.
    pub fn processes(&self) -> Vec<u32> {
        self.postmaster
            .lock()
            .unwrap()
            .as_ref()
            .map(|child| descendants(child.id()))
            .unwrap_or_default()
    }

    /// The process ids of those of the server's processes whose command line contains `title`.
    pub fn processes_titled(&self, title: &str) -> Vec<u32> {
        let is_titled = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").contains(title)
        };
        self.processes().into_iter().filter(is_titled).collect()
    }

    /// The process id of the postmaster.
    ///
    /// # Panics
    /// If the server is stopped.
    pub fn postmaster(&self) -> i64 {
        self.postmaster.lock().unwrap().as_ref().expect("a running server").id().into()
    }

    /// Stops and starts the server.
    pub fn restart(&self, how: StopMode) {
        self.stop(how);
        self.start();
    }

    /// The connection parameters of a database, as the superuser.
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

    /// A new connection to a database, as the superuser.
    ///
    /// # Panics
    /// If the connection fails.
    #[track_caller]
    pub fn session(&self, database: &str) -> TestSession {
        TestSession::open(&self.config(database)).unwrap_or_else(|error| {
            panic!("connecting to {database}: {error}\n{}", self.log_tail("FATAL"))
        })
    }

    /// Creates a database with the extension.
    pub fn database(&self) -> TestDatabase<'_> {
        TestDatabase::create(self, Some("CREATE EXTENSION pg_caption"))
    }

    /// Creates a database with the SQL objects of an earlier release.
    pub fn database_of_release(&self, version: &str) -> TestDatabase<'_> {
        let installed = locations::install_release(version);
        TestDatabase::create(
            self,
            Some(&format!("CREATE EXTENSION pg_caption VERSION '{installed}'")),
        )
    }

    /// Creates a database without the extension.
    pub fn empty_database(&self) -> TestDatabase<'_> {
        TestDatabase::create(self, None)
    }

    /// The process id of the server process with that `backend_type` in `pg_stat_activity`; `None`
    /// unless exactly one exists.
    pub fn process(&self, backend_type: &str) -> Option<i64> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{backend_type}'");
        match self.session("postgres").rows(&sql).as_slice() {
            [row] => row[0].as_ref().map(|pid| pid.parse().expect("a process id")),
            _ => None,
        }
    }

    /// Limits the private memory of a process of the server, in bytes.
    ///
    /// # Panics
    /// If the limit cannot be set.
    pub fn limit_memory(&self, pid: i64, bytes: u64) {
        let limit = format!("--data={bytes}");
        let status = as_server_user("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
        assert!(status.expect("prlimit (util-linux) runs").success());
    }

    /// The complete server log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.join("log")).unwrap_or_default()).into_owned()
    }

    /// The last 40 log lines that contain `pattern` (for example a database name) or come from the
    /// extension's processes.
    pub fn log_tail(&self, pattern: &str) -> String {
        let log = self.log();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(pattern) || line.contains("pg_caption"))
            .collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The path of the data directory.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The path of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.home.join(".s.PGSQL.5432")
    }

    /// Reloads the configuration.
    pub fn reload(&self) {
        self.session("postgres").run("SELECT pg_reload_conf()");
    }

    /// Changes a server setting with ALTER SYSTEM; effective after the next start or reload.
    pub fn set(&self, name: &str, value: &str) {
        self.session("postgres").run(&format!("ALTER SYSTEM SET {name} = '{value}'"));
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.stop(StopMode::Immediate);
        drop(self.keeper.stdin.take());
        self.keeper.wait().expect("the keeper");
    }
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    start_time(pid).is_some()
}

/// When a process was started, in clock ticks after the boot; `None` if it has ended or is a
/// zombie. A process id that was used again belongs to a process with another time.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 22nd field of all: the 20th after the name.
    let started = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok();
    started.filter(|_| !matches!(stat_fields(&stat).0, "Z" | "X"))
}

/// State and parent process id of a line in /proc/PID/stat. The process name in front of them is in
/// parentheses and may contain any character.
fn stat_fields(stat: &str) -> (&str, u32) {
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let state = fields.next().unwrap_or_default();
    (state, fields.next().and_then(|parent| parent.parse().ok()).unwrap_or_default())
}

/// The process ids of all descendants of a process.
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

/// Sends a signal to a process.
///
/// # Panics
/// If the process does not exist.
pub fn signal(pid: i64, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("an existing process");
}

/// Sends a signal to a process, which may have ended. Returns whether it existed.
///
/// # Panics
/// If the number is not a process id.
pub fn signal_if_alive(pid: u32, signal: Signal) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    kill_process(pid, signal).is_ok()
}

/// A command that runs as the operating system user of the server.
fn as_server_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = locations::server_user() {
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

/// Makes the server's user the owner of a file, where the tests run as another one.
pub(crate) fn give_to_server_user(path: &Path) {
    if let Some((uid, gid)) = locations::server_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
    }
}

/// Creates a folder owned by the server's user, and its keeper process, which removes it. The path
/// is short enough for a socket address.
fn folder() -> (PathBuf, Child) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let home = PathBuf::from(format!(
        "/tmp/pgc-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    fs::create_dir(&home).unwrap_or_else(|error| panic!("{}: {error}", home.display()));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("permissions");
    if let Some((uid, gid)) = locations::server_user() {
        std::os::unix::fs::chown(&home, Some(uid), Some(gid)).expect("chown");
    }
    let script = r#"cat >/dev/null
        "$1" -D "$2/data" -m fast -t 10 stop || "$1" -D "$2/data" -m immediate stop
        rm -rf "$2""#;
    let mut keeper = as_server_user("/bin/sh");
    keeper.args(["-c", script, "keeper"]).arg(locations::bindir().join("pg_ctl")).arg(&home);
    // Its own process group: Ctrl-C at the terminal must end the tests, not the keeper.
    keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    (home, keeper.spawn().expect("sh"))
}

/// Creates a data directory without checksums, the default of PostgreSQL 15: pg_upgrade requires
/// the same choice on both sides.
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
    let help = Command::new(bin.join("initdb")).arg("--help").output().expect("initdb");
    if String::from_utf8_lossy(&help.stdout).contains("--no-data-checksums") {
        command.arg("--no-data-checksums");
    }
    let output = command.output().expect("initdb");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

/// A data directory fresh from initdb, created once per process: a copy is faster than initdb.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (home, _keeper) = TEMPLATE.get_or_init(|| {
        let (home, keeper) = folder();
        let data = home.join("template");
        initdb(&locations::bindir(), &data);
        (data, keeper)
    });
    home
}
