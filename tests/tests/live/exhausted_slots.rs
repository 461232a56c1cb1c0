//! Connections and processes run out while rows wait: no crash, a reason that users see, and the
//! work continues by itself.

use pg_caption_tests::{
    AnswerGate, FILLED, Signal, TestCluster, TestDatabase, TestServer, TestSession, eventually,
    signal,
};

/// Opens connections until the server refuses more.
fn fill_up(cluster: &TestCluster) -> Vec<TestSession> {
    let mut sessions = Vec::new();
    eventually("the server is full", || match TestSession::open(&cluster.config("postgres")) {
        Ok(session) => {
            sessions.push(session);
            false
        }
        Err(error) => error.as_db_error().is_some_and(|error| error.code().code() == "53300"),
    });
    sessions
}

#[track_caller]
fn assert_no_crash(cluster: &TestCluster) {
    let log = cluster.log();
    for crash in ["PANIC", "terminating any other active server processes"] {
        assert!(!log.contains(crash), "{}", cluster.log_tail(crash));
    }
}

#[test]
fn a_full_server_replaces_its_processes() {
    let (web, gate) = (TestServer::start(), AnswerGate::new());
    let cluster =
        TestCluster::private(&[("max_connections", "6"), ("superuser_reserved_connections", "0")]);
    let db = cluster.database();
    let mut session = db.products(&web.half_gated_pictures(12, &gate));
    session.run("SELECT caption.watch('products')");
    eventually("rows are in flight", || gate.waiting() > 0);
    let others = fill_up(&cluster);
    for process in ["pg_caption worker", "pg_caption launcher"] {
        let pid = "SELECT pid FROM pg_stat_activity WHERE backend_type";
        let before = session.number(&format!("{pid} = '{process}'"));
        session.run(&format!("SELECT pg_terminate_backend({before})"));
        eventually("it is replaced", || {
            session.holds(&format!("EXISTS ({pid} = '{process}' AND pid <> {before})"))
        });
    }
    eventually("an engine serves", || {
        session.holds("(SELECT state = 'ready' FROM caption.engine_status())")
    });
    signal(session.number("SELECT pid FROM caption.engine_status()"), Signal::KILL);
    gate.open();
    eventually("every row is filled", || session.holds(FILLED));
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    drop(others);
    eventually("connections are accepted again", || {
        TestSession::open(&cluster.config("postgres")).is_ok()
    });
    assert_no_crash(&cluster);
}

#[test]
fn connection_limits_do_not_bind_a_worker() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.enabled", "off")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run(&format!(
        "CREATE ROLE keeper CONNECTION LIMIT 0; ALTER TABLE products OWNER TO keeper; \
         SELECT caption.watch('products'); \
         ALTER DATABASE {} CONNECTION LIMIT 0",
        db.name
    ));
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    eventually("every row is filled", || session.holds(FILLED));
}

/// Occupies a slot of `max_worker_processes` until the returned query is cancelled.
fn occupy(db: &TestDatabase) -> (std::thread::JoinHandle<()>, postgres::CancelToken) {
    let mut session = db.session();
    let setting = match session.major() {
        15 => "force_parallel_mode",
        _ => "debug_parallel_query",
    };
    session.run(&format!("SET {setting} = on; SET application_name = 'occupies a slot'"));
    let canceller = session.canceller();
    let thread = std::thread::spawn(move || drop(session.try_rows("SELECT pg_sleep(600)")));
    (thread, canceller)
}

#[test]
fn a_freed_process_slot_continues_the_queue() {
    // PostgreSQL's logical replication launcher, the extension's launcher, and one more.
    let (cluster, web) =
        (TestCluster::private(&[("max_worker_processes", "3")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    db.eventually(
        "NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_caption worker')",
    );
    let (query, canceller) = occupy(&db);
    eventually("the only slot is taken", || {
        session
            .holds("EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'parallel worker')")
    });
    let url = web.url("/0.jpg");
    session.run(&format!(
        "INSERT INTO products (image_url) SELECT '{url}' FROM generate_series(1, 9)"
    ));
    eventually("the reason is shown", || {
        session.holds(
            "(SELECT state LIKE 'waiting: no background worker slot is free%' \
             FROM caption.progress)",
        )
    });
    // A call needs no worker.
    assert!(!session.text(&format!("SELECT caption_image('{url}')")).is_empty());
    canceller.cancel_query(postgres::NoTls).expect("the query is cancelled");
    query.join().expect("the session ends");
    eventually("every row is filled", || session.holds(FILLED));
    assert_no_crash(&cluster);
}
