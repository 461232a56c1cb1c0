//! `caption.recaption`: rows with an unchanged URL get new captions only if their picture changed.

use pg_caption_tests::{
    FILLED, ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, shared_database,
};

/// A picture with an ETag, which its server wants to be asked for each time.
fn versioned(number: u32, version: &str) -> ServerAnswer {
    ServerAnswer::picture(number).header("ETag", version).header("Cache-Control", "no-cache")
}

/// A watched table with captions, one row per URL.
fn captioned(db: &TestDatabase, urls: &[String]) -> TestSession {
    let mut session = db.products(urls);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
    session
}

fn recaption(session: &mut TestSession) {
    session.run("SELECT caption.recaption('products')");
    session.run("CALL caption.wait('products')");
}

/// The number of pictures that the engine has encoded.
fn encoded(session: &mut TestSession) -> i64 {
    session.number("SELECT encoded FROM caption.engine_status()")
}

/// The texts of all rows and their row versions.
fn rows(session: &mut TestSession) -> String {
    session.text("SELECT jsonb_agg((id, xmin::text, alt, seo) ORDER BY id) FROM products")
}

// A 304 hid the change: the text of the old style stayed.
#[test]
fn a_changed_style_is_a_change() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = captioned(&db, &[web.serve("/a.jpg", versioned(1, "\"v1\""))]);
    let before = session.text("SELECT alt || seo FROM products");
    session.run("INSERT INTO caption.style (name, max_chars) VALUES ('concise', 12)");
    recaption(&mut session);
    assert!(session.holds("(SELECT length(alt) <= 12 AND alt <> '' FROM products)"));
    // Another style for a column is a change, too.
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"seo\"}')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("(SELECT length(alt) <= 12 FROM products)"), "not without a request");
    recaption(&mut session);
    assert!(session.holds("(SELECT alt = seo FROM products)"));
    assert_ne!(session.text("SELECT alt || seo FROM products"), before);
    // Nothing has changed since: one conditional request, no model run.
    let (rows_before, encoded_before) = (rows(&mut session), encoded(&mut session));
    recaption(&mut session);
    assert_eq!((rows(&mut session), encoded(&mut session)), (rows_before, encoded_before));
    session.run("SELECT caption.recaption('products', force => true)");
    session.run("CALL caption.wait('products')");
    assert_eq!(encoded(&mut session), encoded_before + 1, "forced");
    assert!(session.holds("NOT EXISTS (SELECT FROM caption.ledger WHERE recaption > 0)"));
}

#[test]
fn an_unchanged_picture_is_not_recaptioned() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let urls = [
        web.serve("/tagged.jpg", versioned(1, "\"v1\"")),
        web.serve(
            "/dated.jpg",
            ServerAnswer::picture(2).header("Last-Modified", "Mon, 05 Jan 2026 10:00:00 GMT"),
        ),
    ];
    let mut session = captioned(&db, &urls);
    let (rows_before, encoded_before) = (rows(&mut session), encoded(&mut session));
    for round in 2..4 {
        recaption(&mut session);
        for (path, header, value) in [
            ("/tagged.jpg", "if-none-match", "\"v1\""),
            ("/dated.jpg", "if-modified-since", "Mon, 05 Jan 2026 10:00:00 GMT"),
        ] {
            assert_eq!(web.hits(path), round, "{path} was requested once more");
            assert_eq!(
                web.requests(path)[round - 1].headers.get(header).map(String::as_str),
                Some(value)
            );
        }
    }
    assert_eq!(rows(&mut session), rows_before, "no row has a new version");
    assert_eq!(encoded(&mut session), encoded_before, "no picture was encoded");
}

// Captions are replaced; a text that a user edited stays.
#[test]
fn a_changed_picture_is_recaptioned() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, std::slice::from_ref(&url));
    session.run("UPDATE products SET seo = 'Written by hand'");
    web.serve("/a.jpg", versioned(7, "\"v2\""));
    recaption(&mut session);
    let caption = session.text(&format!("SELECT caption_image('{url}')"));
    assert_eq!(session.text("SELECT alt FROM products"), caption);
    assert_eq!(session.text("SELECT seo FROM products"), "Written by hand");
    assert_eq!(session.text("SELECT etag FROM caption.ledger"), "\"v2\"");
}

#[test]
fn an_emptied_text_is_written_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, &[url]);
    let before = session.text("SELECT alt FROM products");
    session.run("UPDATE products SET alt = NULL");
    db.eventually(FILLED);
    assert_eq!(session.text("SELECT alt FROM products"), before);
    session.run("CALL caption.wait('products')");
    assert_eq!(web.hits("/a.jpg"), 2);
    assert!(
        web.requests("/a.jpg")[1].headers.contains_key("if-none-match"),
        "the ledger has the caption"
    );
    recaption(&mut session);
    assert!(
        web.requests("/a.jpg")[2].headers.contains_key("if-none-match"),
        "both texts belong to this picture"
    );
}

#[test]
fn texts_of_two_picture_versions_are_renewed() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, std::slice::from_ref(&url));
    web.serve("/a.jpg", versioned(7, "\"v2\""));
    session.run("UPDATE products SET seo = ''");
    db.eventually(FILLED);
    session.run("CALL caption.wait('products')");
    // alt belongs to the first version, seo to the second. A conditional request for the second one
    // would keep the outdated alt.
    recaption(&mut session);
    let caption = session.text(&format!("SELECT caption_image('{url}')"));
    assert_eq!(session.text("SELECT alt FROM products"), caption);
}

// A server without validators sends the whole picture again; equal captions change no row.
#[test]
fn an_equal_text_writes_no_row() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web.pictures(3));
    let before = rows(&mut session);
    recaption(&mut session);
    for number in 0..3 {
        assert_eq!(web.hits(&format!("/{number}.jpg")), 2);
    }
    assert_eq!(rows(&mut session), before);
}

#[test]
fn older_than_limits_recaption() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = captioned(&db, &web.pictures(3));
    session.run("UPDATE caption.ledger SET at = at - interval '3 days' WHERE key = '[\"2\"]'");
    session.run("SELECT caption.recaption('products', '1 day')");
    session.run("CALL caption.wait('products')");
    assert_eq!([0, 1, 2].map(|number| web.hits(&format!("/{number}.jpg"))), [1, 2, 1]);
}

#[test]
fn a_lost_picture_keeps_its_text() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, &[url]);
    let before = rows(&mut session);
    web.serve("/a.jpg", ServerAnswer::status(410));
    recaption(&mut session);
    assert_eq!(session.text("SELECT code FROM caption.failure"), "http_410");
    assert_eq!(rows(&mut session), before);
    web.serve("/a.jpg", versioned(1, "\"v1\""));
    recaption(&mut session);
    assert_eq!(
        session.number("SELECT count(*) FROM caption.failure"),
        0,
        "the picture is available again"
    );
}
