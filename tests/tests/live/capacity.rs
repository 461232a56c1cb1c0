//! A server that is full: what cannot be done now waits, says why, and is done when there is room.

use pg_caption_tests::{Cluster, Web, eventually};

const FILLED: &str =
    "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

#[test]
fn a_full_worker_pool_is_logged_once() {
    // One slot is PostgreSQL's own logical replication launcher's, the other one ours.
    let (cluster, web) = (Cluster::private(&[("max_worker_processes", "2")]), Web::start());
    let db = cluster.database();
    db.products_of(&web, 3).run("SELECT caption.watch('products')");
    let told = || cluster.log().matches("no background worker slot is free").count();
    eventually("the log says why", || told() > 0);
    assert!(cluster.log().contains("Raise max_worker_processes"));
    // A caption for somebody who waits needs no worker.
    assert!(
        !db.session().text(&format!("SELECT caption_image('{}')", web.url("/0.jpg"))).is_empty()
    );
    assert_eq!(told(), 1);
    cluster.set("max_worker_processes", "8");
    cluster.restart(pg_caption_tests::Stop::Fast);
    db.eventually(FILLED);
}

#[test]
fn workers_need_no_connection_slot() {
    let (cluster, web) = (
        Cluster::private(&[("max_connections", "6"), ("superuser_reserved_connections", "0")]),
        Web::start(),
    );
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    let mut others: Vec<_> = Vec::new();
    eventually("the server is full", || {
        match pg_caption_tests::Session::open(&cluster.config("postgres")) {
            Ok(session) => {
                others.push(session);
                false
            }
            Err(error) => error.as_db_error().is_some_and(|error| error.code().code() == "53300"),
        }
    });
    session.run("SELECT caption.watch('products')");
    eventually("every row is filled", || session.holds(FILLED));
    drop(others);
    eventually("people are let in again", || {
        pg_caption_tests::Session::open(&cluster.config("postgres")).is_ok()
    });
}

/// A file of the engine's is missing at start, and supplied later.
fn waits_for(setting: &str, missing: &str, there: &str) {
    let (cluster, web) = (Cluster::private(&[(setting, missing)]), Web::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run("SELECT caption.watch('products')");
    eventually("the log names it", || cluster.log().contains(missing));
    session.run("SET pg_caption.timeout = '1s'");
    let error = session.error(&format!("SELECT caption_image('{}')", web.url("/0.jpg")));
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NOT NULL"), 0);
    cluster.set(setting, there);
    cluster.reload();
    db.eventually(FILLED);
    assert_eq!(
        session.number("SELECT count(*) FROM caption.failure"),
        0,
        "nothing was charged to the rows"
    );
}

#[test]
fn a_missing_library_delays_the_queue() {
    waits_for("pg_caption.onnxruntime", "/nowhere/libonnxruntime.so", "");
}

#[test]
fn a_missing_engine_delays_the_queue() {
    waits_for("pg_caption.engine", "/nowhere/pg_caption_engine", "");
}
