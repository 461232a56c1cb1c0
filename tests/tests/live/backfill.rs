//! `CALL caption.backfill`: fills a table once, by a watch without triggers that ends by itself.

use pg_caption_tests::{
    AnswerGate, ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, eventually,
    shared_database,
};
use std::thread::JoinHandle;

const CALL: &str = "CALL caption.backfill('products', fills => '{\"alt\": \"concise\"}')";

/// The message of the last notice.
fn last_notice(session: &mut TestSession) -> String {
    session.notices().last().map_or_else(String::new, |notice| notice.message().into())
}

/// Runs a call in a session of its own. Returns the text of its error, or of its last notice.
fn spawn(db: &TestDatabase<'_>, call: &str) -> JoinHandle<String> {
    let (mut session, call) = (db.session(), call.to_owned());
    std::thread::spawn(move || match session.try_rows(&call) {
        Ok(_) => last_notice(&mut session),
        Err(error) => error.as_db_error().map_or(error.to_string(), |e| e.message().into()),
    })
}

#[test]
fn a_backfill_fills_a_table_and_ends() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(5);
    urls.push(web.url("/gone.jpg"));
    urls.push(web.serve("/page.jpg", ServerAnswer::body(b"<html>".into(), "text/html")));
    let mut session = db.products(&urls);
    // As Django makes them, with a text that a user wrote.
    session.run(
        "UPDATE products SET alt = ''; \
         ALTER TABLE products ALTER alt SET NOT NULL, ALTER alt SET DEFAULT ''; \
         UPDATE products SET alt = 'Mine' WHERE id = 5",
    );
    session.notices();
    session.run(CALL);
    assert_eq!(
        last_notice(&mut session),
        "backfill of table products is complete: 4 rows filled, 2 failed: 1 with http_410, \
         1 with not_an_image"
    );
    let filled = "SELECT count(*) FROM products WHERE alt NOT IN ('', 'Mine') AND seo IS NULL";
    assert_eq!(session.number(filled), 4);
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 5"), "Mine");
    let failed = "SELECT string_agg(f.key->>'id', ',' ORDER BY f.code) FROM caption.failure f";
    assert_eq!(session.text(failed), "6,7");
    // It leaves no watch, and new rows alone.
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", urls[0]));
    for left in ["watch", "watch_state", "queue", "deferred"] {
        assert_eq!(session.number(&format!("SELECT count(*) FROM caption.{left}")), 0, "{left}");
    }
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'products'::regclass";
    assert_eq!(session.number(triggers), 0);
    // Another one tries only rows without a text.
    let before = web.hits("/1.jpg");
    web.serve("/gone.jpg", ServerAnswer::picture(7));
    session.run("CALL caption.backfill('products', 'image_url', '{\"alt\": \"concise\"}')");
    assert_eq!(
        last_notice(&mut session),
        "backfill of table products is complete: 2 rows filled, 1 failed: 1 with not_an_image"
    );
    assert_eq!((before, web.hits("/1.jpg"), web.hits("/gone.jpg")), (1, 1, 2));
    // The ledger knows its texts: a watch replaces them with the picture.
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')");
    session.run("UPDATE products SET image_url = NULL WHERE id = 1");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 1"), "");
    session.notices();
    session.run(CALL);
    let notices: Vec<_> = session.notices().iter().map(|n| n.message().to_owned()).collect();
    assert!(notices[0].ends_with("is watched: this call waits until the watch has filled it"));
    let error = session.error("CALL caption.backfill('products', fills => '{\"seo\": \"seo\"}')");
    assert_eq!((error.code().code(), session.number(triggers)), ("55000", 2), "{error:?}");
}

#[test]
fn a_backfill_is_refused_where_it_cannot_commit() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run(
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN CALL caption.backfill('products'); END $$",
    );
    for block in ["BEGIN; CALL caption.backfill('products')", "SELECT f()"] {
        let error = session.error(block);
        assert_eq!(error.code().code(), "25001", "{error:?}");
        assert!(error.message().starts_with("caption.backfill cannot run"), "{error:?}");
        session.run("ROLLBACK");
    }
    for (call, code) in [
        ("CALL caption.backfill(NULL)", "22004"),
        ("CALL caption.backfill('products', batch => 0)", "22023"),
        ("CALL caption.backfill('products', 'nothing')", "42703"),
        ("CALL caption.backfill('products', fills => '[]')", "22023"),
        ("CALL caption.backfill('caption.progress')", "42809"),
    ] {
        let error = session.error(call);
        assert_eq!(error.code().code(), code, "{call}: {error:?}");
    }
    assert_eq!(session.number("SELECT count(*) FROM caption.watch"), 0);
    // A role needs the grant, and the rights of the owner.
    let role = format!("filler_{}", db.name);
    session.run(&format!("CREATE ROLE {role} LOGIN"));
    let mut other = db.session_as(&role);
    assert_eq!(other.error(CALL).code().code(), "42501");
    session.run(&format!("SELECT caption.grant_to('{role}', 'editor')"));
    assert!(other.error(CALL).message().starts_with("must be owner of table"));
    session.run(&format!("ALTER TABLE products OWNER TO {role}"));
    other.run(CALL);
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 1);
    drop(other);
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

// Without its caller the worker does not go on.
#[test]
fn a_second_call_continues_an_interrupted_backfill() {
    // An engine of its own: the gated pictures time out after a while, and the call ends.
    let cluster = TestCluster::private(&[]);
    let (db, web, gate) = (cluster.database(), TestServer::start(), AnswerGate::new());
    let urls = web.half_gated_pictures(20, &gate);
    let mut session = db.products(&urls);
    for lost in [false, true] {
        let mut caller = db.session();
        let (canceller, pid) = (caller.canceller(), caller.pid());
        let call = std::thread::spawn(move || caller.try_rows(CALL).map(|_| ()));
        db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 10");
        // Connections of the call before may still wait at the gate.
        eventually("the others are being fetched", || gate.waiting() >= 1);
        db.eventually("(SELECT state NOT LIKE 'paused%' AND in_flight > 0 FROM caption.progress)");
        let error = session.error(CALL);
        assert_eq!(error.code().code(), "55006", "{error:?}");
        if lost {
            session.run(&format!("SELECT pg_terminate_backend({pid})"));
        } else {
            canceller.cancel_query(postgres::NoTls).expect("the server");
        }
        let error = call.join().unwrap().expect_err("the call was interrupted");
        // A terminated session may lose its connection before it reads why.
        match error.code().map(|code| code.code()) {
            None => assert!(lost, "{error}"),
            Some(code) => assert_eq!(code, if lost { "57P01" } else { "57014" }),
        }
        db.eventually("(SELECT state LIKE 'paused%' AND in_flight = 0 FROM caption.progress)");
        assert!(session.error("CALL caption.wait('products')").message().contains("paused"));
    }
    gate.open();
    session.notices();
    session.run(CALL);
    assert_eq!(
        last_notice(&mut session),
        "backfill of table products is complete: 20 rows filled, none failed"
    );
    for n in 0..10 {
        assert_eq!(web.hits(&format!("/{n}.jpg")), 1, "a filled row is not fetched again");
    }
}

#[test]
fn changes_of_the_table_end_a_backfill() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let urls = web.gated_pictures(3, &gate);
    let mut session = db.products(&urls);
    for (change, message) in [
        ("SELECT caption.unwatch('products')", "was ended by another session"),
        ("SELECT caption.pause('products')", "is not being filled: paused"),
        ("ALTER TABLE products DROP alt", "is not being filled: column \"alt\" does not exist"),
        ("DROP TABLE products", "was ended by another session"),
    ] {
        let call = spawn(&db, CALL);
        db.eventually("EXISTS (SELECT FROM caption.progress WHERE in_flight = 3)");
        session.run(change);
        let error = call.join().unwrap();
        assert!(error.contains(message), "{change}: {error}");
        if change.contains("DROP alt") {
            session.run("ALTER TABLE products ADD alt text");
        }
    }
}

// Before the first look at its progress.
#[test]
fn the_early_end_of_a_backfill_is_reported() {
    // Without a worker, which would lock tables, too.
    let cluster = TestCluster::private(&[("pg_caption.enabled", "off")]);
    let db = cluster.database();
    let mut session = db.products(&[]);
    let mut locker = db.session();
    // The progress is computed from this table, which a backfill begins without.
    locker.run("BEGIN; LOCK TABLE caption.ledger IN ACCESS EXCLUSIVE MODE");
    let call = spawn(&db, CALL);
    eventually("the backfill waits for the lock", || {
        session.holds(
            "EXISTS (SELECT FROM pg_locks WHERE NOT granted \
                       AND relation = 'caption.ledger'::regclass)",
        )
    });
    locker.run("DROP TABLE products; COMMIT");
    let error = call.join().unwrap();
    assert!(error.contains("table products was ended by another session"), "{error}");
}

#[test]
fn batch_bounds_the_rows_in_progress() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let urls = web.gated_pictures(12, &gate);
    let mut session = db.products(&urls);
    let call = spawn(&db, "CALL caption.backfill('products', batch => 3)");
    eventually("three pictures are being fetched", || gate.waiting() >= 3);
    db.eventually("(SELECT in_flight = 3 FROM caption.progress)");
    assert_eq!(web.total(), 3);
    gate.open();
    let notice = call.join().unwrap();
    assert!(notice.ends_with("12 rows filled, none failed"), "{notice}");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> '' AND seo <> ''"), 12);
}

#[test]
fn rows_of_a_paused_host_are_waited_for() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    let late = ServerAnswer::status(404);
    let busy = ServerAnswer::status(429).header("Retry-After", "600");
    let other = TestServer::start();
    for url in [web.serve("/late.jpg", late), other.serve("/busy.jpg", busy)] {
        session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    }
    let call = spawn(&db, CALL);
    db.eventually("EXISTS (SELECT FROM caption.deferred WHERE code = 'http_404')");
    web.serve("/late.jpg", ServerAnswer::picture(4));
    let notice = call.join().unwrap();
    assert_eq!(
        notice,
        "backfill of table products is paused: 4 rows filled, 1 tried again later, none failed"
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.deferred_row"), 1);
    // Another call ends with the same row.
    assert_eq!(spawn(&db, CALL).join().unwrap(), notice);
}

#[test]
fn the_condition_of_a_backfill_is_the_owners() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 4);
    session.run(
        "ALTER TABLE products ADD published boolean; UPDATE products SET published = id > 2; \
         CREATE SCHEMA shop; SET search_path = shop, public; \
         CREATE FUNCTION shop.is_shown(boolean) RETURNS boolean IMMUTABLE \
         LANGUAGE sql AS 'SELECT $1'",
    );
    let call = |condition: &str| {
        format!(
            "CALL caption.backfill('products', fills => '{{\"alt\": \"concise\"}}', \
             condition => '{condition}')"
        )
    };
    session.run(&call("is_shown(published)"));
    assert_eq!(
        session.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM products WHERE alt <> ''"),
        "3,4"
    );
    let error = session.error(&call("exists (select 1)"));
    assert!(error.message().starts_with("condition cannot be used"), "{error:?}");
    // A superuser's table runs no code of another role.
    let role = format!("coder_{}", db.name);
    session
        .run(&format!("CREATE ROLE {role}; ALTER FUNCTION shop.is_shown(boolean) OWNER TO {role}"));
    let error = session.error(&call("NOT is_shown(published)"));
    assert!(error.message().contains("the condition of the backfill uses function"), "{error:?}");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 2);
    session.run(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"));
}

#[test]
fn a_backfill_becomes_a_watch() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let urls = web.gated_pictures(2, &gate);
    let mut session = db.products(&urls);
    let call = spawn(&db, CALL);
    eventually("the pictures are being fetched", || gate.waiting() >= 2);
    session.run("SELECT caption.watch('products')");
    gate.open();
    assert_eq!(call.join().unwrap(), "table products is watched now");
    let url = web.serve("/new.jpg", ServerAnswer::picture(5));
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    db.eventually(pg_caption_tests::FILLED);
}

#[test]
fn a_crash_pauses_a_backfill() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let urls = web.half_gated_pictures(8, &gate);
    drop(db.products(&urls));
    let call = spawn(&db, CALL);
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 4");
    cluster.restart(pg_caption_tests::StopMode::Immediate);
    call.join().unwrap();
    db.eventually("(SELECT state LIKE 'paused%' FROM caption.progress)");
    gate.open();
    let mut session = db.session();
    session.run(CALL);
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 8);
}
