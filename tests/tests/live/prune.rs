//! Pruning: entries of deleted rows and resolved failures are removed, and no other entries.

use pg_caption_tests::{
    AnswerGate, ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, eventually,
    shared_database,
};

/// A watched table with captions, after its first prune.
fn captioned(db: &TestDatabase, web: &TestServer, count: usize) -> TestSession {
    let mut session = db.products_of(web, count);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    db.eventually("(SELECT pruned_at IS NOT NULL FROM caption.watch_state)");
    assert_eq!(session.number("SELECT count(*) FROM caption.ledger"), count as i64);
    session
}

/// A watched table with captions for these keys, in the partitions `low` (0 to 9) and `high` (10 to
/// 19).
fn partitioned(db: &TestDatabase, web: &TestServer, keys: &[u32]) -> TestSession {
    let mut session = db.session();
    session.run(
        "CREATE TABLE products (id int PRIMARY KEY, image_url text, alt text, seo text) \
         PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF products FOR VALUES FROM (0) TO (10); \
         CREATE TABLE high PARTITION OF products FOR VALUES FROM (10) TO (20)",
    );
    for (id, url) in keys.iter().zip(web.pictures(keys.len())) {
        session.run(&format!("INSERT INTO products (id, image_url) VALUES ({id}, '{url}')"));
    }
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session
}

/// Requests a prune and waits for its end.
fn prune(session: &mut TestSession) {
    session.run("SELECT caption.prune('products')");
    eventually("the table is pruned", || {
        session.holds(
            "(SELECT pruned_at IS NOT NULL FROM caption.watch_state \
             WHERE relation = 'products'::regclass)",
        )
    });
}

/// The keys in a relation of the schema `caption`, separated by spaces.
fn keys(session: &mut TestSession, relation: &str) -> String {
    session.text(&format!(
        "SELECT coalesce(string_agg(coalesce(key->>0, key->>'id'), ' ' ORDER BY key), '') \
         FROM caption.{relation}"
    ))
}

/// Condition: no worker serves this database, and no work is left.
const IDLE: &str =
    "(SELECT state = 'idle' FROM caption.database WHERE database = current_database())";

#[test]
fn entries_of_deleted_rows_are_pruned() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 6);
    session.run("DELETE FROM products WHERE id IN (2, 3, 6)");
    prune(&mut session);
    assert_eq!(keys(&mut session, "ledger"), "1 4 5");
    // The remaining texts are still known as machine-written.
    let url = web.serve("/other.jpg", ServerAnswer::picture(9));
    session.run(&format!("UPDATE products SET image_url = '{url}' WHERE id = 4"));
    let caption = session.text(&format!("SELECT caption_image('{url}')"));
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 4"), caption);
}

#[test]
fn truncate_triggers_a_prune() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 4);
    session.run("TRUNCATE products");
    // A new row starts a worker.
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg")));
    db.eventually("(SELECT array_agg(key->>0) = '{5}' FROM caption.ledger)");
}

#[test]
fn a_dropped_partition_triggers_a_prune() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = partitioned(&db, &web, &[1, 2, 11, 12]);
    db.eventually("(SELECT pruned_at IS NOT NULL FROM caption.watch_state)");
    session.run("DROP TABLE low");
    session
        .run(&format!("INSERT INTO products (id, image_url) VALUES (13, '{}')", web.url("/0.jpg")));
    db.eventually(
        "(SELECT string_agg(key->>0, ' ' ORDER BY key) = '11 12 13' FROM caption.ledger)",
    );
}

#[test]
fn many_deleted_rows_trigger_a_prune() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 2);
    session.run(
        "INSERT INTO products (image_url, alt, seo) SELECT image_url, alt, seo \
         FROM products, generate_series(1, 1000)",
    );
    session.run(
        "INSERT INTO caption.ledger (relation, key, url, outputs, model)
         SELECT relation, to_jsonb(ARRAY[n::text]), url, outputs, model \
         FROM caption.ledger, generate_series(3, 2002) n WHERE key = '[\"1\"]'",
    );
    session.run("DELETE FROM products WHERE id > 2");
    // Flushes the statistics now instead of within ten seconds.
    session.run("SELECT pg_stat_force_next_flush()");
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg")));
    db.eventually(
        "(SELECT string_agg(key->>0, ' ' ORDER BY key) = '1 2 2003' FROM caption.ledger)",
    );
}

#[test]
fn tables_are_pruned_once_a_day() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 3);
    session.run("DELETE FROM products WHERE id = 1");
    session.run(
        "UPDATE caption.watch_state SET pruned_at = clock_timestamp() - interval '23 hours 50 \
         minutes'",
    );
    let insert = format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg"));
    session.run(&insert);
    session.run("CALL caption.wait('products')");
    db.eventually(IDLE);
    assert_eq!(keys(&mut session, "ledger"), "1 2 3 4");
    session.run(
        "UPDATE caption.watch_state SET pruned_at = clock_timestamp() - interval '24 hours 1 \
         minute'",
    );
    session.run(&insert);
    db.eventually("(SELECT string_agg(key->>0, ' ' ORDER BY key) = '2 3 4 5' FROM caption.ledger)");
    db.eventually(
        "(SELECT pruned_at > clock_timestamp() - interval '10 minutes' FROM caption.watch_state)",
    );
}

#[test]
fn resolved_failures_are_pruned() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(1);
    urls.extend((2..=7).map(|number| web.url(&format!("/gone_{number}.jpg"))));
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(keys(&mut session, "failure"), "2 3 4 5 6 7");
    session.run("UPDATE products SET alt = 'By hand', seo = 'By hand, too' WHERE id = 2");
    session.run("DELETE FROM products WHERE id = 3");
    session.run("UPDATE products SET image_url = NULL WHERE id = 4");
    session.run("UPDATE products SET image_url = '' WHERE id = 5");
    // In this row one text is still missing.
    session.run("UPDATE products SET alt = 'By hand' WHERE id = 6");
    prune(&mut session);
    assert_eq!(keys(&mut session, "failure"), "6 7");
    assert_eq!(session.number("SELECT failed FROM caption.progress"), 2);
}

#[test]
fn failures_of_outdated_texts_are_kept() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 2);
    session
        .run(&format!("UPDATE products SET image_url = '{}' WHERE id = 1", web.url("/gone.jpg")));
    session.run("CALL caption.wait('products')");
    assert_eq!(keys(&mut session, "failure"), "1");
    prune(&mut session);
    assert_eq!(keys(&mut session, "failure"), "1");
}

#[test]
fn locked_rows_keep_their_entries() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 3);
    let mut open = db.session();
    open.run(
        "BEGIN; SELECT FROM products WHERE id = 1 FOR UPDATE; DELETE FROM products WHERE id = 2",
    );
    prune(&mut session);
    assert_eq!(keys(&mut session, "ledger"), "1 2 3");
    open.run("COMMIT");
    prune(&mut session);
    assert_eq!(keys(&mut session, "ledger"), "1 3");
}

#[test]
fn invisible_rows_keep_their_entries() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 3);
    let owner = format!("owner_{}", db.name);
    session.run(&format!("CREATE ROLE {owner}; ALTER TABLE products OWNER TO {owner}"));
    for (hide, show) in [
        (
            "ALTER TABLE products ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; \
             CREATE POLICY few ON products USING (id < 2)",
            "ALTER TABLE products NO FORCE ROW LEVEL SECURITY",
        ),
        (
            &format!("REVOKE SELECT ON products FROM {owner}"),
            &format!("GRANT SELECT ON products TO {owner}"),
        ),
    ] {
        session.run(hide);
        session.run("SELECT caption.prune('products')");
        db.eventually(IDLE);
        assert_eq!(keys(&mut session, "ledger"), "1 2 3", "after {hide}");
        assert!(
            session.holds("(SELECT pruned_at IS NULL FROM caption.watch_state)"),
            "the prune could not finish"
        );
        session.run(show);
        prune(&mut session);
        assert_eq!(keys(&mut session, "ledger"), "1 2 3", "after {show}");
    }
    session.run("DELETE FROM products WHERE id = 2");
    prune(&mut session);
    assert_eq!(keys(&mut session, "ledger"), "1 3");
    session.run(&format!("DROP TABLE products; DROP ROLE {owner}"));
}

#[test]
fn an_unreadable_key_keeps_its_entry() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    // The key "three" will not fit the column's new type.
    session.run("CREATE TABLE products (id text PRIMARY KEY, image_url text, alt text, seo text)");
    for (id, url) in ["1", "2", "three", "4"].into_iter().zip(web.pictures(4)) {
        session.run(&format!("INSERT INTO products (id, image_url) VALUES ('{id}', '{url}')"));
    }
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    // One transaction: a pass between the deletion and the new type may prune "three".
    session.run(
        "DELETE FROM products WHERE id IN ('three', '2'); \
         DROP TRIGGER pg_caption_insert ON products; \
         DROP TRIGGER pg_caption_update ON products; \
         ALTER TABLE products ALTER id TYPE int USING id::int;
         SELECT caption.watch('products')",
    );
    session.run("CALL caption.wait('products')");
    prune(&mut session);
    assert_eq!(keys(&mut session, "ledger"), "1 4 three");
}

#[test]
fn entries_survive_with_any_key_type() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    session.run(
        "CREATE TABLE products (a numeric, b timestamptz, c char(5), d text, e real, f interval, \
         image_url text, alt text, seo text, PRIMARY KEY (a, b, c, d, e, f))",
    );
    let urls = web.pictures(3);
    session.run(&format!(
        "INSERT INTO products (a, b, c, d, e, f, image_url) VALUES
            (1.00, '2026-11-22 10:00:00.123456+05', 'ab', E'q\\'uo\"te\\\\ \\n ☃', 0.1, \
            '1 mon 3 days 04:00', '{}'),
            ('NaN', '-infinity', '', '', 'Infinity', '-1 day', '{}'), (1e40, 'infinity', 'abcde', \
            ' x ', 1e-30, '0', '{}')",
        urls[0], urls[1], urls[2]
    ));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    prune(&mut session);
    assert_eq!(session.number("SELECT count(*) FROM caption.ledger"), 3);
    session.run("DELETE FROM products WHERE a = 1");
    prune(&mut session);
    assert_eq!(session.number("SELECT count(*) FROM caption.ledger"), 2);
}

#[test]
fn no_entry_is_missed_in_any_key_order() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    session.run("CREATE TABLE products (id text PRIMARY KEY, image_url text, alt text, seo text)");
    session.run(&format!(
        "INSERT INTO products (id, image_url) VALUES ('k 000', '{}')",
        web.pictures(1)[0]
    ));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    // The order of JSON texts and that of keys differ: the last key is first as JSON, more than a
    // batch apart.
    session.run(
        "INSERT INTO caption.ledger (relation, key, url, outputs, model)
         SELECT relation, to_jsonb(ARRAY[id]), url, outputs, model FROM caption.ledger, \
         (SELECT format('k %s', 100 + n) AS id FROM generate_series(1, 500) n UNION SELECT 'k') i",
    );
    prune(&mut session);
    assert_eq!(keys(&mut session, "ledger"), "k 000");
}

#[test]
fn a_locked_partition_ends_no_worker() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = partitioned(&db, &web, &[1, 2, 11]);
    let mut open = db.session();
    open.run("BEGIN; LOCK TABLE high; DELETE FROM low WHERE id = 1");
    session.run("SELECT caption.prune('products')");
    db.eventually(IDLE);
    assert_eq!(keys(&mut session, "ledger"), "1 11 2");
    open.run("COMMIT");
    prune(&mut session);
    assert_eq!(keys(&mut session, "ledger"), "11 2");
    assert!(
        !cluster.log().contains("lock timeout"),
        "no worker ended with an error:\n{}",
        cluster.log_tail("ERROR")
    );
}

#[test]
fn a_long_prune_delays_no_row() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let mut session = captioned(&db, &web, 2);
    session.run(
        "INSERT INTO caption.ledger (relation, key, url, outputs, model)
         SELECT relation, to_jsonb(ARRAY[n::text]), url, outputs, model \
         FROM caption.ledger, generate_series(1001, 21000) n WHERE key = '[\"1\"]'",
    );
    // The row is inserted during the prune, with the first batch that deletes entries.
    let url = web.serve("/urgent.jpg", ServerAnswer::picture(5).behind(&gate));
    session.run(&format!(
        "CREATE FUNCTION add_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.products (image_url) SELECT '{url}' WHERE NOT EXISTS (SELECT \
            FROM public.products WHERE image_url = '{url}'); \
            RETURN NULL; \
            END $$;
         CREATE TRIGGER add_row AFTER DELETE ON caption.ledger FOR EACH STATEMENT \
         EXECUTE FUNCTION add_row()"
    ));
    session.run("SELECT caption.prune('products')");
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    // A hundred batches are left; a busy worker handles one per second.
    assert!(
        session.number("SELECT count(*) FROM caption.ledger") > 15_000,
        "the row was processed between two batches"
    );
    session.run("DROP TRIGGER add_row ON caption.ledger");
    gate.open();
    db.eventually("(SELECT alt <> '' AND seo <> '' FROM products WHERE id = 3)");
    db.eventually("(SELECT pruned_at IS NOT NULL FROM caption.watch_state)");
    assert_eq!(keys(&mut session, "ledger"), "1 2 3");
}

#[test]
fn only_the_owner_may_prune() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web, 1);
    let role = format!("other_{}", db.name);
    session.run(&format!("CREATE ROLE {role} LOGIN"));
    assert_eq!(
        db.session_as(&role).error("SELECT caption.prune('products')").code().code(),
        "42501"
    );
    session.run(&format!("GRANT EXECUTE ON FUNCTION caption.prune(regclass) TO {role}"));
    let error = db.session_as(&role).error("SELECT caption.prune('products')");
    assert_eq!(
        (error.code().code(), error.message()),
        ("42501", "must be owner of table public.products")
    );
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    session.run("SELECT caption.unwatch('products')");
    assert_eq!(session.error("SELECT caption.prune('products')").code().code(), "42704");
}
