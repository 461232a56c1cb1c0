//! `blank => 'keep'`: the empty text is a decision of a user.

use pg_caption_tests::{ServerAnswer, TestServer, shared_database};

#[test]
fn an_empty_text_that_is_kept_is_never_filled() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    // A column that cannot be NULL, or is never NULL, cannot say which texts are missing.
    session
        .run("CREATE DOMAIN filled AS text DEFAULT ''; CREATE DOMAIN never_null AS text NOT NULL");
    session.run(
        "CREATE TABLE shelf (id int PRIMARY KEY, image_url text, a text NOT NULL, \
         b text DEFAULT '', c filled, d never_null, e text DEFAULT NULL, f filled DEFAULT NULL)",
    );
    for (column, obstacle) in [
        ("a", "is NOT NULL"),
        ("b", "has a default other than NULL"),
        ("c", "has a default other than NULL"),
        ("d", "is NOT NULL"),
    ] {
        let error = session.error(&format!(
            "SELECT caption.watch('shelf', fills => '{{\"{column}\": \"concise\"}}', \
             blank => 'keep')"
        ));
        let problem = format!("blank => 'keep' needs a nullable column: \"{column}\" {obstacle}");
        assert_eq!((error.message(), error.code().code()), (problem.as_str(), "22023"));
    }
    session.run(
        "SELECT caption.watch('shelf', fills => '{\"e\": \"concise\", \"f\": \"seo\"}', \
         blank => 'keep'); SELECT caption.unwatch('shelf')",
    );
    let error = session.error("SELECT caption.watch('products', blank => 'drop')");
    assert_eq!(error.message(), "invalid value for blank: \"drop\"");
    // Backfill, INSERT and UPDATE; also where the watch overwrites.
    session.run("UPDATE products SET alt = '' WHERE id = 1");
    session.run("SELECT caption.watch('products', blank => 'keep', overwrite => true)");
    session.run("CALL caption.wait('products')");
    let url = web.serve("/3.jpg", ServerAnswer::picture(3));
    session.run(&format!(
        "INSERT INTO products (image_url, alt, seo) VALUES ('{url}', '', ''), ('{url}', '', NULL)"
    ));
    session.run("CALL caption.wait('products')");
    let blanks = "SELECT string_agg(id || CASE WHEN alt = '' THEN 'a' ELSE '' END || \
                  CASE WHEN seo = '' THEN 's' ELSE '' END, ' ' ORDER BY id) FROM products";
    assert_eq!(session.text(blanks), "1a 2 3 4as 5a");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt > '' OR seo > ''"), 4);
    assert!(session.holds("NOT EXISTS (SELECT FROM products WHERE alt IS NULL OR seo IS NULL)"));
    // A user's decision for a text that was written; a new URL; recaption.
    session.run("UPDATE products SET alt = '' WHERE id = 2");
    session.run("CALL caption.wait('products')");
    assert!(session.holds(
        "(SELECT state = 'edited' FROM caption.texts('products') \
          WHERE key = '{\"id\": 2}' AND column_name = 'alt')"
    ));
    let url = web.serve("/4.jpg", ServerAnswer::picture(4));
    session.run(&format!("UPDATE products SET image_url = '{url}'"));
    session.run("CALL caption.wait('products')");
    session.run("SELECT caption.recaption('products', force => true)");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text(blanks), "1a 2a 3 4as 5a");
    // NULL is a text that is missing.
    session.run("UPDATE products SET alt = NULL WHERE id = 4");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text(blanks), "1a 2a 3 4s 5a");
    assert!(session.holds("(SELECT state = 'idle' FROM caption.progress)"));
    // A withdrawn text is NULL, and one that is emptied by hand afterwards stays.
    session.run("SELECT caption.withdraw('products', 'id = 3')");
    session.run("UPDATE products SET seo = '' WHERE id = 3");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("(SELECT alt IS NULL AND seo = '' FROM products WHERE id = 3)"));
    // A default that is added later stops the watch.
    session.run("ALTER TABLE products ALTER alt SET DEFAULT ''");
    session.run("UPDATE products SET alt = NULL WHERE id = 2");
    db.eventually(
        "(SELECT state LIKE '%\"alt\" has a default other than NULL' AND stopped \
          FROM caption.progress)",
    );
    // Without it '' is empty, as before.
    session.run("ALTER TABLE products ALTER alt DROP DEFAULT");
    session.run("SELECT caption.watch('products', blank => '', overwrite => false)");
    db.eventually("NOT EXISTS (SELECT FROM products WHERE seo = '' AND id > 3)");
}
