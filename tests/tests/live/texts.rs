//! The ledger as users see it: machine-written texts, where they are from, and what became of them.

use pg_caption_tests::{ServerAnswer, TestServer, TestSession, shared_database};

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
    assert!(error.message().ends_with("to see its machine-written texts"), "{error}");
    assert_eq!(session.number("SELECT count(*) FROM caption.written_text"), 0);
    session.run("RESET ROLE; ALTER TABLE products OWNER TO texts_reader; SET ROLE texts_reader");
    assert_eq!(session.number("SELECT count(*) FROM caption.texts('products')"), 2);
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

/// Ids of the rows whose texts of a column are not empty.
fn filled(session: &mut TestSession, column: &str) -> String {
    session.text(&format!(
        "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM products \
         WHERE {column} <> ''"
    ))
}

#[test]
fn withdrawn_texts_stay_away() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(4));
    let other = web.serve("/other.jpg", ServerAnswer::picture(4));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run("UPDATE products SET alt = 'By hand' WHERE id = 1");
    let texts = session.number("SELECT caption.withdraw('products', 'id <= 2')");
    assert_eq!(texts, 3, "the edited one stays");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session, "alt"), "1 3 4");
    assert_eq!(filled(&mut session, "seo"), "3 4");
    assert_eq!(session.number("SELECT caption.withdraw('products', 'id <= 2')"), 0);
    assert_eq!(
        session.rows(
            "SELECT key->>'id', column_name, state FROM caption.texts('products') \
             WHERE key->>'id' < '3' ORDER BY 1, 2"
        ),
        [
            ["1", "alt", "edited"],
            ["1", "seo", "withdrawn"],
            ["2", "alt", "withdrawn"],
            ["2", "seo", "withdrawn"]
        ]
        .map(|row| row.map(|value| Some(value.to_owned())).to_vec())
    );
    // Neither an UPDATE, nor another watch, nor captions for all write them again.
    session.run("UPDATE products SET alt = alt, seo = '' WHERE id = 2");
    session.run("SELECT caption.watch('products'); SELECT caption.recaption('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session, "seo"), "3 4");
    // Another picture gets texts, and forced captions are written.
    session.run(&format!("UPDATE products SET image_url = '{other}' WHERE id = 2"));
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session, "seo"), "2 3 4");
    session.run(
        "SELECT caption.recaption('products', keys => ARRAY['{\"id\": 1}'::jsonb], force => true)",
    );
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session, "seo"), "1 2 3 4");
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 1"), "By hand");
    let error =
        session.error("SELECT caption.withdraw('products', keys => ARRAY['{\"x\": 1}'::jsonb])");
    assert_eq!(error.code().code(), "22023", "{error}");
    let error = session.error("SELECT caption.withdraw('products', 'id = 1; DROP TABLE products')");
    assert_eq!(error.code().code(), "42601", "{error}");
    assert_eq!(session.number("SELECT caption.withdraw('products')"), 7);
}

#[test]
fn selected_rows_are_captioned_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(4));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run("INSERT INTO caption.style (name, max_chars) VALUES ('concise', 12)");
    let short = "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM products \
                 WHERE length(alt) <= 12";
    assert_eq!(session.text(short), "");
    session.run("SELECT caption.recaption('products', condition => 'id IN (2, 3)')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text(short), "2 3");
    session.run(
        "SELECT caption.recaption('products', \
         keys => ARRAY['{\"id\": 4}', '{\"id\": \"1\"}']::jsonb[])",
    );
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text(short), "1 2 3 4");
    assert!(session.holds("NOT EXISTS (SELECT FROM caption.ledger WHERE recaption > 0)"));
}
