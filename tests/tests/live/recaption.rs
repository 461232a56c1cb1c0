//! Captioning rows again whose URL is the same: only where there is something new to say.

use pg_caption_tests::{Answer, Cluster, Database, Session, Web};

const FILLED: &str =
    "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

fn versioned(number: u32, version: &str) -> Answer {
    Answer::picture(number).header("ETag", version)
}

/// A watched table with its captions, one row for each URL.
fn captioned(db: &Database, urls: &[String]) -> Session {
    let mut session = db.products(urls);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
    session
}

fn recaption(session: &mut Session) {
    session.run("SELECT caption.recaption('products')");
    session.run("CALL caption.wait('products')");
}

/// Pictures that the engine has looked at.
fn encoded(session: &mut Session) -> i64 {
    session.number("SELECT encoded FROM caption.engine_status()")
}

fn rows(session: &mut Session) -> String {
    session.text("SELECT jsonb_agg((id, xmin::text, alt, seo) ORDER BY id) FROM products")
}

#[test]
fn an_unchanged_picture_is_not_recaptioned() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let urls = [
        web.serve("/tagged.jpg", versioned(1, "\"v1\"")),
        web.serve(
            "/dated.jpg",
            Answer::picture(2).header("Last-Modified", "Mon, 05 Jan 2026 10:00:00 GMT"),
        ),
    ];
    let mut session = captioned(&db, &urls);
    let (before, seen) = (rows(&mut session), encoded(&mut session));
    for round in 2..4 {
        recaption(&mut session);
        for (path, header, value) in [
            ("/tagged.jpg", "if-none-match", "\"v1\""),
            ("/dated.jpg", "if-modified-since", "Mon, 05 Jan 2026 10:00:00 GMT"),
        ] {
            assert_eq!(web.hits(path), round, "{path} was asked for once more");
            assert_eq!(
                web.requests(path)[round - 1].headers.get(header).map(String::as_str),
                Some(value)
            );
        }
    }
    assert_eq!(rows(&mut session), before, "no row has a new version");
    assert_eq!(encoded(&mut session), seen, "no picture was looked at");
}

#[test]
fn a_changed_picture_is_recaptioned() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, std::slice::from_ref(&url));
    session.run("UPDATE products SET seo = 'Written by hand'");
    web.serve("/a.jpg", versioned(7, "\"v2\""));
    recaption(&mut session);
    let now = session.text(&format!("SELECT caption_image('{url}')"));
    assert_eq!(session.text("SELECT alt FROM products"), now);
    assert_eq!(session.text("SELECT seo FROM products"), "Written by hand");
    assert_eq!(session.text("SELECT etag FROM caption.ledger"), "\"v2\"");
}

#[test]
fn an_emptied_text_is_written_again() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, &[url]);
    let before = session.text("SELECT alt FROM products");
    session.run("UPDATE products SET alt = NULL");
    db.eventually(FILLED);
    assert_eq!(session.text("SELECT alt FROM products"), before);
    session.run("CALL caption.wait('products')");
    assert_eq!(web.hits("/a.jpg"), 2);
    assert!(
        !web.requests("/a.jpg")[1].headers.contains_key("if-none-match"),
        "the ledger keeps no texts: the picture itself is needed"
    );
    recaption(&mut session);
    assert!(
        web.requests("/a.jpg")[2].headers.contains_key("if-none-match"),
        "both texts are of that picture"
    );
}

#[test]
fn texts_of_two_picture_versions_are_renewed() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, std::slice::from_ref(&url));
    web.serve("/a.jpg", versioned(7, "\"v2\""));
    session.run("UPDATE products SET seo = ''");
    db.eventually(FILLED);
    session.run("CALL caption.wait('products')");
    // alt is of the first version, seo of the second: the server's "unchanged since the second"
    // would keep alt as it is.
    recaption(&mut session);
    let now = session.text(&format!("SELECT caption_image('{url}')"));
    assert_eq!(session.text("SELECT alt FROM products"), now);
}

#[test]
fn an_equal_text_writes_no_row() {
    let (db, web) = (Cluster::shared().database(), Web::start());
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
    let (db, web) = (Cluster::shared().database(), Web::start());
    let mut session = captioned(&db, &web.pictures(3));
    session.run("UPDATE caption.ledger SET at = at - interval '3 days' WHERE key = '[\"2\"]'");
    session.run("SELECT caption.recaption('products', '1 day')");
    session.run("CALL caption.wait('products')");
    assert_eq!([0, 1, 2].map(|number| web.hits(&format!("/{number}.jpg"))), [1, 2, 1]);
}

#[test]
fn a_lost_picture_keeps_its_text() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg", versioned(1, "\"v1\""));
    let mut session = captioned(&db, &[url]);
    let before = rows(&mut session);
    web.serve("/a.jpg", Answer::status(410));
    recaption(&mut session);
    assert_eq!(session.text("SELECT code FROM caption.failure"), "http_410");
    assert_eq!(rows(&mut session), before);
    web.serve("/a.jpg", versioned(1, "\"v1\""));
    recaption(&mut session);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0, "it is back");
}
