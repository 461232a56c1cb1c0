//! A server at its limits: work waits, the reason is reported, and the work continues later.

use pg_caption_tests::{FILLED, StopMode, TestCluster, TestServer, TestSession, eventually};

#[test]
fn a_full_worker_pool_is_logged_once() {
    // Two slots: PostgreSQL's logical replication launcher and the extension's launcher take them.
    let (cluster, web) =
        (TestCluster::private(&[("max_worker_processes", "2")]), TestServer::start());
    let db = cluster.database();
    db.products_of(&web, 3).run("SELECT caption.watch('products')");
    let logged = || cluster.log().matches("no background worker slot is free").count();
    eventually("the log names the reason", || logged() > 0);
    assert!(cluster.log().contains("raise max_worker_processes"));
    // A direct call needs no worker.
    assert!(
        !db.session().text(&format!("SELECT caption_image('{}')", web.url("/0.jpg"))).is_empty()
    );
    assert_eq!(logged(), 1);
    cluster.set("max_worker_processes", "8");
    cluster.restart(StopMode::Fast);
    db.eventually(FILLED);
}

#[test]
fn workers_need_no_connection_slot() {
    let (cluster, web) = (
        TestCluster::private(&[("max_connections", "6"), ("superuser_reserved_connections", "0")]),
        TestServer::start(),
    );
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    let mut others: Vec<_> = Vec::new();
    eventually("the server is full", || match TestSession::open(&cluster.config("postgres")) {
        Ok(session) => {
            others.push(session);
            false
        }
        Err(error) => error.as_db_error().is_some_and(|error| error.code().code() == "53300"),
    });
    session.run("SELECT caption.watch('products')");
    eventually("every row is filled", || session.holds(FILLED));
    drop(others);
    eventually("the server accepts connections again", || {
        TestSession::open(&cluster.config("postgres")).is_ok()
    });
}

/// Starts with a missing file of the engine; the rows are filled after a reload with `correct`.
fn waits_for(setting: &str, missing: &str, correct: &str) {
    let (cluster, web) = (TestCluster::private(&[(setting, missing)]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run("SELECT caption.watch('products')");
    eventually("the log names the file", || cluster.log().contains(missing));
    session.run("SET pg_caption.timeout = '1s'");
    let error = session.error(&format!("SELECT caption_image('{}')", web.url("/0.jpg")));
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NOT NULL"), 0);
    cluster.set(setting, correct);
    cluster.reload();
    db.eventually(FILLED);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0, "no attempt was charged");
}

#[test]
fn a_missing_library_delays_the_queue() {
    waits_for("pg_caption.onnxruntime", "/nowhere/libonnxruntime.so", "");
}

#[test]
fn a_missing_engine_delays_the_queue() {
    waits_for("pg_caption.engine", "/nowhere/pg_caption_engine", "");
}
