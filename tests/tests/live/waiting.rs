//! `caption.wait` always ends or says why it does not, and `caption.progress` says why nothing
//! moves.

use pg_caption_tests::{Answer, Cluster, Gate, Session, Web, eventually};

/// The notices so far that hold a word.
fn said(notices: &[postgres::error::DbError], word: &str) -> usize {
    notices.iter().filter(|notice| notice.message().contains(word)).count()
}

/// A session that runs `CALL caption.wait('products')` in a thread, and its process id. Ends with
/// its notices, or the error.
fn waiting(mut session: Session) -> (i64, std::thread::JoinHandle<Result<Vec<String>, String>>) {
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

/// A database whose only row is being fetched and stays so until the gate is opened, with somebody
/// waiting for it.
macro_rules! held_up {
    ($db:ident, $web:ident, $gate:ident, $session:ident, $call:ident) => {
        let ($db, $web, $gate) = (Cluster::shared().database(), Web::start(), Gate::new());
        let mut $session =
            $db.products(&[$web.serve("/slow.jpg", Answer::picture(0).behind(&$gate))]);
        $session.run("SELECT caption.watch('products')");
        eventually("the picture is being fetched", || $gate.waiting() >= 1);
        let (pid, $call) = waiting($db.session());
        $db.eventually(&format!(
            "EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep')"
        ));
    };
}

#[test]
fn wait_reports_a_dropped_table() {
    held_up!(db, web, gate, session, call);
    session.run("DROP TABLE products");
    let notices = call.join().unwrap().expect("no error");
    assert!(
        notices
            .last()
            .is_some_and(|last| last.contains("products") && last.contains("not watched any more")),
        "{notices:?}"
    );
}

#[test]
fn wait_reports_an_unwatched_table() {
    held_up!(db, web, gate, session, call);
    session.run("SELECT caption.unwatch('products')");
    let notices = call.join().unwrap().expect("no error");
    assert!(
        notices
            .last()
            .is_some_and(|last| last.contains("products") && last.contains("not watched any more")),
        "{notices:?}"
    );
}

#[test]
fn wait_reports_a_paused_table() {
    held_up!(db, web, gate, session, call);
    session.run("SELECT caption.pause('products')");
    let message = call.join().unwrap().unwrap_err();
    assert!(message.contains("paused"), "{message}");
}

#[test]
fn wait_needs_only_ownership() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let role = format!("waiter_{}", db.name);
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    session.run(&format!(
        "CREATE ROLE {role} LOGIN; \
         GRANT EXECUTE ON PROCEDURE caption.wait(regclass, interval) TO {role}"
    ));
    let mut waiter = db.session_as(&role);
    let error = waiter.error("CALL caption.wait('products')");
    session.run(&format!("ALTER TABLE products OWNER TO {role}"));
    waiter.run("CALL caption.wait('products')");
    assert!(said(&waiter.notices(), "1 filled") > 0);
    session.run(&format!("DROP TABLE products; DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.message().contains("owner"), "{error:?}");
}

#[test]
fn wait_in_a_transaction_hints_at_commit() {
    let (db, web) = (Cluster::shared().database(), Web::start());
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
    // Where it may commit, it works.
    session.run("DO $$ BEGIN CALL caption.wait('products'); END $$");
}

#[test]
fn a_wait_timeout_shows_the_progress() {
    let (db, web, gate) = (Cluster::shared().database(), Web::start(), Gate::new());
    let mut session = db.products(&[web.serve("/slow.jpg", Answer::picture(0).behind(&gate))]);
    session.run("SELECT caption.watch('products')");
    let error = session.error("CALL caption.wait('products', '10 ms')");
    assert_eq!(error.code().code(), "57014", "{error:?}");
    assert!(error.detail().is_some_and(|detail| detail.contains("1 waiting")), "{error:?}");
}

#[test]
fn a_disabled_queue_is_reported() {
    let (cluster, web) = (Cluster::private(&[("pg_caption.enabled", "off")]), Web::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    assert_eq!(
        session.text("SELECT state FROM caption.progress"),
        "waiting: pg_caption.enabled is off"
    );
    session.error("CALL caption.wait('products', '10 ms')");
    assert_eq!(said(&session.notices(), "pg_caption.enabled is off"), 1);
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT state FROM caption.progress"), "idle");
}

#[test]
fn the_model_path_is_shown_to_admins_only() {
    let (cluster, web) =
        (Cluster::private(&[("pg_caption.model", "/nowhere/at/all")]), Web::start());
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
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/busy.jpg", Answer::status(429).header("Retry-After", "600"));
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "(SELECT state LIKE 'waiting: deferred rows are due in % s' FROM caption.progress)",
    );
    session.error("CALL caption.wait('products', '10 ms')");
    assert_eq!(said(&session.notices(), "deferred rows are due"), 1);
}

#[test]
fn a_lost_client_ends_its_wait() {
    let (db, web, gate) = (Cluster::shared().database(), Web::start(), Gate::new());
    let mut session = db.products(&[web.serve("/slow.jpg", Answer::picture(0).behind(&gate))]);
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
