//! The ledger as users see it: machine-written texts, where they are from, and what became of them.

use pg_caption_tests::{ServerAnswer, TestServer, shared_database};

#[test]
fn texts_name_source_and_state() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(3));
    session.run("SELECT caption.watch('products'); ");
    session.run("CALL caption.wait('products')");
    session
        .run("UPDATE products SET alt = 'By hand' WHERE id = 2; DELETE FROM products WHERE id = 3");
    let texts = "SELECT key, column_name, text, source, state, style, \
        confidence BETWEEN 0 AND 1, model ~ '^default@[0-9a-f]{12}$', \
        at BETWEEN now() - interval '1 hour' AND now() \
        FROM caption.texts('products') ORDER BY key, column_name";
    let rows = session.rows(texts);
    let row = |key: &str, column: &str, state: &str, style: &str, text: &str| {
        [key, column, text, "model", state, style, "t", "t", "t"]
            .map(|value| Some(value.to_owned()))
            .to_vec()
    };
    let written = |at: usize| rows[at][2].clone().unwrap_or_default();
    assert_eq!(
        rows,
        [
            row("{\"id\": 1}", "alt", "written", "concise", &written(0)),
            row("{\"id\": 1}", "seo", "written", "seo", &written(1)),
            row("{\"id\": 2}", "alt", "edited", "concise", &written(2)),
            row("{\"id\": 2}", "seo", "written", "seo", &written(3)),
        ]
    );
    assert_eq!(
        session.rows("SELECT alt, seo FROM products WHERE id = 1"),
        [[rows[0][2].clone(), rows[1][2].clone()]]
    );
    // The line of the documentation: a join by key.
    assert_eq!(
        session.number(
            "SELECT count(*) FROM products p JOIN caption.texts('products') c \
               ON c.key = jsonb_build_object('id', p.id) WHERE c.state = 'written'"
        ),
        3
    );
    assert!(session.holds("(SELECT bool_and(sha256 ~ '^[0-9a-f]{64}$') FROM caption.ledger)"));
}

#[test]
fn texts_are_for_the_owner() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(1));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run(
        "CREATE ROLE texts_reader; GRANT SELECT ON products TO texts_reader; \
         GRANT EXECUTE ON FUNCTION caption.texts(regclass) TO texts_reader; \
         SET ROLE texts_reader",
    );
    let error = session.error("SELECT * FROM caption.texts('products')");
    assert_eq!(error.code().code(), "42501", "{error}");
    assert_eq!(session.number("SELECT count(*) FROM caption.written_text"), 0);
    session.run("RESET ROLE; CREATE TABLE other (id int)");
    let error = session.error("SELECT * FROM caption.texts('other')");
    assert_eq!(error.code().code(), "42704", "{error}");
    session.run("DROP OWNED BY texts_reader; DROP ROLE texts_reader");
}

// A new URL after "unwatch" and "watch": the text of the old picture stayed.
#[test]
fn a_later_watch_knows_its_texts() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(1));
    let other = web.serve("/other.jpg", ServerAnswer::picture(4));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    let first = session.text("SELECT alt || seo FROM products");
    session.run("SELECT caption.unwatch('products')");
    session.run("SELECT caption.watch('products')");
    session.run(&format!("UPDATE products SET image_url = '{other}'"));
    session.run("CALL caption.wait('products')");
    let second = session.text("SELECT alt || seo FROM products");
    assert_ne!(first, second);
    session.run("SELECT caption.unwatch('products', forget => true)");
    assert_eq!(session.number("SELECT count(*) FROM caption.ledger"), 0);
    session.run("SELECT caption.watch('products')");
    let third = web.serve("/third.jpg", ServerAnswer::picture(2));
    session.run(&format!("UPDATE products SET image_url = '{third}'"));
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT alt || seo FROM products"), second, "user-edited from then on");
}
