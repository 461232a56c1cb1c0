//! A table that takes the name of a watched one, as online schema changes do: `caption.progress`
//! says so, and `caption.move_watch` moves the watch with its ledger.

use pg_caption_tests::{ServerAnswer, TestServer, shared_database};

#[test]
fn a_swapped_table_takes_the_watch_with_a_call() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run("UPDATE products SET alt = 'By hand' WHERE id = 2");
    session.run("CALL caption.wait('products')");
    session.notices();
    // As pg-osc and pg_repack-like tools do. The new key is wider.
    session.run(
        "CREATE TABLE products_new (LIKE products INCLUDING ALL); \
         ALTER TABLE products_new ALTER id TYPE bigint; \
         INSERT INTO products_new OVERRIDING SYSTEM VALUE SELECT * FROM products; \
         BEGIN; \
         ALTER TABLE products RENAME TO products_old; \
         ALTER TABLE products_new RENAME TO products; \
         COMMIT",
    );
    let warning = session.notices().into_iter().find(|n| n.severity() == "WARNING");
    let warning = warning.expect("a warning of the second rename");
    let call = "SELECT caption.move_watch('public.products_old', 'public.products')";
    assert_eq!(
        warning.message(),
        "table public.products is not watched: \
         the watch of this name stays with public.products_old"
    );
    assert!(warning.hint().unwrap_or_default().contains(call), "{warning:?}");
    assert_eq!(
        session
            .text("SELECT state FROM caption.progress WHERE relation = 'products_old'::regclass"),
        "public.products is another table now: \
         SELECT caption.move_watch('products_old', 'public.products') moves the watch"
    );
    session.run("CALL caption.wait('products_old')");
    for statement in ["CALL caption.wait('products')", "SELECT caption.pause('products')"] {
        let error = session.error(statement);
        assert_eq!(error.code().code(), "42704", "{error:?}");
        assert!(error.hint().unwrap_or_default().contains(call), "{error:?}");
    }
    // To drop the old table would end the watch.
    session.notices();
    session.run("BEGIN; DROP TABLE IF EXISTS nothing, products_old; ROLLBACK");
    let warned = session.notices().iter().any(|n| n.hint().unwrap_or_default().contains(call));
    assert!(warned, "a warning of DROP TABLE");
    // Rows that no trigger has noticed are found after the move.
    let url = web.serve("/gap.jpg", ServerAnswer::picture(6));
    session.run("SELECT setval(pg_get_serial_sequence('products', 'id'), 100)");
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    session.run("SELECT caption.pause('products_old')");
    session.run(call);
    assert_eq!(
        session.text("SELECT state FROM caption.progress"),
        "paused",
        "the watch is as it was, and the only one"
    );
    session.run("SELECT caption.resume('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NULL"), 0);
    assert_eq!(web.hits("/0.jpg"), 1, "filled rows are not captioned again");
    // Machine-written texts are known as such; a user's text stays.
    let before = session.text("SELECT alt FROM products WHERE id = 1");
    session.run(&format!("UPDATE products SET image_url = '{url}'"));
    session.run("CALL caption.wait('products')");
    assert_ne!(session.text("SELECT alt FROM products WHERE id = 1"), before);
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 2"), "By hand");
    assert_eq!(
        session.number("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'products_old'::regclass"),
        0
    );

    // Moves that are refused.
    session.run(
        "CREATE TABLE keyed (sku text PRIMARY KEY, image_url text, alt text, seo text); \
         CREATE TABLE other (LIKE products INCLUDING ALL); SELECT caption.watch('other')",
    );
    let refusals = [
        ("SELECT caption.move_watch('products', 'keyed')", "55000"),
        ("SELECT caption.move_watch('products', 'other')", "42710"),
        ("SELECT caption.move_watch('products_old', 'keyed')", "42704"),
        ("SELECT caption.move_watch(NULL, 'keyed')", "22004"),
    ];
    for (statement, code) in refusals {
        assert_eq!(session.error(statement).code().code(), code, "{statement}");
    }
    // A plain rename needs no call, and neither does a view in place of the table.
    session.run("ALTER TABLE products RENAME TO goods");
    session.run("CREATE VIEW products AS SELECT * FROM goods");
    session.run("CALL caption.wait('goods')");
    let state = "SELECT state FROM caption.progress WHERE relation = 'goods'::regclass";
    assert_eq!(session.text(state), "idle");
    // A schema may be swapped, too. A new watch of the new table says what it does not know.
    session.run(
        "CREATE SCHEMA next; CREATE TABLE next.other (LIKE other INCLUDING ALL); \
         CREATE SCHEMA before; ALTER TABLE other SET SCHEMA before",
    );
    session.notices();
    session.run("ALTER TABLE next.other SET SCHEMA public");
    let warned = session.notices().iter().any(|n| n.hint().unwrap_or_default().contains("move"));
    assert!(warned, "a warning of the second move");
    session.run("SELECT caption.watch('other')");
    let notices = session.notices();
    assert!(
        notices.iter().any(|n| n.message().contains("another table was watched under the name")),
        "{notices:?}"
    );
}
