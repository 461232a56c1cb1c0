//! A long run: clients change rows at random while processes are killed and hosts fail. Then the
//! faults end, and every text must be the one that its row should have.
//!
//! `PG_CAPTION_SOAK_MINUTES` is the length of the turmoil, `PG_CAPTION_SOAK_SEED` its seed. The
//! seed repeats what each client and the faults choose, not the order in which they act.

mod clients;
mod faults;
mod hosts;
mod invariants;
mod tables;

use clients::Client;
use faults::Faults;
use hosts::Hosts;
use pg_caption_tests::{
    StopMode, TestCluster, TestDatabase, TestSession, eventually, shared_database,
};
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tables::TABLES;

/// Clients at the same time.
const CLIENTS: u64 = 4;
/// Length of the turmoil in `make test`, minutes.
const MINUTES: f64 = 2.0;

/// Short pauses and time limits, so that much happens in a short time.
const SETTINGS: [(&str, &str); 4] = [
    ("max_prepared_transactions", "10"),
    ("pg_caption.fetch_timeout", "3s"),
    ("pg_caption.timeout", "5s"),
    ("pg_caption.max_workers", "2"),
];

/// What clients and faults share.
struct Turmoil<'a> {
    db: &'a TestDatabase<'a>,
    hosts: &'a Hosts,
    is_over: AtomicBool,
    /// Errors that no fault explains.
    unexpected: Mutex<Vec<String>>,
}

impl Turmoil<'_> {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// A session of a client, once the server accepts it; `None` when the turmoil ends before.
    fn connect(&self) -> Option<TestSession> {
        while !self.is_over() {
            let config = self.db.cluster.config(&self.db.name);
            let Ok(mut session) = TestSession::open(&config) else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            if session.try_rows(clients::SETTINGS).is_ok() {
                return Some(session);
            }
        }
        None
    }
}

/// Lets clients, and faults if wanted, act for a while. Returns what the faults did.
fn turmoil<'a>(
    db: &'a TestDatabase<'a>,
    hosts: &'a Hosts,
    seed: u64,
    length: Duration,
    with_faults: bool,
) -> Faults {
    let turmoil =
        Turmoil { db, hosts, is_over: AtomicBool::new(false), unexpected: Mutex::new(Vec::new()) };
    let shared = &turmoil;
    let mut faults = Faults::new(seed);
    std::thread::scope(|scope| {
        let mut threads: Vec<_> = (1..=CLIENTS)
            .map(|number| scope.spawn(move || Client::new(shared, seed + number).run()))
            .collect();
        if with_faults {
            threads.push(scope.spawn(|| faults.run(shared)));
        }
        let end = Instant::now() + length;
        // A thread that ends before has panicked.
        while Instant::now() < end && !threads.iter().any(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
        }
        turmoil.is_over.store(true, Ordering::Relaxed);
    });
    let unexpected = turmoil.unexpected.into_inner().unwrap();
    assert!(unexpected.is_empty(), "errors that no fault explains:\n{}", unexpected.join("\n"));
    faults
}

/// Ends what the turmoil has left open, and waits until no work is left.
fn calm(db: &TestDatabase) {
    let mut session = db.session();
    for row in session.rows("SELECT gid FROM pg_prepared_xacts ORDER BY prepared") {
        let gid = row[0].as_ref().expect("a name");
        session.run(&format!("COMMIT PREPARED '{gid}'"));
    }
    for table in TABLES {
        session.run(&format!("ALTER TABLE {table} ENABLE TRIGGER USER"));
        if session.holds(&format!(
            "EXISTS (SELECT FROM caption.watch WHERE relation = '{table}'::regclass)"
        )) {
            session.run(&format!("SELECT caption.resume('{table}')"));
        } else {
            session.run(&format!("SELECT caption.watch('{table}')"));
        }
    }
    invariants::no_innocent_row_has_failed(&mut session);
    // What failed or was deferred because of a fault is tried again, now and while its hosts
    // still have pauses.
    let mut retried: Option<Instant> = None;
    eventually("no work is left", || {
        let is_idle = |table: &&str| session.holds(&format!("caption.is_idle('{table}')"));
        if retried.is_some() && TABLES.iter().all(is_idle) {
            return true;
        }
        if retried.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
            TABLES.iter().for_each(|table| {
                session.run(&format!(
                    "DO $$ BEGIN IF NOT caption.is_idle('{table}') OR {} \
                     THEN PERFORM caption.retry('{table}'); END IF; END $$",
                    retried.is_none()
                ));
            });
            retried = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(100));
        false
    });
}

/// Prunes all tables, and waits for the end.
fn prune(session: &mut TestSession) {
    for table in TABLES {
        session.run(&format!("SELECT caption.prune('{table}')"));
    }
    eventually("the tables are pruned", || {
        session.holds("NOT EXISTS (SELECT FROM caption.watch_state WHERE pruned_at IS NULL)")
    });
}

/// The calm after the turmoil, and everything that must hold then.
fn assert_all_is_well(db: &TestDatabase) {
    calm(db);
    let mut session = db.session();
    invariants::every_text_is_right(&mut session);
    prune(&mut session);
    invariants::bookkeeping_is_of_existing_rows(&mut session);
    invariants::every_text_is_right(&mut session);
}

/// A number in an environment variable.
fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")))
}

#[test]
fn random_faults_lose_and_overwrite_no_text() {
    let seed = number("PG_CAPTION_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let minutes: f64 = number("PG_CAPTION_SOAK_MINUTES").unwrap_or(MINUTES);
    println!("soak: {minutes} minutes; PG_CAPTION_SOAK_SEED={seed} repeats the choices");
    let (cluster, hosts) = (TestCluster::private(&SETTINGS), Hosts::start());
    let db = cluster.database();
    tables::create(&db, &hosts);
    let mut faults = turmoil(&db, &hosts, seed, Duration::from_secs_f64(60.0 * minutes), true);
    faults.end(&db, &hosts);
    println!("soak: {}", faults.summary());
    assert_all_is_well(&db);
    println!("soak: {}", invariants::summary(&mut db.session()));
    faults.assert_explained(&cluster);
}

// The checks of this file find what they are for.
#[test]
fn every_kind_of_wrong_text_is_found() {
    let (db, hosts) = (shared_database(), Hosts::start());
    tables::create(&db, &hosts);
    assert_all_is_well(&db);
    let mut session = db.session();
    let row = "id = (SELECT min(g.id) FROM goods g JOIN picture p ON p.url = g.image_url \
               WHERE p.code IS NULL)";
    for wrong in [
        format!("UPDATE goods SET alt = 'another text' WHERE {row}"),
        format!("UPDATE goods SET seo = NULL WHERE {row}"),
        format!("UPDATE goods SET image_url = NULL WHERE {row}"),
        "DELETE FROM caption.failed".into(),
        "UPDATE caption.failed SET code = 'engine_killer'".into(),
        "INSERT INTO violation VALUES ('goods', 'k1', 'a text of a user')".into(),
    ] {
        session.run(&format!("BEGIN; SET LOCAL soak.client = 'on'; {wrong}"));
        let check = AssertUnwindSafe(|| invariants::every_text_is_right(&mut session));
        assert!(std::panic::catch_unwind(check).is_err(), "not found: {wrong}");
        session.run("ROLLBACK");
    }
    session.run(&format!("BEGIN; DELETE FROM goods WHERE {row}"));
    let check = AssertUnwindSafe(|| invariants::bookkeeping_is_of_existing_rows(&mut session));
    assert!(std::panic::catch_unwind(check).is_err());
    session.run("ROLLBACK");
    invariants::every_text_is_right(&mut session);
}

// Some seconds of changes, with restore points in between. What a base backup and the archive
// restore continues like the original.
#[test]
fn any_point_in_time_continues_to_its_end() {
    let cluster = TestCluster::private(&[
        ("archive_mode", "on"),
        ("archive_command", "mkdir -p archive && cp %p archive/%f"),
        ("max_prepared_transactions", "10"),
    ]);
    let hosts = Hosts::start();
    let db = cluster.database();
    tables::create(&db, &hosts);
    let seed = fastrand::u64(..1_000_000);
    println!("the seed is {seed}");
    let points = ["early", "late"];
    let backups = points.map(|_| cluster.backup());
    for (number, point) in points.iter().enumerate() {
        let length = Duration::from_secs(3);
        turmoil(&db, &hosts, seed + 100 * number as u64, length, false);
        // In the middle of the work that the changes have queued.
        db.session().run(&format!("SELECT pg_create_restore_point('{point}')"));
    }
    let mut session = db.session();
    let last = session.text("SELECT pg_walfile_name(pg_switch_wal())");
    eventually("the WAL is archived", || {
        session.holds(&format!("(SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver)"))
    });
    drop(session);
    cluster.stop(StopMode::Immediate);
    for (backup, point) in backups.into_iter().zip(points) {
        let archive = cluster.data().join("archive");
        let settings = [("max_prepared_transactions", "10")];
        let restored = TestCluster::restored(backup, &archive, point, &settings);
        assert_all_is_well(&TestDatabase { cluster: &restored, name: db.name.clone() });
    }
}
