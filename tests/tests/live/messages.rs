//! Messages as a client receives them follow PostgreSQL's message style guide: primary message in
//! lower case without full stop, DETAIL and HINT in whole sentences.

use pg_caption_tests::{
    ServerAnswer, TestServer, message_problem, pictures, sentence_problem, shared_database,
};
use postgres::error::DbError;

/// The problems of an error or a notice.
fn problems(error: &DbError) -> Vec<String> {
    let sentences = [error.detail(), error.hint()];
    message_problem(error.message())
        .into_iter()
        .chain(sentences.into_iter().flatten().filter_map(sentence_problem))
        .collect()
}

/// Calls that fail because of their arguments or the state of the database.
const REJECTED_CALLS: [&str; 23] = [
    "caption_image('http://127.0.0.1:1/a.jpg', 'poetic')",
    "caption_image('http://127.0.0.1:1/a.jpg', 'concise', 7)",
    "caption_images(ARRAY['http://127.0.0.1:1/a.jpg'], 'poetic')",
    "caption.watch('products', base_url => 'media/')",
    "caption.watch('products', base_url => 'ftp://cdn.example/')",
    "caption.watch('products', max_tokens => 7)",
    "caption.watch('products', 'photo')",
    "caption.watch('products', fills => '{\"alt\": \"poetic\"}')",
    "caption.watch('products', fills => '{\"text\": \"concise\"}')",
    "caption.watch('products', fills => '{\"id\": \"concise\"}')",
    "caption.watch('products', fills => '[]')",
    "caption.watch('without_key')",
    "caption.watch('deferrable_key')",
    "caption.watch('unstable_key')",
    "caption.watch('a_view')",
    "caption.watch(to_regclass('nowhere'))",
    "caption.unwatch('products')",
    "caption.pause('products')",
    "caption.resume(NULL)",
    "caption.retry('products')",
    "caption.recaption('products', NULL)",
    "caption.prune('products')",
    "caption.use_model('third')",
];

#[test]
fn rejected_calls_follow_the_style_guide() {
    let db = shared_database();
    let mut session = db.products(&[]);
    session.run(
        "CREATE TABLE without_key (id int, image_url text, alt text, seo text);
         CREATE TABLE deferrable_key (id int PRIMARY KEY DEFERRABLE,
                                      image_url text, alt text, seo text);
         CREATE TABLE unstable_key (id regclass PRIMARY KEY, image_url text, alt text, seo text);
         CREATE VIEW a_view AS SELECT * FROM products",
    );
    let mut found = Vec::new();
    for call in REJECTED_CALLS {
        let error = session.error(&format!("SELECT {call}"));
        found.extend(problems(&error).into_iter().map(|problem| format!("{call}: {problem}")));
    }
    session.run("SELECT caption.watch('products')");
    for block in ["BEGIN; CALL caption.wait('products')", "CALL caption.wait('without_key')"] {
        let error = session.error(block);
        found.extend(problems(&error).into_iter().map(|problem| format!("{block}: {problem}")));
        session.run("ROLLBACK");
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn picture_failures_follow_the_style_guide() {
    // Failures of one server must not cause a pause for the other one.
    let (db, web, unstable) = (shared_database(), TestServer::start(), TestServer::start());
    let mut damaged = pictures::jpeg(0);
    damaged.truncate(600);
    let redirect = ServerAnswer::status(302).header("Location", "/loop.jpg");
    let urls = [
        web.url("/missing.jpg"),
        web.serve("/gone.jpg", ServerAnswer::status(410)),
        unstable.serve("/error.jpg", ServerAnswer::status(500)),
        web.serve("/page.jpg", ServerAnswer::body(b"<html></html>".to_vec(), "image/jpeg")),
        web.serve("/empty.jpg", ServerAnswer::body(Vec::new(), "image/jpeg")),
        web.serve("/damaged.jpg", ServerAnswer::body(damaged, "image/jpeg")),
        unstable.serve("/lost.jpg", ServerAnswer::hang_up()),
        web.serve("/loop.jpg", redirect),
        web.url("/a.jpg").replace("http://", "http://user:password@"),
        "http://169.254.169.254/latest".into(),
        "ftp://127.0.0.1/a.jpg".into(),
        "/relative.jpg".into(),
        "http://".into(),
    ];
    let mut session = db.session();
    let mut found = Vec::new();
    for url in &urls {
        session.run("SET pg_caption.on_error = 'error'");
        let error = session.error(&format!("SELECT caption_image('{url}')"));
        session.run("SET pg_caption.on_error = 'null'");
        session.rows(&format!("SELECT caption_image('{url}')"));
        for notice in session.notices().iter().chain([&error]) {
            found.extend(problems(notice).into_iter().map(|problem| format!("{url}: {problem}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    // The same texts in the view of failures.
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM caption.failure) >= 8");
    for row in session.rows("SELECT message, detail FROM caption.failure") {
        found.extend(row[0].as_deref().and_then(message_problem));
        found.extend(row[1].as_deref().and_then(sentence_problem));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
