//! Languages of styles and fills: which are accepted, and what becomes of a watch whose model does
//! not know its language.

use pg_caption_tests::{ModelsDirectory, TestServer, shared_database};

const GERMAN: &str = "SELECT caption.watch('products', fills => \
    '{\"alt\": {\"style\": \"concise\", \"language\": \"DE-at\"}}')";

#[test]
fn a_language_that_the_model_lacks_is_refused() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(2));
    session.run(
        "INSERT INTO caption.style (name, max_chars, language) VALUES ('concise', 100, 'pt-br'), \
         ('seo', 150, 'EN')",
    );
    for statement in ["SELECT caption_image(image_url) FROM products", GERMAN] {
        let error = session.error(statement);
        assert_eq!(error.code().code(), "0A000");
        assert!(error.message().contains("does not know the language"), "{error}");
        assert_eq!(error.detail(), Some("It writes: en."));
        assert!(error.hint().is_some_and(|hint| hint.contains("No installed model")), "{error:?}");
    }
    // A fill wins over its style.
    session.run(
        "SELECT caption.watch('products', fills => '{\"alt\": {\"style\": \"concise\", \
         \"language\": \"en-gb\"}, \"seo\": \"seo\"}')",
    );
    session.run("CALL caption.wait('products')");
    let languages = "SELECT string_agg(DISTINCT column_name || ' ' || language, ', ') \
                     FROM caption.texts('products')";
    assert_eq!(session.text(languages), "alt en-GB, seo en");
    for fill in ["german", "de_", "", "xx-invalid-1"] {
        let error = session.error(&format!(
            "SELECT caption.watch('products', fills => '{{\"alt\": {{\"style\": \"concise\", \
             \"language\": \"{fill}\"}}}}')"
        ));
        assert_eq!(error.code().code(), "22023", "{error}");
        let style = format!("UPDATE caption.style SET language = '{fill}'");
        assert_eq!(session.error(&style).code().code(), "23514");
    }
    assert!(session.holds("(SELECT caption.is_language('zh-Hant-TW'))"));
}

#[test]
fn a_model_without_the_language_stops_the_watch() {
    let (models, web) = (ModelsDirectory::of(&["plain", "polyglot"]), TestServer::start());
    let file = models.folder("polyglot").join("captions.json");
    std::fs::write(file, r#"{"languages": ["en", "de"]}"#).unwrap();
    let cluster = models.cluster("polyglot");
    let db = cluster.database();
    let mut session = db.products(&web.pictures(3));
    session.run(GERMAN);
    session.run("CALL caption.wait('products')");
    // It claims to know German and writes English, which is found where the text leaves no doubt.
    let found = "SELECT count(*) FROM caption.failure WHERE code = 'wrong_language' \
                 AND class = 'uncertain'";
    let written = "SELECT count(*) FROM products WHERE alt <> ''";
    assert_eq!(session.number(found) + session.number(written), 3);
    session.run("SELECT caption.use_model('plain', wait => true)");
    db.eventually(
        "(SELECT stopped AND state LIKE '%model \"plain\" does not know the language \"de-AT\"%' \
            AND state LIKE '%: polyglot%' FROM caption.progress)",
    );
    let error = session.error(GERMAN);
    assert!(error.hint().is_some_and(|hint| hint.ends_with("polyglot.")), "{error:?}");
    session.run("SELECT caption.use_model('polyglot', wait => true)");
    db.eventually("(SELECT NOT stopped FROM caption.progress)");
}
