//! What columns hold instead of a plain URL: read where it has one meaning, else named by the HINT.
//! Rows and calls follow the same rules.

use pg_caption_tests::{FILLED, ServerAnswer, TestServer, quote_literal, shared_database};

#[test]
fn what_surrounds_a_url_is_no_part_of_it() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(1));
    let mut session = db.products(&[]);
    let expected = session.text(&format!("SELECT caption_image('{url}')"));
    let values = [
        format!("{url}\u{a0}"),
        format!("\u{a0}{url}"),
        format!("{url}\u{3000}"),
        format!("\u{200b}{url}"),
        format!("\u{feff}{url}"),
        format!("\u{200e}{url}\u{200f}"),
        format!("\u{2060}{url}\u{202c}"),
        format!("\t{url}\r\n"),
        format!("\"{url}\""),
        format!("<{url}>"),
        format!("\u{201c}{url}\u{201d}"),
        url.replace("/a.jpg", "/a\n.jpg"),
    ];
    for value in &values {
        let value = quote_literal(value);
        session.run(&format!("INSERT INTO products (image_url) VALUES ({value})"));
        assert_eq!(session.text(&format!("SELECT caption_image({value})")), expected, "{value}");
    }
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert_eq!(web.total(), web.hits("/a.jpg"), "no other address was asked for");
}

#[test]
fn a_blank_value_is_no_url() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(1));
    let mut session = db.products(std::slice::from_ref(&url));
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    let blanks = ["", "  ", "\t", "\u{a0}", "\u{3000}\u{200b}", "\"\""].map(quote_literal);
    for blank in &blanks {
        session.run(&format!("INSERT INTO products (image_url) VALUES ({blank})"));
        for call in [
            format!("SELECT caption_image({blank})"),
            format!("SELECT caption_image_json({blank}, '{{seo}}')"),
            format!("SELECT coalesce(caption, error) FROM caption_images(ARRAY[{blank}])"),
        ] {
            assert_eq!(session.value(&call), None, "{call}");
        }
    }
    let list = blanks.join(", ");
    assert_eq!(
        session.number(&format!(
            "SELECT max(ord) FROM caption_images(ARRAY[{list}, '{url}']) WHERE caption <> ''"
        )),
        blanks.len() as i64 + 1,
        "each keeps its place"
    );
    // A row that loses its URL so loses its texts.
    session.run("UPDATE products SET image_url = '\u{a0} ' WHERE alt <> ''");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("NOT EXISTS (SELECT FROM products WHERE alt <> '' OR seo <> '')"));
    assert!(session.holds("NOT EXISTS (SELECT FROM caption.failure)"));
    assert_eq!(web.total(), web.hits("/a.jpg"));
}

#[test]
fn a_value_that_is_no_url_gets_a_hint() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    // The server answers 410 to everything.
    let (at, old) = (|path: &str| web.url(path), "X-Amz-Date=20240105T100000Z&X-Amz-Expires=60");
    web.serve("/page.jpg?a=1&amp;b=2", ServerAnswer::body(b"<html>".to_vec(), "text/html"));
    for (value, code, term) in [
        ("cdn.example.com:8080/a.jpg".to_owned(), "bad_url", "Put https:// before it"),
        ("localhost:3000/a.jpg".into(), "bad_url", "Put https:// before it"),
        ("www.example.com/a.jpg".into(), "bad_url", "Put https:// before it"),
        ("a.jpg,b.jpg".into(), "bad_url", "split_part"),
        (format!("{},{}", at("/a.jpg"), at("/b.jpg")), "bad_url", "split_part"),
        (format!("{}\n{}", at("/a.jpg"), at("/b.jpg")), "bad_url", "split_part"),
        ("[\"a.jpg\"]".into(), "bad_url", "jsonb"),
        ("{a.jpg,b.jpg}".into(), "bad_url", "one URL"),
        (format!("<img src=\"{}\">", at("/a.jpg")), "bad_url", "URL alone"),
        (format!("![shirt]({})", at("/a.jpg")), "bad_url", "URL alone"),
        ("C:\\shop\\a.jpg".into(), "bad_url", "bytea"),
        (at("/a.jpg?w=1&amp;h=2"), "http_410", "&amp;"),
        (at("/page.jpg?a=1&amp;b=2"), "not_an_image", "&amp;"),
        (at("/a\u{200b}b.jpg"), "http_410", "U+200B"),
        (at("/a.jpg,"), "http_410", "list"),
        (at(&format!("/a.jpg?{old}")), "http_410", "05 Jan 2024 10:01:00"),
        (at("/a.jpg?Expires=1704448800&Signature=s"), "http_410", "(\"Expires\")"),
    ] {
        let value = quote_literal(&value);
        let error = session.error(&format!("SELECT caption_image({value})"));
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(term), "{value}: {error:?}");
        session.run(&format!("INSERT INTO products (image_url) VALUES ({value})"));
        session.run("CALL caption.wait('products')");
        assert_eq!(
            session.rows("SELECT code, hint FROM caption.failure ORDER BY at DESC LIMIT 1"),
            [[Some(code.to_owned()), Some(hint.to_owned())]],
            "{value}"
        );
    }
}

// Such a column takes URLs for equal that differ in case only.
#[test]
fn a_url_that_changes_in_case_is_noticed() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    let mut kinds = Vec::new();
    let collation = session.try_rows(
        "CREATE COLLATION no_case \
         (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    );
    match collation {
        Ok(_) => kinds.push("text COLLATE no_case"),
        Err(error) => println!("skipped: collations of ICU: {error}"),
    }
    if session.holds("EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')") {
        session.run("CREATE EXTENSION citext");
        kinds.push("citext");
    }
    if kinds.is_empty() {
        println!("skipped: this server has neither ICU nor citext");
    }
    for (n, kind) in kinds.into_iter().enumerate() {
        let (small, large) = (format!("/{n}/a.jpg"), format!("/{n}/A.jpg"));
        let url = web.serve(&small, ServerAnswer::picture(1));
        let other = web.serve(&large, ServerAnswer::picture(2));
        session.run(&format!(
            "CREATE TABLE t{n} (id int PRIMARY KEY, image_url {kind}, alt text, seo text); \
             INSERT INTO t{n} VALUES (1, '{url}'); SELECT caption.watch('t{n}')"
        ));
        session.run(&format!("CALL caption.wait('t{n}')"));
        assert_eq!((web.hits(&small), web.hits(&large)), (1, 0), "{kind}");
        session.run(&format!("UPDATE t{n} SET image_url = '{other}'"));
        session.run(&format!("CALL caption.wait('t{n}')"));
        assert_eq!((web.hits(&small), web.hits(&large)), (1, 1), "{kind}");
        // Also where a BEFORE trigger changes the URL.
        session.run(&format!(
            "CREATE FUNCTION back{n}() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN NEW.image_url := '{url}'; RETURN NEW; END $$; \
             CREATE TRIGGER back BEFORE UPDATE ON t{n} FOR EACH ROW EXECUTE FUNCTION back{n}(); \
             UPDATE t{n} SET id = id"
        ));
        session.run(&format!("DROP TRIGGER back ON t{n}"));
        session.run(&format!("CALL caption.wait('t{n}')"));
        assert_eq!((web.hits(&small), web.hits(&large)), (2, 1), "{kind}");
    }
}
