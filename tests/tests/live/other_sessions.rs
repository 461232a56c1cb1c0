//! Transactions, locks and definitions of other sessions: they never lose a row, and they delay
//! only the rows that they concern.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, TestCluster, TestServer, eventually, quote_literal,
    shared_database,
};

#[test]
fn a_locked_row_delays_no_other_row() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 5);
    let mut holder = db.session();
    holder.run("BEGIN; SELECT FROM products WHERE id = 3 FOR UPDATE");
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 4");
    holder.run("COMMIT");
    db.eventually(FILLED);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn a_locked_row_delays_no_backfill() {
    let (db, web) = (shared_database(), TestServer::start());
    // More rows than a worker takes from a backfill at a time. All but the first have missing
    // pictures, which fail fast.
    const MISSING: i64 = 2600;
    let mut session = db.products(&web.pictures(1));
    session.run(&format!(
        "INSERT INTO products (image_url) SELECT '{}' || n FROM generate_series(1, {MISSING}) n",
        web.url("/missing/")
    ));
    let mut holder = db.session();
    holder.run("BEGIN; SELECT FROM products WHERE id = 1 FOR UPDATE");
    session.run("SELECT caption.watch('products')");
    db.eventually(&format!(
        "(SELECT backfill_done FROM caption.watch_state) AND (SELECT count(*) \
         FROM caption.failure) = {MISSING}"
    ));
    assert_eq!(
        session.rows("SELECT key::text, code, attempts FROM caption.deferred"),
        [[Some("[\"1\"]".into()), Some("row_locked".into()), Some("0".into())]]
    );
    holder.run("COMMIT");
    db.eventually(
        "(SELECT alt <> '' FROM products WHERE id = 1) AND NOT EXISTS (SELECT \
         FROM caption.deferred)",
    );
    assert_eq!(web.hits("/0.jpg"), 1, "the caption was kept");
}

#[test]
fn a_locked_table_delays_only_itself() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run("CREATE TABLE other (LIKE products INCLUDING ALL)");
    session.run("SELECT caption.watch('other')");
    let (first, second) = (
        web.serve("/x.jpg", ServerAnswer::picture(8)),
        web.serve("/y.jpg", ServerAnswer::picture(9)),
    );
    // The lock comes right after the insert, before the row is written.
    let mut holder = db.session();
    holder.run(&format!("INSERT INTO products (image_url) VALUES ('{first}')"));
    holder.run("BEGIN; LOCK TABLE products");
    session.run(&format!("INSERT INTO other (image_url) VALUES ('{second}')"));
    db.eventually("(SELECT alt <> '' FROM other)");
    holder.run("COMMIT");
    db.eventually(FILLED);
    assert_eq!(
        session.number("SELECT count(*) FROM caption.failure"),
        0,
        "waiting for a lock is not a failure"
    );
}

#[test]
fn a_locked_table_of_keys_defers_rows_without_an_attempt() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run(
        "CREATE TABLE key AS SELECT ''::text AS secret; \
         CREATE FUNCTION sign(url text) RETURNS text LANGUAGE sql STABLE \
             AS 'SELECT url || secret FROM public.key'",
    );
    let mut holder = db.session();
    holder.run("BEGIN; LOCK TABLE key");
    session.run("SELECT caption.watch('products', sign => 'sign(text)')");
    db.eventually("(SELECT count(*) FROM caption.deferred WHERE code = 'table_locked') = 3");
    assert_eq!(
        session.text("SELECT DISTINCT concat_ws(' | ', message, attempts) FROM caption.deferred"),
        "another session locks the table | 0"
    );
    holder.run("COMMIT");
    db.eventually(FILLED);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

// The keys of a rolled back subtransaction must not displace those of the transaction.
#[test]
fn a_savepoint_rollback_loses_no_other_rows() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    let (kept, undone) = (
        web.serve("/kept.jpg", ServerAnswer::picture(1)),
        web.serve("/undone.jpg", ServerAnswer::picture(2)),
    );
    session.run("BEGIN");
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{kept}')"));
    session.run(&format!(
        "SAVEPOINT s; \
         INSERT INTO products (image_url) SELECT '{undone}' FROM generate_series(1, 1000); \
         ROLLBACK TO s"
    ));
    session.run("COMMIT");
    db.eventually(&format!("EXISTS (SELECT FROM products) AND {FILLED}"));
}

// Its snapshot is older than the watch, so it does not see the watch.
#[test]
fn a_transaction_before_the_watch_is_seen() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    let mut old = db.session();
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT backfill_done FROM caption.watch_state)");
    let url = web.serve("/a.jpg", ServerAnswer::picture(1));
    old.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    old.run("COMMIT");
    db.eventually(&format!("EXISTS (SELECT FROM products) AND {FILLED}"));
}

#[test]
fn a_transaction_turned_read_only_commits() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    let url = web.serve("/a.jpg", ServerAnswer::picture(1));
    session.run(&format!(
        "BEGIN; \
         INSERT INTO products (image_url) VALUES ('{url}'); \
         SET TRANSACTION READ ONLY; \
         COMMIT"
    ));
    db.eventually(&format!("EXISTS (SELECT FROM products) AND {FILLED}"));
}

#[test]
fn a_prepared_transaction_is_processed() {
    let (cluster, web) =
        (TestCluster::private(&[("max_prepared_transactions", "5")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    let url = web.serve("/a.jpg", ServerAnswer::picture(1));
    session.run(&format!(
        "BEGIN; INSERT INTO products (image_url) VALUES ('{url}'); PREPARE TRANSACTION 'p'"
    ));
    session.run("COMMIT PREPARED 'p'");
    db.eventually(&format!("EXISTS (SELECT FROM products) AND {FILLED}"));
}

#[test]
fn a_busy_worker_sees_commit_prepared() {
    let (cluster, web, gate) = (
        TestCluster::private(&[("max_prepared_transactions", "5")]),
        TestServer::start(),
        AnswerGate::new(),
    );
    let db = cluster.database();
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    let insert = |name: &str| {
        format!(
            "INSERT INTO products (image_url) VALUES ('{}')",
            web.serve(name, ServerAnswer::picture(1).behind(&gate))
        )
    };
    session.run(&insert("/before.jpg"));
    eventually("the worker is busy", || gate.waiting() >= 1);
    session.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'p'", insert("/prepared.jpg")));
    session.run(&insert("/after.jpg"));
    eventually("the worker has read the later commit", || gate.waiting() >= 2);
    session.run("COMMIT PREPARED 'p'");
    gate.open();
    db.eventually(&format!("(SELECT count(*) FROM products) = 3 AND {FILLED}"));
}

#[test]
fn a_key_type_may_change_in_a_transaction() {
    let (db, web) = (shared_database(), TestServer::start());
    let (first, second) = (
        web.serve("/1.jpg", ServerAnswer::picture(1)),
        web.serve("/2.jpg", ServerAnswer::picture(2)),
    );
    let mut session = db.session();
    session.run("CREATE TABLE products (id text PRIMARY KEY, image_url text, alt text, seo text)");
    session.run("SELECT caption.watch('products')");
    session.run("BEGIN");
    session.run(&format!("INSERT INTO products VALUES ('1', '{first}')"));
    session.run("SELECT caption.unwatch('products')");
    session.run("ALTER TABLE products ALTER id TYPE bigint USING id::bigint");
    session.run("SELECT caption.watch('products')");
    session.run(&format!("INSERT INTO products VALUES (1234567890123, '{second}')"));
    session.run("COMMIT");
    db.eventually(FILLED);
}

#[test]
fn the_trigger_function_rejects_other_uses() {
    let db = shared_database();
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    for trigger in [
        "AFTER INSERT ON products FOR EACH STATEMENT",
        "BEFORE INSERT ON products FOR EACH ROW",
        "AFTER TRUNCATE ON products",
    ] {
        session
            .run(&format!("CREATE TRIGGER planted {trigger} EXECUTE FUNCTION caption.enqueue()"));
        let statement = if trigger.contains("TRUNCATE") {
            "TRUNCATE products"
        } else {
            "INSERT INTO products (image_url) VALUES ('x')"
        };
        assert!(session.error(statement).message().contains("AFTER INSERT OR UPDATE"));
        session.run("DROP TRIGGER planted ON products");
    }
    assert!(session.error("SELECT caption.enqueue()").message().contains("trigger"));
}

#[test]
fn a_huge_url_costs_only_its_row() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run(
        "INSERT INTO products (image_url) VALUES ('data:image/png;base64,' || repeat('A', \
         1500000))",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "(SELECT count(*) FROM products WHERE alt <> '') = 2 AND (SELECT count(*) \
         FROM caption.failure) = 1",
    );
    let rows = session.rows(&format!(
        "SELECT error_class FROM caption_images(ARRAY[repeat('A', 1500000), '{}'])",
        web.url("/0.jpg")
    ));
    assert_eq!(rows, [[Some("reject".to_string())], [None]]);
}

#[test]
fn trigger_edits_stay_machine_written() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN NEW.alt := upper(NEW.alt); RETURN NEW; END $$",
    );
    session.run(
        "CREATE TRIGGER shout BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION shout()",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    let first = session.text("SELECT alt FROM products");
    let url = web.serve("/other.jpg", ServerAnswer::picture(7));
    session.run(&format!("UPDATE products SET image_url = '{url}'"));
    eventually("the new picture was fetched", || web.hits("/other.jpg") == 1);
    db.eventually(&format!("(SELECT alt <> {} FROM products)", quote_literal(&first)));
}

#[test]
fn a_failed_check_costs_only_its_row() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 4);
    session.run("ALTER TABLE products ADD CHECK (id <> 2 OR alt IS NULL)");
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 3");
    db.eventually(
        "EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused' AND key = '{\"id\": 2}')",
    );
}

#[test]
fn a_redefined_watch_fills_the_right_column() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/a.jpg", ServerAnswer::picture(1).behind(&gate));
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    eventually("the picture is being fetched", || gate.waiting() > 0);
    session.run("SELECT caption.watch('products', fills => '{\"seo\": \"seo\"}', replace => true)");
    gate.open();
    db.eventually("(SELECT seo <> '' FROM products)");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.value("SELECT alt FROM products"), None);
    assert!(
        session.holds("(SELECT length(seo) > 40 FROM products)"),
        "the seo column holds a seo text"
    );
}

#[test]
fn rows_of_inheriting_tables_are_not_filled() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run("CREATE TABLE child () INHERITS (products)");
    let error = session.error("SELECT caption.watch('products')");
    assert!(error.message().contains("has inheritance children"), "{error:?}");
    assert!(error.detail().is_some_and(|detail| detail.contains("child")), "{error:?}");
    // A child that is added later is not part of the watch.
    session.run("DROP TABLE child");
    session.run("SELECT caption.watch('products')");
    session.run(
        "CREATE TABLE child () INHERITS (products); INSERT INTO child SELECT * FROM ONLY products",
    );
    db.eventually("NOT EXISTS (SELECT FROM ONLY products WHERE alt IS NULL)");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM child WHERE alt IS NOT NULL"), 0);
}

#[test]
fn statistics_reach_autovacuum() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 5);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    db.eventually("(SELECT n_tup_upd >= 5 FROM pg_stat_user_tables WHERE relname = 'products')");
    db.eventually(
        "(SELECT n_tup_ins >= 5 FROM pg_stat_all_tables WHERE schemaname = 'caption' \
         AND relname = 'ledger')",
    );
}

#[test]
fn other_roles_see_no_progress_or_failure() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[web.url("/gone.jpg")]);
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM caption.failure)");
    session.run("SET ROLE pg_read_all_stats");
    assert_eq!(
        session.number(
            "SELECT (SELECT count(*) FROM caption.failure) + (SELECT count(*) \
             FROM caption.progress)"
        ),
        0
    );
}

// The worker skips a table with a locked partition. If it waited, another session could become the
// victim of a deadlock.
#[test]
fn a_locked_partition_causes_no_deadlock() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run(
        "CREATE TABLE parts (id int PRIMARY KEY, image_url text, alt text, seo text) \
         PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10); \
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20);
         INSERT INTO parts SELECT id, image_url FROM products WHERE id = 1",
    );
    session.run("SELECT caption.watch('parts')");
    db.eventually("NOT EXISTS (SELECT FROM parts WHERE alt IS NULL)");
    let mut holder = db.session();
    holder.run("BEGIN; LOCK TABLE high");
    let url = web.serve("/new.jpg", ServerAnswer::picture(7));
    session.run(&format!("INSERT INTO low VALUES (2, '{url}')"));
    // Long enough for the worker to finish everything else.
    let mut checks = 0;
    eventually("2000 checks have passed", || {
        let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
            WHERE a.backend_type = 'pg_caption worker' AND NOT l.granted AND l.database = \
            (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(session.number(waits), 0, "the worker waits for a lock");
        checks += 1;
        checks > 2000
    });
    holder.run("COMMIT");
    db.eventually("NOT EXISTS (SELECT FROM parts WHERE alt IS NULL)");
}
