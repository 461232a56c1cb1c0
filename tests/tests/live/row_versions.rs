//! The recipe of docs/watching.md for `updated_at`, version columns and webhooks: captions leave
//! them alone, and other writers do not.

use pg_caption_tests::{ServerAnswer, TestServer, project, shared_database, sql_blocks};

/// The trigger of the page.
fn recipe() -> String {
    let page = std::fs::read_to_string(project().join("docs/watching.md")).expect("the page");
    let recipe = sql_blocks(&page).find(|block| block.starts_with("CREATE TRIGGER touch"));
    recipe.expect("the recipe").to_owned()
}

#[test]
fn captions_leave_versions_and_webhooks_alone() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run(
        "ALTER TABLE products ADD updated_at timestamptz NOT NULL DEFAULT 'epoch', \
             ADD version int NOT NULL DEFAULT 1; \
         CREATE TABLE outbox (id int, at timestamptz DEFAULT clock_timestamp()); \
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             NEW.updated_at := clock_timestamp(); NEW.version := OLD.version + 1; \
             INSERT INTO outbox VALUES (NEW.id); RETURN NEW; END $$",
    );
    session.run(&recipe());
    let xmin = session.text("SELECT xmin FROM products WHERE id = 1");
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NULL"), 0);
    let untouched = "(SELECT bool_and(version = 1 AND updated_at = 'epoch') FROM products) \
                     AND NOT EXISTS (SELECT FROM outbox)";
    assert!(session.holds(untouched), "captions");
    assert_ne!(session.text("SELECT xmin FROM products WHERE id = 1"), xmin, "as documented");
    // Optimistic locking of a client that read the row before its caption.
    let url = web.serve("/new.jpg", ServerAnswer::picture(4));
    session.run(&format!("UPDATE products SET image_url = '{url}' WHERE id = 1 AND version = 1"));
    session.run("CALL caption.wait('products')");
    assert!(session.holds(
        "(SELECT version = 2 AND updated_at > 'epoch' FROM products WHERE id = 1) \
         AND (SELECT count(*) = 1 FROM outbox)"
    ));
}

// A trigger that needs a setting of the application's sessions.
#[test]
fn a_missing_setting_is_explained() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run(
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM current_setting('app.actor'); RETURN NEW; END $$; \
         CREATE TRIGGER audit BEFORE UPDATE ON products \
             FOR EACH ROW EXECUTE FUNCTION audit()",
    );
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    let failure = "SELECT code || ': ' || message || '|' || detail FROM caption.failure";
    let failure = session.text(failure);
    assert!(failure.starts_with("write_refused: "), "{failure}");
    let (message, detail) = failure.split_once('|').expect("both");
    assert!(message.contains("\"app.actor\""), "{failure}");
    assert!(detail.contains("current_setting('app.user', true)"), "{failure}");
    // Either remedy of the detail.
    session.run(&format!("ALTER DATABASE {} SET app.actor = 'captions'", db.name));
    session.run("SELECT caption.retry('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}
