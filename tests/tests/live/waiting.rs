//! `caption.wait` ends or reports why it cannot end; `caption.progress` shows why work is blocked.

use pg_caption_tests::{
    AnswerGate, ServerAnswer, TestCluster, TestServer, TestSession, eventually, shared_database,
};

/// The number of notices that contain `text`.
fn count(notices: &[postgres::error::DbError], text: &str) -> usize {
    notices.iter().filter(|notice| notice.message().contains(text)).count()
}

/// Runs `CALL caption.wait('products')` in a thread. Returns the backend's process id and the
/// thread, which ends with the notices or the error message.
fn waiting(
    mut session: TestSession,
) -> (i64, std::thread::JoinHandle<Result<Vec<String>, String>>) {
    let pid = session.pid();
    session.notices();
    let call = std::thread::spawn(move || {
        session.try_rows("CALL caption.wait('products')").map_err(|error| {
            error.as_db_error().map_or(String::new(), |error| error.message().into())
        })?;
        Ok(session.notices().iter().map(|notice| notice.message().to_string()).collect())
    });
    (pid, call)
}

/// Declares a database whose only row is in flight until the gate is opened, and a session that
/// waits for it.
macro_rules! waiting_call {
    ($db:ident, $web:ident, $gate:ident, $session:ident, $call:ident) => {
        let ($db, $web, $gate) = (shared_database(), TestServer::start(), AnswerGate::new());
        let mut $session =
            $db.products(&[$web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&$gate))]);
        $session.run("SELECT caption.watch('products')");
        eventually("the picture is being fetched", || $gate.waiting() >= 1);
        let (pid, $call) = waiting($db.session());
        $db.eventually(&format!(
            "EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
        ));
    };
}

/// Ends the watch with `sql` and checks that a waiting call reports it.
fn wait_reports_the_end_of_a_watch(sql: &str) {
    waiting_call!(db, web, gate, session, call);
    session.run(sql);
    let notices = call.join().unwrap().expect("no error");
    assert!(
        notices
            .last()
            .is_some_and(|last| last.contains("products") && last.contains("no longer watched")),
        "{notices:?}"
    );
}

#[test]
fn wait_reports_a_dropped_table() {
    wait_reports_the_end_of_a_watch("DROP TABLE products");
}

#[test]
fn wait_reports_an_unwatched_table() {
    wait_reports_the_end_of_a_watch("SELECT caption.unwatch('products')");
}

#[test]
fn wait_reports_a_paused_table() {
    waiting_call!(db, web, gate, session, call);
    session.run("SELECT caption.pause('products')");
    let message = call.join().unwrap().unwrap_err();
    assert!(message.contains("paused"), "{message}");
}

#[test]
fn wait_needs_only_ownership() {
    let (db, web) = (shared_database(), TestServer::start());
    let role = format!("waiter_{}", db.name);
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    session.run(&format!(
        "CREATE ROLE {role} LOGIN; \
         GRANT EXECUTE ON PROCEDURE caption.wait(regclass, interval, boolean) TO {role}"
    ));
    let mut waiter = db.session_as(&role);
    let error = waiter.error("CALL caption.wait('products')");
    session.run(&format!("ALTER TABLE products OWNER TO {role}"));
    waiter.run("CALL caption.wait('products')");
    assert!(count(&waiter.notices(), "1 filled") > 0);
    session.run(&format!("DROP TABLE products; DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.message().contains("owner"), "{error:?}");
}

#[test]
fn wait_goes_on_when_a_stopped_table_recovers() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run("ALTER TABLE products DISABLE TRIGGER USER; UPDATE products SET alt = NULL");
    db.eventually("(SELECT state LIKE '%triggers are disabled%' FROM caption.progress)");
    let mut waiter = db.session();
    let waits = std::thread::spawn(move || {
        waiter.run("CALL caption.wait('products')");
        waiter.notices()
    });
    db.eventually(
        "EXISTS (SELECT FROM pg_stat_activity \
          WHERE query LIKE 'CALL caption.wait%' AND datname = current_database())",
    );
    session.run("ALTER TABLE products ENABLE TRIGGER USER");
    let notices = waits.join().expect("the wait ends without an error");
    assert!(count(&notices, "1 filled") > 0, "{notices:?}");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NULL"), 0);
}

#[test]
fn wait_in_a_transaction_hints_at_commit() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run(
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ \
         BEGIN CALL caption.wait('products'); END $$",
    );
    for block in
        ["BEGIN; UPDATE products SET alt = NULL; CALL caption.wait('products')", "SELECT f()"]
    {
        let error = session.error(block);
        assert_eq!(error.code().code(), "25001", "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("COMMIT")), "{error:?}");
        session.run("ROLLBACK");
    }
    // A DO block may commit.
    session.run("DO $$ BEGIN CALL caption.wait('products'); END $$");
}

#[test]
fn a_wait_timeout_shows_the_progress() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let mut session =
        db.products(&[web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate))]);
    session.run("SELECT caption.watch('products')");
    let error = session.error("CALL caption.wait('products', '10 ms')");
    assert_eq!(error.code().code(), "57014", "{error:?}");
    assert!(error.detail().is_some_and(|detail| detail.contains("1 waiting")), "{error:?}");
}

#[test]
fn a_disabled_queue_is_reported() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.enabled", "off")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    assert_eq!(
        session.text("SELECT state FROM caption.progress"),
        "waiting: pg_caption.enabled is off"
    );
    session.error("CALL caption.wait('products', '10 ms')");
    assert_eq!(count(&session.notices(), "pg_caption.enabled is off"), 1);
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT state FROM caption.progress"), "idle");
}

#[test]
fn the_model_path_is_shown_to_admins_only() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.model", "/nowhere/at/all")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT state LIKE 'waiting: %/nowhere/at/all%' FROM caption.progress)");
    session.run("CREATE ROLE plain; ALTER TABLE products OWNER TO plain; SET ROLE plain");
    let state = session.text("SELECT state FROM caption.progress");
    assert!(state.starts_with("waiting: the engine") && !state.contains("nowhere"), "{state}");
}

#[test]
fn deferred_rows_show_when_they_are_due() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/busy.jpg", ServerAnswer::status(429).header("Retry-After", "600"));
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    // A reload by another test starts the worker for a moment, which then is the state.
    let shows_due = |session: &mut TestSession| {
        db.eventually(
            "(SELECT state LIKE 'waiting: deferred rows are due in % s' FROM caption.progress)",
        );
        session.error("CALL caption.wait('products', '10 ms', deferred => true)");
        count(&session.notices(), "deferred rows are due") == 1
    };
    assert!((0..5).any(|_| shows_due(&mut session)), "a NOTICE says when rows are due");
}

#[test]
fn a_lost_client_ends_its_wait() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let mut session =
        db.products(&[web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate))]);
    session.run("SELECT caption.watch('products')");
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    let mut client = db
        .cluster
        .tool("psql")
        .args(["-d", &db.name, "-c", "CALL caption.wait('products')"])
        .spawn()
        .expect("psql");
    let waits = "EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CALL caption.wait%' \
        AND datname = current_database())";
    db.eventually(waits);
    client.kill().expect("psql");
    client.wait().expect("psql");
    db.eventually(&format!("NOT {waits}"));
}

#[test]
fn wait_ends_with_rows_that_are_due_much_later() {
    let (db, web) = (shared_database(), TestServer::start());
    let busy = ServerAnswer::status(429).header("Retry-After", "600");
    let mut session = db.products_of(&web, 3);
    session.run(&format!(
        "INSERT INTO products (image_url) VALUES ('{}')",
        web.serve("/busy.jpg", busy)
    ));
    session.run("SELECT caption.watch('products')");
    session.notices();
    session.run("CALL caption.wait('products')");
    let notices = session.notices();
    let last = notices.last().expect("a notice");
    assert!(last.detail().is_some_and(|detail| detail.contains("http_429")), "{notices:?}");
    // The whole host rests. What is deferred is work that is left.
    assert!(session.number("SELECT count(*) FROM caption.deferred_row WHERE code LIKE '%'") >= 1);
    assert!(session.holds("(SELECT bar NOT LIKE '%100%' FROM caption.progress)"));
}
