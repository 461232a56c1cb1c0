//! Trigger skipping: a statement that changes no watched column skips the extension's UPDATE
//! trigger. No change of a watched column is missed.

use pg_caption_tests::{
    ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, shared_database,
};

/// A watched table with one filled row, and the URL of another picture.
fn watched<'a>(web: &TestServer, table: &str) -> (TestDatabase<'a>, TestSession, String) {
    let db = shared_database();
    let mut session = db.session();
    let (first, second) = (
        web.serve("/1.jpg", ServerAnswer::picture(1)),
        web.serve("/2.jpg", ServerAnswer::picture(2)),
    );
    session.run(&format!(
        "{table}; \
         INSERT INTO products (id, image_url) VALUES (1, '{first}'); \
         SELECT caption.watch('products')"
    ));
    session.run("CALL caption.wait('products')");
    (db, session, second)
}

const PRODUCTS: &str =
    "CREATE TABLE products (id int PRIMARY KEY, title text, image_url text, alt text, seo text)";
/// A trigger that takes the URL from another column.
const FROM_TITLE: &str = "CREATE FUNCTION from_title() RETURNS trigger LANGUAGE plpgsql AS $$ \
    BEGIN IF NEW.title IS NOT NULL THEN NEW.image_url := NEW.title; END IF; RETURN NEW; END $$";
const BEFORE_UPDATE: &str =
    "TRIGGER from_title BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION from_title()";

/// Waits for the queue and checks that the alt text was replaced.
#[track_caller]
fn assert_recaptioned(session: &mut TestSession, before: &str) {
    session.run("CALL caption.wait('products')");
    assert_ne!(session.text("SELECT alt FROM products"), before, "a new URL replaces the caption");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

/// Replaces the trigger's condition by one that holds for every row, so that the queue shows
/// whether the trigger was fired. The pause keeps the entries in the queue.
fn queue_every_row(session: &mut TestSession, table: &str) {
    session.run(&format!(
        "SELECT caption.pause('{table}');
         CREATE OR REPLACE TRIGGER pg_caption_update AFTER UPDATE ON {table} FOR EACH ROW \
         WHEN (NEW.image_url <> '' OR NEW.alt <> '') EXECUTE FUNCTION caption.enqueue()"
    ));
}

/// Whether the statement fires the trigger.
#[track_caller]
fn fires(session: &mut TestSession, statement: &str) -> bool {
    let queued = "SELECT coalesce(sum(n), 0)::bigint FROM caption.queue";
    let before = session.number(queued);
    session.run(statement);
    session.number(queued) > before
}

#[test]
fn every_watched_change_is_queued() {
    let web = TestServer::start();
    let (_db, mut session, second) = watched(
        &web,
        &PRODUCTS
            .replace("id int PRIMARY KEY", "id int PRIMARY KEY REFERENCES stock ON UPDATE CASCADE")
            .replace(
                "CREATE TABLE",
                "CREATE TABLE stock (id int PRIMARY KEY); \
                 INSERT INTO stock VALUES (1); \
                 CREATE TABLE",
            ),
    );
    let first = web.url("/1.jpg");
    session.run(
        "CREATE VIEW shown AS SELECT id AS number, title, image_url AS photo FROM products;
         CREATE TABLE feed (id int, photo text);
         CREATE RULE fed AS ON INSERT TO feed DO INSTEAD UPDATE products SET image_url = NEW.photo \
         WHERE id = NEW.id",
    );
    for (n, change) in [
        "UPDATE products SET image_url = '{}'",
        "UPDATE products SET (title, image_url) = ('t', '{}')",
        "UPDATE shown SET photo = '{}'",
        "INSERT INTO products (id, image_url) VALUES (1, '{}') ON CONFLICT (id) DO UPDATE \
         SET image_url = excluded.image_url",
        "MERGE INTO products p USING (VALUES (1)) v (id) ON p.id = v.id WHEN MATCHED \
         AND title = '' THEN UPDATE SET title = 'x' WHEN MATCHED THEN UPDATE SET image_url = '{}'",
        "INSERT INTO feed VALUES (1, '{}')",
    ]
    .into_iter()
    .enumerate()
    {
        let before = session.text("SELECT alt FROM products");
        session.run(&change.replace("{}", if n % 2 == 0 { &second } else { &first }));
        assert_recaptioned(&mut session, &before);
    }
    session.run("UPDATE products SET alt = NULL");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("(SELECT alt <> '' FROM products)"));
    // A foreign key's action changes the key of a queued row while the table is paused.
    session.run("SELECT caption.pause('products')");
    session.run("UPDATE products SET seo = NULL");
    session.run("UPDATE stock SET id = 7; SELECT caption.resume('products')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("(SELECT id = 7 AND seo <> '' FROM products)"));
}

#[test]
fn unwatched_changes_skip_the_trigger() {
    let web = TestServer::start();
    let (_db, mut session, _) = watched(&web, PRODUCTS);
    queue_every_row(&mut session, "products");
    for title in [
        "UPDATE products SET title = 'x'",
        "INSERT INTO products VALUES (1) ON CONFLICT (id) DO UPDATE SET title = 'y'",
        "WITH u AS (UPDATE products SET title = 'z' RETURNING id) SELECT * FROM u",
    ] {
        assert!(!fires(&mut session, title), "{title}");
    }
    assert!(
        fires(&mut session, "UPDATE products SET alt = alt"),
        "a changed column of the condition fires the trigger"
    );
    assert!(fires(
        &mut session,
        "WITH u AS (UPDATE products SET image_url = image_url RETURNING id) SELECT * FROM u"
    ));
    // A changed condition is noticed, also by a session that cached the previous one.
    session.run(
        "CREATE OR REPLACE TRIGGER pg_caption_update AFTER UPDATE ON products FOR EACH ROW \
         WHEN (NEW.title <> '') EXECUTE FUNCTION caption.enqueue()",
    );
    assert!(fires(&mut session, "UPDATE products SET title = 'v'"));
    assert!(!fires(&mut session, "UPDATE products SET alt = alt"));
    queue_every_row(&mut session, "products");
    // Each execution decides again, even with a cached plan.
    session.run(
        "PREPARE p AS UPDATE products SET title = $1; \
         CREATE FUNCTION touch() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE products \
         SET title = 'f'; END $$",
    );
    for _ in 0..8 {
        assert!(!fires(&mut session, "EXECUTE p ('a')"));
        assert!(!fires(&mut session, "SELECT touch()"));
    }
    // Triggers of users always fire, whatever their name order.
    session.run(
        "CREATE TABLE seen (what text); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen \
         VALUES (TG_NAME || OLD.title || NEW.title); RETURN NULL; END $$",
    );
    session.run(
        "CREATE TRIGGER a AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION note(); \
         CREATE TRIGGER z AFTER UPDATE OF title ON products FOR EACH ROW \
         WHEN (OLD.title <> NEW.title) EXECUTE FUNCTION note()",
    );
    assert!(!fires(&mut session, "UPDATE products SET title = 'g'"));
    assert_eq!(session.text("SELECT string_agg(what, ',' ORDER BY what) FROM seen"), "afg,zfg");
    // A user trigger of the same name, a whole-row condition or a volatile one is never skipped.
    session.run(
        "DROP TRIGGER a ON products; \
         DROP TRIGGER z ON products; \
         TRUNCATE seen; \
         CREATE OR REPLACE TRIGGER pg_caption_update AFTER UPDATE ON products FOR EACH ROW \
         WHEN (NEW.alt <> '') EXECUTE FUNCTION note()",
    );
    session.run("UPDATE products SET title = 'h'");
    assert_eq!(session.text("SELECT what FROM seen"), "pg_caption_updategh");
    session.run(
        "CREATE OR REPLACE TRIGGER pg_caption_update AFTER UPDATE ON products FOR EACH ROW \
         WHEN (NEW IS DISTINCT FROM OLD) EXECUTE FUNCTION caption.enqueue()",
    );
    assert!(fires(&mut session, "UPDATE products SET title = 'i'"));
    session.run(
        "CREATE OR REPLACE TRIGGER pg_caption_update AFTER UPDATE ON products FOR EACH ROW \
         WHEN (random() < 2) EXECUTE FUNCTION caption.enqueue()",
    );
    assert!(fires(&mut session, "UPDATE products SET title = 'j'"));
}

#[test]
fn partitions_are_skipped_by_their_columns() {
    let web = TestServer::start();
    let (_db, mut session, second) = watched(
        &web,
        "CREATE TABLE products (id int PRIMARY KEY, title text, image_url text, alt text, \
         seo text) PARTITION BY RANGE (id);
         CREATE TABLE low (seo text, alt text, dropped int, image_url text, title text, \
         id int PRIMARY KEY); \
         ALTER TABLE low DROP dropped;
         ALTER TABLE products ATTACH PARTITION low FOR VALUES FROM (0) TO (100); \
         CREATE TABLE high PARTITION OF products FOR VALUES FROM (100) TO (200)",
    );
    let mut before = session.text("SELECT alt FROM products");
    for (table, url) in [("products", &second), ("low", &web.url("/1.jpg"))] {
        session.run(&format!("UPDATE {table} SET image_url = '{url}'"));
        assert_recaptioned(&mut session, &before);
        before = session.text("SELECT alt FROM products");
    }
    // An update that moves the row to another partition and changes its key.
    session.run(&format!("UPDATE products SET id = 150, image_url = '{second}', alt = NULL"));
    assert_recaptioned(&mut session, &before);
    session.run("UPDATE products SET id = 50");
    queue_every_row(&mut session, "products");
    for table in ["products", "low"] {
        assert!(!fires(&mut session, &format!("UPDATE {table} SET title = 'x'")), "{table}");
        assert!(
            fires(&mut session, &format!("UPDATE {table} SET seo = 'x', image_url = image_url")),
            "{table}"
        );
    }
}

#[test]
fn an_older_before_trigger_is_respected() {
    let web = TestServer::start();
    let (_db, mut session, second) = watched(
        &web,
        &format!(
            "{PRODUCTS}; {FROM_TITLE}; \
             CREATE {BEFORE_UPDATE}; \
             ALTER TABLE products DISABLE TRIGGER from_title"
        ),
    );
    session.run("ALTER TABLE products ENABLE TRIGGER from_title");
    let before = session.text("SELECT alt FROM products");
    session.run(&format!("UPDATE products SET title = '{second}'"));
    assert_recaptioned(&mut session, &before);
}

#[test]
fn a_later_before_trigger_is_respected() {
    let web = TestServer::start();
    let (_db, mut session, second) = watched(&web, &format!("{PRODUCTS}; {FROM_TITLE}"));
    session.run("PREPARE p AS UPDATE products SET title = $1");
    for _ in 0..8 {
        session.run("EXECUTE p (NULL)");
    }
    let mut before = session.text("SELECT alt FROM products");
    // In the transaction that creates the trigger, with a plan that is older than the trigger.
    session.run(&format!("BEGIN; CREATE {BEFORE_UPDATE}; EXECUTE p ('{second}'); COMMIT"));
    assert_recaptioned(&mut session, &before);
    // A trigger inherited from a new parent.
    before = session.text("SELECT alt FROM products");
    session.run(
        "DROP TRIGGER from_title ON products; \
         CREATE TABLE parent (id int PRIMARY KEY, title text, image_url text, alt text, seo text) \
         PARTITION BY RANGE (id);
         CREATE TRIGGER inherited BEFORE UPDATE ON parent FOR EACH ROW \
         EXECUTE FUNCTION from_title(); \
         ALTER TABLE parent ATTACH PARTITION products FOR VALUES FROM (0) TO (100)",
    );
    session.run(&format!("UPDATE parent SET title = '{}'", web.url("/1.jpg")));
    assert_recaptioned(&mut session, &before);
}

#[test]
fn a_generated_url_follows_its_base_columns() {
    let web = TestServer::start();
    let base = web.serve("/1.jpg", ServerAnswer::picture(1));
    web.serve("/2.jpg", ServerAnswer::picture(2));
    let base = base.trim_end_matches("1.jpg");
    let mut kinds = vec!["STORED"];
    if TestCluster::shared().session("postgres").major() >= 18 {
        kinds.push("VIRTUAL");
    }
    for kind in kinds {
        let table = PRODUCTS.replace(
            "image_url text",
            &format!("image_url text GENERATED ALWAYS AS ('{base}' || title) {kind}"),
        );
        let db = shared_database();
        let mut session = db.session();
        session.run(&format!("{table}; INSERT INTO products (id, title) VALUES (1, '1.jpg')"));
        session.run("SELECT caption.watch('products')");
        session.run("CALL caption.wait('products')");
        let before = session.text("SELECT alt FROM products");
        session.run("UPDATE products SET title = '2.jpg'");
        assert_recaptioned(&mut session, &before);
    }
}

// The check at the start of a statement must neither require more rights nor replace an error that
// the statement itself raises.
#[test]
fn skipping_adds_no_rights_or_errors() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    let role = format!("{}_user", db.name);
    session.run(&format!(
        "CREATE ROLE {role}; GRANT SELECT, DELETE ON products TO {role};
         CREATE FUNCTION slug(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
         RETURN 'x' || t; END $$; \
         REVOKE EXECUTE ON FUNCTION slug FROM PUBLIC;
         ALTER TABLE products ADD slug text GENERATED ALWAYS AS (slug(title)) STORED; \
         SELECT caption.watch('products')"
    ));
    session.run("CALL caption.wait('products')");
    session.run(&format!("SET ROLE {role}; DELETE FROM products WHERE id = 3; RESET ROLE"));
    assert_eq!(session.number("SELECT count(*) FROM products"), 2);
    // Partition pruning at the start of the statement calls a function that raises an error.
    session.run(
        "SET plan_cache_mode = force_generic_plan; \
         CREATE TABLE parts (k int) PARTITION BY LIST (k); \
         CREATE TABLE one PARTITION OF parts FOR VALUES IN (1); \
         CREATE TABLE two PARTITION OF parts FOR VALUES IN (2);
         CREATE FUNCTION tenant(i int) RETURNS int STABLE LANGUAGE plpgsql AS $$ \
         BEGIN RAISE 'no tenant' USING ERRCODE = 'TN001', CONSTRAINT = 'c', TABLE = 't'; END $$;
         PREPARE p (int) AS SELECT * FROM parts WHERE k = tenant($1)",
    );
    let error = session.error("EXECUTE p (1)");
    assert_eq!(
        (error.code().code(), error.message(), error.constraint(), error.table()),
        ("TN001", "no tenant", Some("c"), Some("t"))
    );
    assert!(
        error.where_().is_some_and(|context| context.contains("function tenant(integer)")),
        "{error:?}"
    );
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_trigger_for_more_events_is_not_skipped() {
    let web = TestServer::start();
    let (_db, mut session, _) = watched(&web, PRODUCTS);
    queue_every_row(&mut session, "products");
    session.run(
        "DROP TRIGGER pg_caption_insert ON products;
         CREATE OR REPLACE TRIGGER pg_caption_update AFTER INSERT OR UPDATE ON products \
         FOR EACH ROW WHEN (NEW.image_url <> '') EXECUTE FUNCTION caption.enqueue()",
    );
    assert!(fires(
        &mut session,
        "INSERT INTO products (id, image_url) VALUES (2, 'http://example.org/x.jpg')"
    ));
    assert!(fires(&mut session, "UPDATE products SET title = 'x'"));
}
