//! Resources over time: bookkeeping stays bounded for large tables; an idle server does no work.

use pg_caption_tests::{ServerAnswer, TestCluster, TestServer, eventually, shared_database};

/// Nearly all rows have a text already: the test measures the queue, not the engine.
const ROWS: i64 = 30_000;

#[test]
fn the_queue_of_a_large_table_stays_small() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    // Most rows have a user's text; a few are empty.
    let url = web.serve("/0.jpg", ServerAnswer::picture(0));
    session.run(&format!(
        "INSERT INTO products (image_url, alt) SELECT '{url}', CASE WHEN n % 3000 = 0 THEN NULL \
         ELSE 'by hand' END FROM generate_series(1, {ROWS}) n"
    ));
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')");
    // The backfill adds nothing to the queue.
    let mut most = 0;
    eventually("the backfill is done", || {
        most = most.max(session.number("SELECT count(*) FROM caption.queue"));
        session.holds("caption.is_idle('products')")
    });
    assert_eq!(most, 0, "queue rows during the backfill");
    assert_eq!(session.number("SELECT backfilled FROM caption.watch_state"), ROWS);
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NULL"), 0);
    // A statement that changes many rows appends few entries.
    session.run("SELECT caption.pause('products')");
    session.run("UPDATE products SET alt = NULL WHERE id <= 10000");
    assert_eq!(session.number("SELECT sum(n) FROM caption.queue"), 10_000);
    assert_eq!(session.number("SELECT count(*) FROM caption.queue"), 50, "200 keys per entry");
    session.run("UPDATE products SET alt = 'by hand' WHERE id <= 10000");
    session.run("SELECT caption.resume('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM caption.queue"), 0);
    // After a vacuum its pages are reused: the queue does not grow with the number of processed
    // rows.
    session.run("VACUUM caption.queue");
    let after_one = session.number("SELECT pg_total_relation_size('caption.queue')");
    for _ in 0..4 {
        session.run("SELECT caption.pause('products')");
        session.run("UPDATE products SET alt = NULL WHERE id <= 10000");
        session.run("UPDATE products SET alt = 'by hand' WHERE id <= 10000");
        session.run("SELECT caption.resume('products')");
        session.run("CALL caption.wait('products')");
        session.run("VACUUM caption.queue");
    }
    let after_five = session.number("SELECT pg_total_relation_size('caption.queue')");
    assert!(
        after_five <= 2 * after_one,
        "{after_one} bytes after one round, {after_five} after five"
    );
}

/// The number of voluntary context switches of a process: how often it woke up and went back to
/// sleep.
fn sleeps(pid: i64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line =
        status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:")).expect("a count");
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn an_idle_server_does_no_work() {
    // Turns off PostgreSQL's own periodic writes.
    let cluster = TestCluster::private(&[
        ("autovacuum", "off"),
        ("checkpoint_timeout", "1d"),
        ("bgwriter_lru_maxpages", "0"),
    ]);
    let (db, web) = (cluster.database(), TestServer::start());
    db.products_of(&web, 2).run("SELECT caption.watch('products')");
    db.eventually("NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '')");
    let launcher = cluster.process("pg_caption launcher").expect("a launcher");
    let engine = db.session().number("SELECT pid FROM caption.engine_status()");
    eventually("the worker ends", || cluster.process("pg_caption worker").is_none());
    // A few readings may differ: PostgreSQL writes a snapshot of running transactions up to 15 s
    // after the last write.
    let (mut session, mut quiet) = (cluster.session("postgres"), 0);
    let mut before = (0, 0, String::new());
    eventually("ten equal readings follow each other", || {
        session.run("SELECT pg_sleep(0.5)");
        let now =
            (sleeps(launcher), sleeps(engine), session.text("SELECT pg_current_wal_insert_lsn()"));
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        quiet == 10
    });
}

#[test]
fn a_paused_queue_is_not_read_for_others() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run(
        "CREATE TABLE paused (LIKE products INCLUDING ALL); \
         SELECT caption.watch('paused'); \
         SELECT caption.watch('products'); \
         SELECT caption.pause('paused')",
    );
    session.run(
        "INSERT INTO caption.queue (relation, keys, n) SELECT 'paused'::regclass, '[[\"1\"]]', 1 \
         FROM generate_series(1, 50000)",
    );
    for n in 2..=20 {
        session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg")));
        db.eventually(&format!("(SELECT count(alt) = {n} FROM products)"));
    }
    // A worker flushes its statistics when it ends.
    session.run(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity \
         WHERE datname = current_database() AND backend_type = 'pg_caption worker'",
    );
    let read = session.number(
        "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read FROM pg_stat_user_tables \
         WHERE relid = 'caption.queue'::regclass",
    );
    assert!(read < 10_000, "{read} rows of the queue were read for 20 rows");
}

// The commits of a worker do not wait for a standby: DROP DATABASE and a shutdown would wait, too.
#[test]
fn a_missing_standby_does_not_stop_the_worker() {
    let cluster = TestCluster::private(&[("synchronous_standby_names", "nowhere")]);
    let mut admin = cluster.session("postgres");
    admin.run("SET synchronous_commit = local");
    admin.run("CREATE DATABASE shop");
    admin.run("CREATE DATABASE other");
    let mut session = cluster.session("shop");
    session.run("SET synchronous_commit = local; CREATE EXTENSION pg_caption");
    let web = TestServer::start();
    session.run("CREATE TABLE t (id int PRIMARY KEY, image_url text, alt text, seo text)");
    session.run(&format!("INSERT INTO t VALUES (1, '{}')", web.pictures(1)[0]));
    session.run("SELECT caption.watch('t')");
    eventually("the row is filled", || session.holds("(SELECT alt <> '' FROM t)"));
    admin.run("DROP DATABASE other");
}
