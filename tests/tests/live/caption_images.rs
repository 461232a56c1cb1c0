//! `caption_images` and `caption_image_json`: captions of several pictures, several styles for one.

use pg_caption_tests::{AnswerGate, ServerAnswer, TestServer, eventually, shared_database};

// One row per URL; an unavailable picture costs only its own row.
#[test]
fn rows_keep_the_order_of_urls() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(3);
    urls.insert(1, web.url("/gone.jpg"));
    let list = urls.join("', '");
    let rows = db.session().rows(&format!(
        "SELECT ord, url, caption, finish_reason, confidence, error_class, error \
         FROM caption_images(ARRAY['{list}'])"
    ));
    assert_eq!(rows.len(), 4);
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row[0].as_deref(), Some((at + 1).to_string().as_str()));
        assert_eq!(row[1].as_ref(), Some(&urls[at]));
        if at == 1 {
            assert_eq!((&row[2], row[5].as_deref()), (&None, Some("reject")));
            assert!(row[6].as_ref().is_some_and(|error| error.contains("410")), "{row:?}");
        } else {
            assert!(row[2].as_ref().is_some_and(|caption| !caption.is_empty()), "{row:?}");
            assert!(matches!(row[3].as_deref(), Some("stop" | "length")), "{row:?}");
            let confidence: f64 = row[4].as_ref().expect("a confidence").parse().expect("a number");
            assert!((0.0..=1.0).contains(&confidence));
            assert_eq!((&row[5], &row[6]), (&None, &None));
        }
    }
}

#[test]
fn all_urls_are_fetched_together() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let urls = web.gated_pictures(5, &gate);
    let list = urls.join("', '");
    let mut session = db.session();
    let call = std::thread::spawn(move || {
        session.number(&format!("SELECT count(caption) FROM caption_images(ARRAY['{list}'])"))
    });
    // No request is answered before all have arrived.
    eventually("five pictures are being fetched", || gate.waiting() >= 5);
    gate.open();
    assert_eq!(call.join().unwrap(), 5);
}

#[test]
fn a_null_url_gives_a_row_without_caption() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let rows = db
        .session()
        .rows(&format!("SELECT ord, caption IS NULL FROM caption_images(ARRAY[NULL, '{url}'])"));
    let rows: Vec<_> =
        rows.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>()).collect();
    assert_eq!(rows, [["1", "t"], ["2", "f"]]);
}

#[test]
fn an_empty_array_gives_no_rows() {
    assert_eq!(
        shared_database().session().number("SELECT count(*) FROM caption_images(ARRAY[]::text[])"),
        0
    );
}

#[test]
fn two_styles_share_one_fetch() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let json =
        db.session().text(&format!("SELECT caption_image_json('{url}', ARRAY['concise', 'seo'])"));
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(web.hits("/a.jpg"), 1);
    for key in [
        "concise",
        "seo",
        "finish_reason",
        "tokens",
        "confidence",
        "jpeg",
        "width",
        "height",
        "bytes",
        "sha256",
        "digest",
    ] {
        assert!(json.contains(&format!("\"{key}\"")), "{key} is missing in {value:#}");
    }
}
