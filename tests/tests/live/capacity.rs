//! A server at its limits: work waits, the reason is reported, and the work continues later.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, StopMode, TestCluster, TestServer, TestSession, eventually,
};
use pg_caption_wire::frame::encode_head;
use pg_caption_wire::{ClientMessage, ClientRole, PROTOCOL};
use std::io::Write;
use std::os::unix::net::UnixStream;

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

/// A client of the engine whose request waits for a picture.
fn busy_client(cluster: &TestCluster, url: &str) -> UnixStream {
    let hello = ClientMessage::Hello {
        version: PROTOCOL,
        release: env!("CARGO_PKG_VERSION").into(),
        role: ClientRole::Call,
    };
    let style = pg_caption_style::builtin("concise").unwrap();
    let request = serde_json::from_value(serde_json::json!({
        "id": 1,
        "image": {"from": "url", "url": url},
        "outputs": [{"style": style, "max_tokens": 64}],
        "remaining_ms": 600_000,
    }));
    let mut stream =
        UnixStream::connect(cluster.data().join("pg_stat_tmp/pg_caption.sock")).unwrap();
    for message in [hello, ClientMessage::Request(request.unwrap())] {
        stream.write_all(&encode_head(&message, 0).unwrap()).unwrap();
    }
    stream
}

// Of 520 sessions that called at the same time, 32 failed immediately.
#[test]
fn a_call_waits_for_a_free_connection() {
    let cluster = TestCluster::private(&[]);
    let (slow, quick) = (TestServer::start(), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    let gate = AnswerGate::new();
    slow.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    quick.serve("/quick.jpg", ServerAnswer::picture(1));
    let connections = "SELECT connections FROM caption.engine_status()";
    session.text("SELECT caption.engine_status()");
    // More than there are places for calls: those without one are refused.
    let clients: Vec<_> = (0..500).map(|_| busy_client(&cluster, &slow.url("/slow.jpg"))).collect();
    let call = format!("SELECT caption_image('{}')", quick.url("/quick.jpg"));
    session.run("SET pg_caption.timeout = '1s'");
    eventually("all places are taken", || match session.try_rows(&call) {
        Ok(_) => false,
        Err(error) => error
            .as_db_error()
            .is_some_and(|error| error.message() == "the caption engine has no free connection"),
    });
    session.run("SET pg_caption.timeout = '60s'");
    let caption = std::thread::scope(|threads| {
        let waiting = threads.spawn(|| session.text(&call));
        // The call has been refused at least once by then.
        std::thread::sleep(std::time::Duration::from_millis(600));
        assert!(!waiting.is_finished());
        drop(clients);
        waiting.join().unwrap()
    });
    assert!(!caption.is_empty());
    assert!(session.number(connections) < 480);
    gate.open();
}
