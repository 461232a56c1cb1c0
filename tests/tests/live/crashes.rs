//! Repeated crashes while a queue is processed: at the end every row is filled exactly once.

use pg_caption_tests::{
    FILLED, Signal, TestCluster, TestDatabase, TestServer, TestSession, alive, eventually, signal,
};

/// A watched table of `count` rows that records every write of a fill.
fn watched<'a>(cluster: &'a TestCluster, web: &TestServer, count: usize) -> TestDatabase<'a> {
    let db = cluster.database();
    let urls = web.pictures(10);
    let mut session = db.products(&[]);
    session.run(
        "CREATE TABLE writes (id int, alt text, seo text);
         CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.writes VALUES (NEW.id, NEW.alt, NEW.seo); RETURN NULL; END $$;
         CREATE TRIGGER count_write AFTER UPDATE ON products FOR EACH ROW \
         EXECUTE FUNCTION count_write()",
    );
    let list = urls.join("', '");
    session.run(&format!(
        "INSERT INTO products (image_url) SELECT (ARRAY['{list}'])[1 + n % 10] \
         FROM generate_series(1, {count}) n"
    ));
    session.run("SELECT caption.watch('products')");
    db
}

/// Waits until that many rows are filled; the connection may be lost meanwhile.
fn some_are_filled(db: &TestDatabase, count: i64) {
    eventually("some rows are filled", || {
        let Ok(mut session) = TestSession::open(&db.cluster.config(&db.name)) else { return false };
        let filled = session.try_rows("SELECT count(*) FROM products WHERE alt <> ''");
        filled
            .ok()
            .and_then(|rows| rows[0][0].clone())
            .is_some_and(|filled| filled.parse::<i64>().is_ok_and(|filled| filled >= count))
    });
}

/// Waits for the queue and checks that every row was written once and none failed.
fn assert_written_once(db: &TestDatabase) {
    let mut session = db.session();
    // Without a time limit.
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
    assert_eq!(
        session.number("SELECT max(n) FROM (SELECT count(*) AS n FROM writes GROUP BY id) w"),
        1,
        "written once"
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    assert_eq!(
        session.number("SELECT count(*) FROM caption.queue")
            + session.number("SELECT count(*) FROM caption.deferred"),
        0
    );
}

#[test]
fn repeated_engine_kills_lose_no_row() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = watched(&cluster, &web, 2000);
    let mut session = db.session();
    for round in 1..=3 {
        some_are_filled(&db, round * 100);
        let engine = session.number("SELECT pid FROM caption.engine_status()");
        if engine > 0 {
            signal(engine, Signal::KILL);
        }
    }
    assert_written_once(&db);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn repeated_worker_ends_lose_no_row() {
    let (cluster, web) = (TestCluster::subreaper(&[]), TestServer::start());
    let db = watched(&cluster, &web, 200);
    let mut session = db.session();
    for round in 1..=3 {
        some_are_filled(&db, round * 30);
        session.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE backend_type = 'pg_caption worker'",
        );
    }
    assert_written_once(&db);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

/// Crashes a background worker: PostgreSQL ends all sessions and performs recovery. After it the
/// queue is processed to the end.
fn the_server_recovers_from_a_crash_of(process: &str) {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = watched(&cluster, &web, 200);
    some_are_filled(&db, 30);
    let engine = db.session().number("SELECT pid FROM caption.engine_status()");
    let pid = cluster.process(process).expect("a running process");
    signal(pid, Signal::SEGV);
    eventually("the server notices the crash", || {
        cluster.log().contains("all server processes terminated; reinitializing")
    });
    eventually("the server accepts connections again", || {
        TestSession::open(&cluster.config(&db.name)).is_ok()
    });
    // The crashed worker may have been writing a row, which is then left to its owner.
    let killed = "SELECT count(*) FROM caption.failure WHERE code <> 'write_killed'";
    db.session().run("CALL caption.wait('products')");
    assert_eq!(db.session().number(killed), 0);
    db.session().run("SELECT caption.retry('products')");
    assert_written_once(&db);
    assert!(!alive(engine as u32), "the old engine has ended");
}

#[test]
fn a_worker_crash_loses_no_row() {
    the_server_recovers_from_a_crash_of("pg_caption worker");
}

#[test]
fn a_launcher_crash_loses_no_row() {
    the_server_recovers_from_a_crash_of("pg_caption launcher");
}
