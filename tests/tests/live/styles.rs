//! Styles: built-in ones, those of a model, and rows of `caption.style`, in order of precedence.

use pg_caption_tests::{
    FILLED, ModelsDirectory, ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession,
    message_problem, shared_database,
};

/// The length of the longest caption of six pictures, in characters.
fn longest(session: &mut TestSession, web: &TestServer, style: &str) -> i64 {
    let urls: Vec<String> = (0..6)
        .map(|at| {
            format!("'{}'", web.serve(&format!("/{style}{at}.jpg"), ServerAnswer::picture(at)))
        })
        .collect();
    let urls = urls.join(", ");
    let failed = session.rows(&format!(
        "SELECT error FROM caption_images(ARRAY[{urls}], '{style}') WHERE caption IS NULL \
         AND error_class <> 'uncertain'"
    ));
    assert!(failed.is_empty(), "{failed:?}");
    session.number(&format!(
        "SELECT max(length(caption)) FROM caption_images(ARRAY[{urls}], '{style}')"
    ))
}

#[test]
fn a_row_defines_a_style() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let error = session.error(&format!("SELECT caption_image('{url}', 'my_style')"));
    assert!(
        error.detail().is_some_and(|detail| detail.contains("concise, seo, detailed")),
        "{error:?}"
    );
    session.run(
        "INSERT INTO caption.style (name, instruction, task, max_chars, min_chars) \
         VALUES ('my_style', 'Name it.', 'concise', 14, 1)",
    );
    assert!(longest(&mut session, &web, "my_style") <= 14);
    // A change is effective immediately, also within one transaction or one block.
    session.run(
        "DO $$ BEGIN UPDATE caption.style SET max_chars = 4000 WHERE name = 'my_style'; END $$",
    );
    assert!(longest(&mut session, &web, "my_style") > 14);
    session.run(&format!(
        "DO $$ BEGIN PERFORM caption_image('{url}', 'my_style'); DELETE FROM caption.style; \
         BEGIN PERFORM caption_image('{url}', 'my_style'); RAISE 'still known'; EXCEPTION \
         WHEN invalid_parameter_value THEN NULL; END; END $$"
    ));
}

#[test]
fn a_row_overrides_a_built_in_style() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    let before = longest(&mut session, &web, "concise");
    session.run("INSERT INTO caption.style (name, max_chars) VALUES ('concise', 12)");
    let after = longest(&mut session, &web, "concise");
    assert!(after <= 12 && before > 12, "{before} {after}");
    let url = web.serve("/stop.jpg", ServerAnswer::picture(0));
    // Other properties keep their built-in values: one sentence without a final stop.
    assert!(
        session.holds(&format!("(SELECT coalesce(caption_image('{url}'), 'x') NOT LIKE '%.')"))
    );
    // A watch uses the row, too.
    db.products(&web.pictures(4))
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("(SELECT max(length(alt)) <= 12 FROM products)"));
}

#[test]
fn an_unusable_style_is_not_stored() {
    let db = shared_database();
    let mut session = db.session();
    for values in [
        "(name) VALUES ('poetic')",
        "(name, instruction) VALUES ('Poetic', 'x')",
        "(name, instruction) VALUES ('poetic', '')",
        "(name, instruction, task) VALUES ('poetic', 'x', 'rhyme')",
        "(name, instruction, min_chars, max_chars) VALUES ('poetic', 'x', 50, 40)",
        "(name, instruction, prompts) VALUES ('poetic', 'x', '[]')",
        "(name, instruction, prompts) VALUES ('poetic', 'x', '{\"florence2\": 1}')",
        "(name, instruction) VALUES ('poetic', repeat('x', 2001))",
        "(name, instruction) VALUES ('poetic', E'bell\\x07')",
        "(name, instruction, language) VALUES ('poetic', 'x', 'not a language')",
        "(name, instruction, template) VALUES ('poetic', 'x', '')",
        "(name, max_sentences) VALUES ('seo', 0)",
    ] {
        let error = session.error(&format!("INSERT INTO caption.style {values}"));
        assert_eq!(error.code().code(), "23514", "{values}");
        assert_eq!(message_problem(error.message()), None, "{values}");
        let is_said = error.hint().is_some() && !error.message().contains("constraint");
        assert!(is_said, "{values}: {error:?}");
    }
}

#[test]
fn a_prompt_applies_to_its_family_only() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    session.run(
        "INSERT INTO caption.style (name, instruction, prompts) \
         VALUES ('other', 'Rhyme.', '{\"florence2\": \"Rhyme!\"}')",
    );
    assert!(longest(&mut session, &web, "other") > 0);
    // The model under test takes no instruction and reports a prompt instead of ignoring it.
    session.run(
        "INSERT INTO caption.style (name, instruction, prompts) \
         VALUES ('rhyming', 'Rhyme.', '{\"vision-encoder-decoder\": \"Rhyme!\"}')",
    );
    let error = session.error(&format!("SELECT caption_image('{url}', 'rhyming')"));
    assert!(error.message().contains("rhyming"), "{error:?}");
}

#[test]
fn a_model_brings_its_own_styles() {
    let (models, web) = (ModelsDirectory::of(&["plain", "styled"]), TestServer::start());
    let own = r#"{"styles": {
        "short": {"instruction": "Name it.", "task": "concise", "min_chars": 1, "max_chars": 14},
        "seo": {"min_chars": 1, "max_chars": 20}}}"#;
    std::fs::write(models.folder("styled").join("captions.json"), own).unwrap();
    let cluster = models.cluster("styled");
    let db = cluster.database();
    let mut session = db.session();
    assert_eq!(
        session.rows("SELECT styles FROM caption.models() WHERE active"),
        [[Some("{seo,short}".to_string())]]
    );
    assert!(longest(&mut session, &web, "short") <= 14);
    assert!(longest(&mut session, &web, "seo") <= 20);
    // A row takes precedence over the model.
    session.run("INSERT INTO caption.style (name, max_chars, min_chars) VALUES ('seo', 40, 1)");
    let seo = longest(&mut session, &web, "seo");
    assert!(seo > 20 && seo <= 40, "{seo}");
    db.products(&web.pictures(3))
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"short\"}')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds("(SELECT max(length(alt)) <= 14 FROM products)"));
    session.run("SELECT caption.use_model('plain', wait => true)");
    let error = session.error("SELECT caption_image('http://127.0.0.1:1/', 'short')");
    assert!(error.message().contains("short"), "{error:?}");
}

#[test]
fn a_model_with_invalid_styles_is_rejected() {
    let models = ModelsDirectory::of(&["plain", "styled"]);
    std::fs::write(models.folder("styled").join("captions.json"), r#"{"styles": {"short": {}}}"#)
        .unwrap();
    let cluster = models.cluster("plain");
    let db = cluster.database();
    let mut session = db.session();
    assert!(session.holds(
        "(SELECT problem LIKE '%captions.json%short%' FROM caption.models() WHERE name = 'styled')"
    ));
    let error = session.error("SELECT caption.use_model('styled')");
    assert!(error.detail().is_some_and(|detail| detail.contains("captions.json")), "{error:?}");
}

/// Creates the style `mine`.
const MINE: &str =
    "INSERT INTO caption.style (name, instruction, task) VALUES ('mine', 'Name it.', 'concise')";

/// A watch whose style was deleted, with a row to fill.
fn waiting_for_its_style(db: &TestDatabase, web: &TestServer) -> TestSession {
    let mut session = db.products(&[]);
    session.run(MINE);
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"mine\"}')");
    session.run("DELETE FROM caption.style");
    db.eventually(
        "(SELECT stopped AND state LIKE '%caption style \"mine\" does not exist%' \
         FROM caption.progress)",
    );
    session.run(&format!(
        "INSERT INTO products (image_url) VALUES ('{}')",
        web.serve("/a.jpg", ServerAnswer::picture(0))
    ));
    session
}

#[test]
fn a_restored_style_resumes_the_watch() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = waiting_for_its_style(&db, &web);
    session.run(MINE);
    db.eventually("(SELECT alt <> '' FROM products)");
    // The text may be visible before the backfill has ended.
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT state FROM caption.progress"), "idle");
}

#[test]
fn a_style_from_commit_prepared_is_seen() {
    let (cluster, web) =
        (TestCluster::private(&[("max_prepared_transactions", "5")]), TestServer::start());
    let db = cluster.database();
    let mut session = waiting_for_its_style(&db, &web);
    session.run(&format!("BEGIN; {MINE}; PREPARE TRANSACTION 'p'"));
    // The worker that PREPARE TRANSACTION notified has checked and ended.
    let no_worker =
        "NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_caption worker')";
    db.eventually(no_worker);
    session.run("COMMIT PREPARED 'p'");
    db.eventually("(SELECT alt <> '' FROM products)");
}

#[test]
fn a_fill_has_its_own_limits() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(2));
    session.run(
        "SELECT caption.watch('products', fills => '{\"alt\": {\"style\": \"concise\", \
         \"min_confidence\": 1}, \"seo\": {\"style\": \"seo\", \"max_tokens\": 128}}')",
    );
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NULL AND seo <> ''"), 2);
    assert!(session.holds("(SELECT bool_and(code = 'low_confidence') FROM caption.failure)"));
    // A fill that is given again replaces the old one whole; the other stays.
    session.notices();
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')");
    let notices = session.notices();
    let message = notices.first().expect("a notice").message();
    assert!(message.contains("has style concise instead of {\"min_confidence\":1.0"), "{message}");
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
    for (fill, problem) in [
        ("7", "of column \"alt\" must be the name of a style or an object, not a number"),
        ("{\"style\": \"concise\", \"tokens\": 64}", "unknown field \"tokens\""),
        ("{\"style\": \"concise\", \"max_tokens\": 8}", "it must be 32 to 256"),
        ("{\"style\": \"no_such\"}", "unknown caption style \"no_such\""),
    ] {
        let error = session
            .error(&format!("SELECT caption.watch('products', fills => '{{\"alt\": {fill}}}')"));
        assert!(error.message().contains(problem), "{error}");
        assert_eq!(error.code().code(), "22023");
    }
}
