//! `caption_images` and `caption_image_json`: captions of several pictures, several styles for one.

use pg_caption_tests::{AnswerGate, ServerAnswer, TestServer, eventually, shared_database};
use std::time::Duration;

// One row per URL; an unavailable picture costs only its own row.
#[test]
fn rows_keep_the_order_of_urls() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(3);
    urls.insert(1, web.url("/gone.jpg"));
    let list = urls.join("', '");
    let rows = db.session().rows(&format!(
        "SELECT ord, url, caption, finish_reason, confidence, error_class, error, error_code \
         FROM caption_images(ARRAY['{list}'])"
    ));
    assert_eq!(rows.len(), 4);
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row[0].as_deref(), Some((at + 1).to_string().as_str()));
        assert_eq!(row[1].as_ref(), Some(&urls[at]));
        if at == 1 {
            assert_eq!((&row[2], row[5].as_deref()), (&None, Some("reject")));
            assert!(row[6].as_ref().is_some_and(|error| error.contains("410")), "{row:?}");
            assert_eq!(row[7].as_deref(), Some("http_410"));
        } else {
            assert!(row[2].as_ref().is_some_and(|caption| !caption.is_empty()), "{row:?}");
            assert!(matches!(row[3].as_deref(), Some("stop" | "length")), "{row:?}");
            let confidence: f64 = row[4].as_ref().expect("a confidence").parse().expect("a number");
            assert!((0.0..=1.0).contains(&confidence));
            assert_eq!((&row[5], &row[6], &row[7]), (&None, &None, &None));
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
fn arrays_without_urls_give_no_rows() {
    let db = shared_database();
    let mut session = db.session();
    for arguments in ["ARRAY[]::text[]", "NULL", "'{x}', NULL", "'{x}', max_tokens => NULL"] {
        let count = format!("SELECT count(*) FROM caption_images({arguments})");
        assert_eq!(session.number(&count), 0, "{arguments}");
    }
}

// 210 URLs of 2 s, six connections to a host, a timeout of a minute: the last 44 failed.
#[test]
fn the_time_of_a_url_begins_with_its_turn() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    // Twice as many as a host gets connections.
    let urls: Vec<String> = (0..12)
        .map(|n| {
            let slow = ServerAnswer::picture(n).taking(Duration::from_secs(5));
            web.serve(&format!("/{n}.jpg"), slow)
        })
        .collect();
    let list = urls.join("', '");
    let mut session = db.session();
    // Less than the array takes, even if the session has less time.
    session.run("SET pg_caption.timeout = '1ms'");
    let rows = session.rows(&format!(
        "SELECT error FROM caption_images(ARRAY['{list}'], timeout_ms => 9000) \
          WHERE caption IS NULL"
    ));
    assert!(rows.is_empty(), "{rows:?}");
    // A URL without an answer fails alone.
    let (never, good) = (
        web.serve("/never.jpg", ServerAnswer::picture(0).behind(&gate)),
        web.serve("/good.jpg", ServerAnswer::picture(0)),
    );
    let rows = session.rows(&format!(
        "SELECT error_class, error_code \
           FROM caption_images(ARRAY['{never}', NULL, '{good}'], timeout_ms => 5000) ORDER BY ord"
    ));
    assert_eq!(rows[0], [Some("retry".into()), Some("timeout".into())]);
    assert_eq!((&rows[1], &rows[2]), (&vec![None, None], &vec![None, None]));
    let error = session.error("SELECT FROM caption_images('{x}', timeout_ms => 0)");
    assert_eq!((error.code().code(), error.message()), ("22023", "timeout_ms must be positive"));
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
