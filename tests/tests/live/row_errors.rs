//! Errors from a table's triggers, keys and checks: they cost one row, never other rows.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, TestCluster, TestServer, eventually, shared_database,
};

/// SQL for a BEFORE UPDATE trigger on `products` that runs the statement for row 2.
fn trigger(statement: &str) -> String {
    format!(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 2 \
         THEN {statement}; END IF; RETURN NEW; END $$;
         CREATE TRIGGER spoil BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION spoil()"
    )
}

#[test]
fn a_trigger_cancel_costs_only_its_row() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.max_attempts", "1")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run(
        "CREATE TABLE other (LIKE products INCLUDING ALL); \
         INSERT INTO other (image_url) SELECT image_url FROM products",
    );
    session.run(&trigger("RAISE 'not now' USING ERRCODE = 'query_canceled'"));
    session.run("SELECT caption.watch('products'), caption.watch('other')");
    db.eventually(
        "NOT EXISTS (SELECT FROM other WHERE alt IS NULL) AND (SELECT count(*) FROM products \
         WHERE alt <> '') = 2",
    );
    db.eventually(
        "EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused' AND key = '{\"id\": 2}' \
         AND message LIKE '%not now%')",
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 1);
    assert!(
        !cluster.log().contains("background worker \"pg_caption worker\" (PID"),
        "no worker ended with an error: {}",
        cluster.log()
    );
}

#[test]
fn an_endless_trigger_is_cancelled() {
    let cluster = TestCluster::private(&[
        ("pg_caption.max_attempts", "1"),
        ("pg_caption.write_timeout", "300ms"),
    ]);
    let (db, web) = (cluster.database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run(&trigger("PERFORM pg_sleep(3600)"));
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 2");
    db.eventually(
        "EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused' AND key = '{\"id\": 2}' \
         AND message LIKE '%statement timeout%')",
    );
    // The time limit applies to one statement: later statements are not cancelled.
    session.run("DROP TRIGGER spoil ON products; SELECT caption.retry('products')");
    db.eventually(FILLED);
}

#[test]
fn an_uncancellable_trigger_ends_the_worker() {
    let cluster = TestCluster::private(&[("pg_caption.write_timeout", "300ms")]);
    let (db, web) = (cluster.database(), TestServer::start());
    let mut session = db.products_of(&web, 6);
    let stubborn = trigger(
        "LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP",
    );
    session.run(&stubborn.replace("NEW.id = 2", "NEW.id IN (2, 3, 5)"));
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "(SELECT count(*) FROM products WHERE alt <> '') = 3 AND (SELECT backfill_done \
         FROM caption.watch_state)",
    );
    let failures = "SELECT string_agg(key::text || code, ' ' ORDER BY key) FROM caption.failure \
        WHERE message LIKE '%continued after it was cancelled%'";
    assert_eq!(
        session.text(failures),
        r#"{"id": 2}write_endless {"id": 3}write_endless {"id": 5}write_endless"#
    );
    let message = "continued after it was cancelled; ending the worker";
    let ended = cluster.log().matches(message).count();
    assert_eq!(ended, 3, "{}", cluster.log_tail("worker"));
    // The rows are processed again after a retry.
    session.run("DROP TRIGGER spoil ON products; SELECT caption.retry('products')");
    db.eventually(FILLED);
}

// The worker's own statements find their row by key, whatever the statistics. The planner settings
// for that must not apply to queries in triggers.
#[test]
fn triggers_are_planned_as_in_any_session() {
    let cluster = TestCluster::private(&[
        ("pg_caption.max_attempts", "1"),
        ("pg_caption.enabled", "off"),
        ("pg_caption.write_timeout", "20s"),
    ]);
    let (db, web) = (cluster.database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    const SEEN: &str = "SELECT string_agg(name || ' ' || setting, ' ' ORDER BY name) \
        FROM pg_catalog.pg_settings WHERE name ~ '^(enable_|jit$|plan_cache)'";
    // Without an index a nested loop over both takes minutes, a hash join some 30 ms.
    session.run(&format!(
        "CREATE TABLE a AS SELECT n FROM generate_series(1, 30000) n; \
         CREATE TABLE b AS TABLE a; \
         ANALYZE a, b;
         CREATE TABLE seen (settings text, scans bigint);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM count(*) FROM public.a x JOIN public.b y ON x.n = y.n;
             INSERT INTO public.seen VALUES (({SEEN}), (SELECT x.seq_scan \
             FROM pg_catalog.pg_stat_xact_user_tables x WHERE x.relname = 'products'));
             RETURN NULL; END $$;
         CREATE TRIGGER look AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION look();
         SELECT caption.watch('products'); ALTER DATABASE {} SET enable_mergejoin = off",
        db.name
    ));
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    eventually("every row is filled or failed", || {
        session.holds(&format!("{FILLED} OR EXISTS (SELECT FROM caption.failure)"))
    });
    assert_eq!(session.rows("SELECT message FROM caption.failure"), Vec::<Vec<_>>::new());
    let ordinary = db.session().text(SEEN);
    assert!(
        ordinary.contains("enable_mergejoin off") && ordinary.contains("enable_hashjoin on"),
        "{ordinary}"
    );
    assert_eq!(
        session.rows("SELECT DISTINCT settings, scans FROM seen"),
        [[Some(ordinary), Some("0".into())]]
    );
}

#[test]
fn a_trigger_lock_charges_no_attempt() {
    let cluster =
        TestCluster::private(&[("pg_caption.max_attempts", "1"), ("deadlock_timeout", "400ms")]);
    let (db, web) = (cluster.database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run("CREATE TABLE counter AS SELECT 1 AS id, 0 AS n");
    session.run(&trigger(
        "RAISE LOG 'lock_timeout is %', current_setting('lock_timeout'); \
         UPDATE public.counter SET n = n + 1",
    ));
    let mut holder = db.session();
    holder.run("BEGIN; UPDATE counter SET n = 0");
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "(SELECT count(*) FROM products WHERE alt <> '') = 2 AND EXISTS (SELECT \
         FROM caption.deferred UNION ALL SELECT FROM caption.failed)",
    );
    let deferred = "SELECT key::text, code, attempts FROM caption.deferred";
    assert_eq!(
        session.rows(deferred),
        [[Some("[\"2\"]".into()), Some("row_locked".into()), Some("0".into())]]
    );
    assert!(session.holds("(SELECT backfill_done FROM caption.watch_state)"), "backfill continues");
    // The worker's wait is shorter than deadlock_timeout, so that no other session is the victim of
    // a deadlock. It gets shorter with each attempt.
    eventually("an attempt waits 100 ms", || cluster.log().contains("lock_timeout is 100ms"));
    let log = cluster.log();
    let first = log.lines().find_map(|line| line.split_once("lock_timeout is "));
    assert_eq!(first.map(|(_, time)| time), Some("200ms"));
    holder.run("COMMIT");
    db.eventually(FILLED);
    assert_eq!(web.hits("/1.jpg"), 1, "the caption was kept");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn a_slow_trigger_locks_few_rows() {
    let (db, web) = (shared_database(), TestServer::start());
    let gate = AnswerGate::new();
    let urls = web.gated_pictures(30, &gate);
    let mut session = db.products(&urls);
    session.run(
        "CREATE TABLE written (at xid8);
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN PERFORM pg_sleep(0.15); INSERT INTO public.written VALUES (pg_current_xact_id()); \
         RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION slow();
         SELECT caption.watch('products')",
    );
    gate.open();
    db.eventually(FILLED);
    let most =
        session.number("SELECT max(n) FROM (SELECT count(*) AS n FROM written GROUP BY at) x");
    assert!(most <= 2, "{most} rows in one transaction");
}

#[test]
fn an_unresolved_name_is_explained() {
    for unqualified in ["INSERT INTO stock VALUES (1)", "PERFORM restock()", "PERFORM NULL::amount"]
    {
        let (db, web) = (shared_database(), TestServer::start());
        let mut session = db.products_of(&web, 2);
        session.run(
            "CREATE TABLE stock (n int); \
             CREATE DOMAIN amount AS int; \
             CREATE FUNCTION restock() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        );
        session.run(&trigger(unqualified));
        session.run("SELECT caption.watch('products')");
        db.eventually(
            "EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused' \
             AND detail LIKE '%SET search_path%')",
        );
        // The advice of the detail solves the problem.
        session.run(
            "ALTER FUNCTION spoil() SET search_path = public; SELECT caption.retry('products')",
        );
        db.eventually(FILLED);
    }
}

#[test]
fn an_oversized_key_costs_only_its_row() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    session.run("CREATE TABLE products (id bytea PRIMARY KEY, image_url text, alt text, seo text)");
    let (long, short) = (
        web.serve("/a.jpg", ServerAnswer::picture(0)),
        web.serve("/b.jpg", ServerAnswer::picture(1)),
    );
    // Random bytes cannot be compressed.
    let random = "SELECT string_agg(decode(md5(n::text), 'hex'), '') FROM generate_series(1, 94) n";
    session.run(&format!(
        "INSERT INTO products VALUES (({random}), '{long}'), ('\\x01', '{short}'), ('\\xff', \
         '{short}')"
    ));
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "(SELECT count(*) FROM products WHERE alt <> '') = 2 AND (SELECT backfill_done \
         FROM caption.watch_state)",
    );
    assert!(cluster.log().contains("could not record the outcome of row"), "{}", cluster.log());
}

#[test]
fn check_failures_hide_the_row() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg?sig=SECRET123", ServerAnswer::picture(0));
    let mut session = db.products(&[url]);
    session.run(
        "ALTER TABLE products ADD CONSTRAINT no_texts CHECK (alt IS NULL); \
         SELECT caption.watch('products')",
    );
    db.eventually("EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused')");
    let failure = session.text("SELECT to_jsonb(f) FROM caption.failed f");
    assert!(failure.contains("no_texts") && !failure.contains("SECRET123"), "{failure}");
}

#[test]
fn a_url_changing_trigger_writes_once() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.products(&[url]);
    web.serve("/a.jpg?v=1", ServerAnswer::picture(0));
    session.run(
        "CREATE TABLE write (); \
         CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.image_url := regexp_replace(NEW.image_url, '\\?.*', '') || '?v=1' || CASE \
             WHEN OLD.image_url LIKE '%v=1%' THEN '1' ELSE '' END;
             INSERT INTO public.write DEFAULT VALUES; RETURN NEW; END $$;
         CREATE TRIGGER bump BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION bump()",
    );
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM write"), 1);
    assert!(session.holds(FILLED));
}

// Captions of the old picture are removed; a text that a user edited stays.
#[test]
fn a_failed_new_url_clears_old_captions() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run("UPDATE products SET seo = 'By hand.' WHERE id = 2");
    session.run(&format!("UPDATE products SET image_url = '{}'", web.url("/missing.jpg")));
    db.eventually("(SELECT count(*) FROM caption.failure WHERE code = 'http_410') = 2");
    session.run("CALL caption.wait('products')");
    assert_eq!(
        session.rows("SELECT alt, seo FROM products ORDER BY id"),
        [[None, None], [None, Some("By hand.".into())]]
    );
    // The picture appears later.
    let url = web.serve("/missing.jpg", ServerAnswer::picture(1));
    session.run("SELECT caption.retry('products')");
    db.eventually(FILLED);
    assert!(session.holds(&format!("(SELECT bool_and(image_url = '{url}') FROM products)")));
    assert!(session.holds("(SELECT seo = 'By hand.' FROM products WHERE id = 2)"));
}

#[test]
fn errors_carry_no_backtrace() {
    let db = shared_database();
    let error = db.session().error("SELECT caption_image('http://169.254.169.254/latest')");
    assert!(!format!("{error:?}").contains("std::"), "{error:?}");
    let cancelled = db.session().error(
        "SET statement_timeout = 1; \
         SELECT caption_image('http://198.51.100.1/a.jpg') FROM generate_series(1, 1000)",
    );
    assert!(!format!("{cancelled:?}").contains("std::"), "{cancelled:?}");
}

#[test]
fn session_locks_of_a_trigger_do_not_stay() {
    let cluster = TestCluster::private(&[]);
    let (db, web) = (cluster.database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run(&trigger("PERFORM pg_advisory_unlock_all(), pg_advisory_lock(77)"));
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    // While the worker lingers.
    let held = session.text(
        "SELECT string_agg(locktype, ' ') FROM pg_locks WHERE pid = (SELECT pid \
         FROM pg_stat_activity WHERE backend_type = 'pg_caption worker') \
         AND (locktype = 'advisory' OR (classid, objid, objsubid) = (3079, 1, 28771))",
    );
    assert_eq!(held, "object", "the lease, and nothing else");
}

// The write of one text queued its row again, because the other was still empty.
#[test]
fn a_refused_text_is_requested_once() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run(
        "ALTER TABLE products ADD CHECK (seo IS NULL); \
         CREATE TABLE other AS SELECT id, image_url, alt FROM products; \
         ALTER TABLE other ADD PRIMARY KEY (id); \
         CREATE FUNCTION clear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         UPDATE public.other SET alt = NULL WHERE alt = 'x'; RETURN NULL; END $$; \
         CREATE TRIGGER clear AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION clear()",
    );
    session.run("UPDATE other SET alt = 'x', image_url = replace(image_url, '0.jpg', 'b.jpg')");
    web.serve("/b.jpg", ServerAnswer::picture(7));
    session.run("SELECT caption.watch('other', fills => '{\"alt\": \"concise\"}')");
    session.run("CALL caption.wait('other')");
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("(SELECT alt <> '' AND seo IS NULL FROM products)"));
    assert_eq!(session.text("SELECT code FROM caption.failure"), "write_refused");
    // What a trigger of the table writes elsewhere is noticed as before.
    db.eventually("(SELECT alt <> '' AND alt <> 'x' FROM other)");
    assert_eq!((web.hits("/0.jpg"), web.hits("/b.jpg")), (1, 1));
    // A user's change of the row is noticed, too.
    session.run("UPDATE products SET alt = NULL");
    session.run("CALL caption.wait('products')");
    assert_eq!(web.hits("/0.jpg"), 2);
}
