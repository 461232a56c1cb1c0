//! Columns of a watched table that are dropped, renamed, or get another type: the watch follows in
//! the same transaction.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, TestServer, TestSession, eventually, quote_literal,
    shared_database,
};

fn watch(session: &mut TestSession, table: &str) -> String {
    let row = "SELECT concat_ws(' ', w.image, w.fills, w.keys) FROM caption.watch w";
    session.text(&format!("{row} WHERE w.relation = {}::regclass", quote_literal(table)))
}

/// The messages that match since the last call.
fn messages(session: &mut TestSession, part: &str) -> Vec<String> {
    let notices = session.notices();
    notices
        .iter()
        .map(|notice| notice.message().into())
        .filter(|m: &String| m.contains(part))
        .collect()
}

#[test]
fn a_dropped_column_leaves_the_watch() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let urls = web.half_gated_pictures(6, &gate);
    let mut session = db.products(&urls);
    session.run("ALTER TABLE products ADD long text");
    session.run("SELECT caption.watch('products', fills => '{\"long\": \"detailed\"}')");
    session.run(
        "SELECT caption.watch('products', fills => '{\"alt\": \"concise\", \"seo\": \"seo\"}')",
    );
    eventually("half of the rows are filled", || {
        gate.waiting() >= 3 && session.holds("(SELECT count(*) FROM products WHERE alt <> '') = 3")
    });
    session.notices();

    // A rollback restores the watch, as does one to a savepoint.
    session.run("BEGIN; ALTER TABLE products DROP seo");
    assert_eq!(
        watch(&mut session, "products"),
        r#"image_url {"alt": "concise", "long": "detailed"} {id}"#
    );
    session.run("ROLLBACK");
    session.run("BEGIN; SAVEPOINT s; ALTER TABLE products DROP COLUMN long; ROLLBACK TO s; COMMIT");
    let full = r#"image_url {"alt": "concise", "seo": "seo", "long": "detailed"} {id}"#;
    assert_eq!(watch(&mut session, "products"), full);
    // A statement that fails changes nothing.
    session.error("ALTER TABLE products DROP seo, DROP nothing");
    assert_eq!(watch(&mut session, "products"), full);
    session.notices();

    // Several commands, IF EXISTS, and a column of the same name.
    session.run(
        "ALTER TABLE products DROP COLUMN IF EXISTS nothing, DROP COLUMN IF EXISTS seo, \
         ADD COLUMN seo text, ALTER title SET NOT NULL",
    );
    assert_eq!(
        watch(&mut session, "products"),
        r#"image_url {"alt": "concise", "long": "detailed"} {id}"#
    );
    assert_eq!(
        messages(&mut session, "watch"),
        [r#"the watch of table public.products no longer fills "seo""#]
    );
    session.run("ALTER TABLE products DROP long CASCADE");
    gate.open();
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 6);
    assert_eq!(session.number("SELECT count(seo) FROM products"), 0, "the new column is another");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);

    // The triggers are those of the smaller watch.
    let url = web.serve("/new.jpg", ServerAnswer::picture(7));
    session.run(&format!("INSERT INTO products (title, image_url) VALUES ('New', '{url}')"));
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NULL"), 0);

    // The columns that the watch reads: an error that names unwatch, or CASCADE.
    for column in ["image_url", "id"] {
        let error = session.error(&format!("ALTER TABLE products DROP {column}"));
        assert_eq!(error.code().code(), "2BP01");
        assert_eq!(
            error.message(),
            format!("column \"{column}\" of table public.products is needed by its watch")
        );
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("SELECT caption.unwatch('public.products')"), "{hint}");
    }
    session.notices();
    session.run("ALTER TABLE products RENAME image_url TO photo");
    session.run("ALTER TABLE products ADD picture text; UPDATE products SET picture = photo");
    session.run("ALTER TABLE products DROP photo CASCADE");
    assert_eq!(messages(&mut session, "stops").len(), 1, "a warning");
    db.eventually(
        "(SELECT state LIKE 'column \"photo\" does not exist%caption.watch()%' \
         FROM caption.progress)",
    );
    session.run("SELECT caption.watch('products', 'picture')");
    session.run("CALL caption.wait('products')");
    // The ledger still knows which texts are machine-written.
    let before = session.text("SELECT alt FROM products WHERE id = 1");
    session.run(&format!("UPDATE products SET picture = '{url}' WHERE id = 1"));
    session.run("CALL caption.wait('products')");
    assert_ne!(session.text("SELECT alt FROM products WHERE id = 1"), before);

    // The last fill.
    session.notices();
    session.run("ALTER TABLE products DROP alt");
    assert_eq!(
        messages(&mut session, "ends"),
        [r#"the watch of table public.products ends: it filled "alt" only"#]
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.watch"), 0);
    assert_eq!(
        session.number("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pg_caption%'"),
        0
    );
}

// Columns of a partitioned table, of a partition tree below the watch, and the rights of a caller.
#[test]
fn a_column_of_partitions_leaves_the_watch() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    session.run(
        "CREATE TABLE t (id int, image_url text, alt text, seo text, PRIMARY KEY (id)) \
             PARTITION BY RANGE (id); \
         CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (10); \
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (10) TO (99) PARTITION BY RANGE (id); \
         CREATE TABLE t1a PARTITION OF t1 FOR VALUES FROM (10) TO (99)",
    );
    session.run("SELECT caption.watch('t')");
    session.run("ALTER TABLE t DROP COLUMN seo");
    assert_eq!(watch(&mut session, "t"), r#"image_url {"alt": "concise"} {id}"#);
    let url = web.serve("/a.jpg", ServerAnswer::picture(1));
    session.run(&format!("INSERT INTO t VALUES (1, '{url}'), (20, '{url}')"));
    session.run("CALL caption.wait('t')");
    assert_eq!(session.number("SELECT count(*) FROM t WHERE alt <> ''"), 2);

    // A watch of a partition follows its parent's columns.
    session.run("SELECT caption.unwatch('t'); ALTER TABLE t ADD seo text");
    session.run("SELECT caption.watch('t1')");
    session.run("ALTER TABLE t RENAME alt TO alt_text");
    assert_eq!(
        watch(&mut session, "t1"),
        r#"image_url {"seo": "seo", "alt_text": "concise"} {id}"#
    );
    session.run("ALTER TABLE t DROP seo");
    assert_eq!(watch(&mut session, "t1"), r#"image_url {"alt_text": "concise"} {id}"#);

    // Another role changes nothing, and gets PostgreSQL's own error.
    let other = format!("other_{}", db.name);
    session.run(&format!("CREATE ROLE {other} LOGIN"));
    let mut there = db.session_as(&other);
    assert_eq!(there.error("ALTER TABLE t DROP alt_text").code().code(), "42501");
    assert_eq!(there.error("ALTER TABLE t RENAME alt_text TO x").code().code(), "42501");
    assert_eq!(there.error("ALTER TABLE t ALTER alt_text TYPE varchar").code().code(), "42501");
    drop(there);
    session.run(&format!("DROP ROLE {other}"));
    assert_eq!(watch(&mut session, "t1"), r#"image_url {"alt_text": "concise"} {id}"#);

    // A detached partition.
    session.notices();
    session.run(
        "SELECT caption.unwatch('t1'), caption.watch('t', fills => '{\"alt_text\": \"concise\"}')",
    );
    session.run("ALTER TABLE t DETACH PARTITION t1");
    let notice = session.notices().into_iter().find(|notice| notice.message().contains("covers"));
    let notice = notice.expect("a notice about the partition");
    assert_eq!(notice.message(), "the watch of table public.t no longer covers public.t1");
    assert!(notice.hint().unwrap_or_default().contains("caption.watch('public.t1'"), "{notice:?}");
}

#[test]
fn a_renamed_column_is_followed() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let urls = web.half_gated_pictures(6, &gate);
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    eventually("half of the rows are filled", || {
        gate.waiting() >= 3 && session.holds("(SELECT count(*) FROM products WHERE alt <> '') = 3")
    });
    session.notices();
    session.run(
        "ALTER TABLE products RENAME image_url TO \"Photo\"; \
         ALTER TABLE products RENAME alt TO alt_text; \
         ALTER TABLE products RENAME id TO key",
    );
    assert_eq!(
        watch(&mut session, "products"),
        r#"Photo {"seo": "seo", "alt_text": "concise"} {key}"#
    );
    assert_eq!(
        messages(&mut session, "alt"),
        [r#"the watch of table public.products follows column "alt" to "alt_text""#]
    );
    gate.open();
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt_text IS NULL"), 0);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    // Texts written under the old name are known as machine-written, and new rows are noticed.
    let url = web.serve("/new.jpg", ServerAnswer::picture(8));
    let before = session.text("SELECT alt_text FROM products WHERE key = 1");
    session.run(&format!(
        "UPDATE products SET \"Photo\" = '{url}' WHERE key = 1; \
         INSERT INTO products (\"Photo\") VALUES ('{url}')"
    ));
    session.run("CALL caption.wait('products')");
    assert_ne!(session.text("SELECT alt_text FROM products WHERE key = 1"), before);
    assert_eq!(session.number("SELECT count(alt_text) FROM products"), 7);
    // A new column with the old name is another column.
    session.run("ALTER TABLE products ADD alt text, ADD image_url text");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(alt) FROM products"), 0);
}

// PostgreSQL refuses this while a trigger's condition names the column: the triggers give way.
#[test]
fn a_watched_column_can_change_its_type() {
    let web = TestServer::start();
    let (first, second) = (
        web.serve("/1.jpg", ServerAnswer::picture(1)),
        web.serve("/2.jpg", ServerAnswer::picture(2)),
    );
    let db = shared_database();
    let mut session = db.products(std::slice::from_ref(&first));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run(
        "ALTER TABLE products ALTER image_url TYPE varchar(400), ALTER alt TYPE varchar(200), \
         ALTER id TYPE bigint, DROP seo",
    );
    session.run("CALL caption.wait('products')");
    assert_eq!(web.hits("/1.jpg"), 1, "filled rows are not captioned again");
    let before = session.text("SELECT alt FROM products");
    session.run(&format!("UPDATE products SET image_url = '{second}'"));
    session.run("CALL caption.wait('products')");
    assert_ne!(session.text("SELECT alt FROM products"), before, "a new URL replaces the caption");
    // A type that cannot be filled is refused, and nothing changes.
    let error = session.error("ALTER TABLE products ALTER alt TYPE bytea USING alt::bytea");
    assert_eq!(error.code().code(), "42804", "{error:?}");
    let url = web.serve("/3.jpg", ServerAnswer::picture(3));
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    db.eventually(&FILLED.replace("coalesce(seo, '')", "'-'"));
    // A column that holds the pictures themselves.
    session.run("CREATE TABLE photos (id int PRIMARY KEY, photo bytea, alt text)");
    session.run("SELECT caption.watch('photos', 'photo', '{\"alt\": \"concise\"}')");
    session.run("ALTER TABLE photos ALTER id TYPE bigint, ALTER alt TYPE varchar(99)");
    session.run("ALTER TABLE photos RENAME photo TO picture");
    assert_eq!(watch(&mut session, "photos"), r#"picture {"alt": "concise"} {id}"#);
    assert_eq!(
        session.number("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'photos'::regclass"),
        2
    );
}

// The condition of a watch names columns, too.
#[test]
fn a_column_of_a_condition_is_followed() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run(
        "ALTER TABLE products ADD gone text, ADD published boolean DEFAULT false, \
         ADD stock int DEFAULT 1; ALTER TABLE products DROP gone",
    );
    session.run("SELECT caption.watch('products', condition => 'published AND stock > 0')");
    session.run(
        "ALTER TABLE products RENAME published TO public; \
         ALTER TABLE products ALTER stock TYPE numeric",
    );
    assert_eq!(
        session.text("SELECT condition FROM caption.watch"),
        "(public AND (stock > (0)::numeric))"
    );
    session.run("UPDATE products SET public = true WHERE id = 2");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT string_agg(id::text, '') FROM products WHERE alt <> ''"), "2");
    let error = session.error("ALTER TABLE products DROP stock");
    assert_eq!(error.code().code(), "2BP01");
    assert!(error.hint().unwrap_or_default().contains("condition => ''"), "{error:?}");
    session.run("SELECT caption.watch('products', condition => '')");
    session.run("ALTER TABLE products DROP stock, DROP public");
    db.eventually(FILLED);
}
