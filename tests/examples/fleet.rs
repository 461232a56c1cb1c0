//! `make bench-fleet`: several PostgreSQL servers in front of a fleet of engines behind HAProxy.
//!
//! Three clusters with ROWS=3000 rows each drain their own tables through two engines. The engines'
//! model waits instead of computing, so that the figure is about the fleet and not about this
//! machine: SLOTS=8 answers at a time, each after DELAY_MS=200. Every five seconds an engine is
//! killed and started again. Then all work is repeated in peace with two and with three engines.
//!
//! Prints the rows that were lost or written twice, the rate against that of the engines that
//! lived, and what a third engine adds. Exits with 1 if one of them is too bad.

use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_tests::{ModelsDirectory, Signal, TestCluster, TestServer, project, signal};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

const CLUSTERS: usize = 3;
const KILL_EVERY: Duration = Duration::from_secs(5);
const WATCH: &str = "SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')";
/// HAProxy as it survives the death of a server; see docs/more-than-one-machine.md.
const HAPROXY: &str = include_str!("../../docs/haproxy.cfg");

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A model that waits instead of computing.
fn waiting_model(slots: usize, delay: Duration) -> ScriptedServer {
    let state = Arc::new((Mutex::new(0usize), Condvar::new()));
    ScriptedServer::start(move |_| {
        let (used, freed) = &*state;
        let guard = used.lock().expect("a lock");
        let mut guard = freed.wait_while(guard, |used| *used >= slots).expect("a lock");
        *guard += 1;
        drop(guard);
        sleep(delay);
        *used.lock().expect("a lock") -= 1;
        freed.notify_one();
        ScriptedAnswer::text("A cat on a mat", Some(0.9))
    })
}

/// An engine of the fleet, which can be killed and started again on its port.
struct FleetEngine {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    child: Child,
    since: Instant,
    lived: Duration,
    _model: ScriptedServer,
}

impl FleetEngine {
    fn start(program: PathBuf, fleet: &Path, at: usize, port: u16) -> FleetEngine {
        let (slots, delay) = (number("SLOTS", 8), number("DELAY_MS", 200));
        let model = waiting_model(slots, Duration::from_millis(delay as u64));
        let remote = serde_json::json!({ "protocol": "openai", "base_url": model.url(),
                                         "model": "m", "concurrency": slots });
        // Of the user of this process, as which the engines run.
        let folder = fleet.join(format!("engine-{at}")).join("shop");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("remote.json"), remote.to_string()).expect("a file");
        let child = spawn(&program, &folder, port);
        let (since, lived) = (Instant::now(), Duration::ZERO);
        FleetEngine { program, folder, port, child, since, lived, _model: model }
    }

    fn kill(&mut self) {
        signal(self.child.id().into(), Signal::KILL);
        let _ = self.child.wait();
        self.lived += self.since.elapsed();
    }

    fn restart(&mut self) {
        self.child = spawn(&self.program, &self.folder, self.port);
        self.since = Instant::now();
    }
}

impl Drop for FleetEngine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, folder: &Path, port: u16) -> Child {
    let mut child = Command::new(program)
        .args(["serve", "--http", &format!("127.0.0.1:{port}"), "--model"])
        .arg(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("an engine");
    let mut log = BufReader::new(child.stderr.take().expect("its log"));
    let mut line = String::new();
    while !line.contains("is ready on") {
        line.clear();
        assert!(log.read_line(&mut line).expect("its log") > 0, "the engine ended");
    }
    // Read to its end, so that the engine never waits for a reader.
    std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
    child
}

struct Proxy(Child, PathBuf);

impl Proxy {
    fn start(port: u16, engines: &[u16]) -> Proxy {
        let head = HAPROXY.split("  server ").next().expect("a configuration");
        let mut config = head.replace("127.0.0.1:8000", &format!("127.0.0.1:{port}"));
        for (at, engine) in engines.iter().enumerate() {
            config += &format!("  server e{at} 127.0.0.1:{engine}\n");
        }
        let file = std::env::temp_dir().join(format!("pgc-haproxy-{}-{port}", std::process::id()));
        fs::write(&file, config).expect("a file");
        let child = Command::new("haproxy")
            .arg("-f")
            .arg(&file)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("haproxy: install Debian's package haproxy");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            sleep(Duration::from_millis(20));
        }
        Proxy(child, file)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(&self.1);
    }
}

/// Rows with a text, rows that were written twice, rows with a failure.
fn counts(clusters: &[(TestCluster, String)]) -> (i64, i64, i64) {
    let mut sum = (0, 0, 0);
    for (cluster, database) in clusters {
        let mut session = cluster.session(database);
        sum.0 += session.number("SELECT count(alt) FROM products");
        sum.1 += session.number(
            "SELECT count(*) FROM (SELECT id FROM writes GROUP BY id HAVING count(*) > 1) x",
        );
        sum.2 += session.number("SELECT count(*) FROM caption.failure");
    }
    sum
}

/// All rows again. Without the ledger, which would answer for them.
fn begin(clusters: &[(TestCluster, String)]) {
    for (cluster, database) in clusters {
        let mut session = cluster.session(database);
        session.run("SELECT caption.unwatch('products', forget => true)");
        session.run("UPDATE products SET alt = NULL");
        session.run("TRUNCATE writes");
        session.run(WATCH);
    }
}

fn main() -> ExitCode {
    let rows = number("ROWS", 3000);
    let program = PathBuf::from(std::env::var("ENGINE").unwrap_or_else(|_| {
        project().join("target/debug/pg_caption_engine").display().to_string()
    }));
    let models = ModelsDirectory::of(&["default"]);
    let fleet = std::env::temp_dir().join(format!("pgc-fleet-{}", std::process::id()));
    let proxy_port = free_port();
    let ports = [free_port(), free_port(), free_port()];
    let mut engines: Vec<FleetEngine> =
        (0..2).map(|at| FleetEngine::start(program.clone(), &fleet, at, ports[at])).collect();
    let proxy = Proxy::start(proxy_port, &ports);
    let remote = serde_json::json!({ "protocol": "openai", "model": "",
        "base_url": format!("http://127.0.0.1:{proxy_port}/v1"), "concurrency": 16 });
    models.put("fleet", "remote.json", &remote.to_string(), 0o644);
    let web = TestServer::start();
    // All distinct: equal pictures would be sent once.
    let pictures = web.pictures(rows);
    let clusters: Vec<(TestCluster, String)> = (0..CLUSTERS)
        .map(|_| {
            let cluster = models.cluster_with("fleet", &[("pg_caption.memo", "0")]);
            let db = cluster.empty_database();
            let mut session = db.session();
            let name = session.text("SELECT current_database()");
            session.run("CREATE EXTENSION pg_caption");
            session.run(
                "CREATE TABLE products (id int PRIMARY KEY, image_url text, alt text); \
                 CREATE TABLE writes (id int); \
                 CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF NEW.alt IS NOT NULL THEN INSERT INTO public.writes VALUES (NEW.id); END IF; \
                 RETURN NEW; END $$; \
                 CREATE TRIGGER note AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION note()",
            );
            let list = pictures.join("', '");
            session.run(&format!(
                "INSERT INTO products (id, image_url) SELECT n, url \
                 FROM unnest(ARRAY['{list}']) WITH ORDINALITY AS u (url, n)"
            ));
            session.run(WATCH);
            std::mem::forget(db);
            (cluster, name)
        })
        .collect();
    let all = (rows * CLUSTERS) as i64;
    let one = number("SLOTS", 8) as f64 * 1000.0 / number("DELAY_MS", 200) as f64;

    let (began, mut next, mut at) = (Instant::now(), Instant::now() + KILL_EVERY, 0);
    engines.iter_mut().for_each(|engine| engine.since = began);
    loop {
        let (done, ..) = counts(&clusters);
        if done >= all {
            break;
        }
        if Instant::now() >= next {
            let engine = &mut engines[at % 2];
            engine.kill();
            engine.restart();
            (at, next) = (at + 1, next + KILL_EVERY);
        }
        sleep(Duration::from_millis(200));
    }
    let lived: f64 =
        engines.iter().map(|engine| (engine.lived + engine.since.elapsed()).as_secs_f64()).sum();
    let (done, twice, failed) = counts(&clusters);
    let share = done as f64 / (lived * one);
    println!("{done} rows in {:.0} s, {at} engines killed", began.elapsed().as_secs_f64());
    println!("lost: {}   written twice: {twice}   failed: {failed}", all - done);
    println!("share of the rate of the engines that lived: {share:.2}");

    let rate = |engines: usize| {
        begin(&clusters);
        // Into full work first.
        sleep(Duration::from_secs(5));
        let (before, began) = (counts(&clusters).0, Instant::now());
        sleep(Duration::from_secs(15));
        let rate = (counts(&clusters).0 - before) as f64 / began.elapsed().as_secs_f64();
        println!(
            "{engines} engines: {rate:.1} rows/s ({:.2} of theirs)",
            rate / one / engines as f64
        );
        rate
    };
    let two = rate(2);
    let third = FleetEngine::start(program, &fleet, 2, ports[2]);
    // HAProxy finds it by its health check.
    sleep(Duration::from_secs(3));
    let added = (rate(3) - two) / one;
    println!("a third engine adds {added:.2} of one engine's rate");
    drop((third, engines, proxy));
    let _ = fs::remove_dir_all(&fleet);
    match done == all && twice == 0 && failed == 0 && share >= 0.9 && added >= 0.9 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
