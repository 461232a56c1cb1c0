//! A server that does not preload the library, such as one that runs migrations: watches are
//! registered with a warning, rows are queued, and all is done once it is preloaded.

use pg_caption_tests::{FILLED, ServerAnswer, StopMode, TestCluster, TestServer};

#[test]
fn a_watch_without_preload_begins_with_it() {
    let cluster = TestCluster::private(&[("shared_preload_libraries", "")]);
    let (db, web) = (cluster.database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run("ALTER TABLE products ADD long text");
    session.run("BEGIN; SELECT caption.watch('products'); COMMIT");
    let notices = session.notices();
    let warning = notices.iter().find(|n| n.severity() == "WARNING").expect("a warning");
    assert_eq!(
        warning.message(),
        "table public.products is watched, but pg_caption is not running"
    );
    // Everything that a migration does works.
    session.run(
        "SELECT caption.watch('products', fills => '{\"long\": \"detailed\"}'); \
         ALTER TABLE products DROP COLUMN long; \
         SELECT caption.pause('products'), caption.resume('products'); \
         CREATE TABLE other (LIKE products INCLUDING ALL); \
         SELECT caption.watch('other'); SELECT caption.unwatch('other')",
    );
    let mut fresh = db.session();
    let url = web.serve("/new.jpg", ServerAnswer::picture(5));
    fresh.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    let state = fresh.text("SELECT state FROM caption.progress");
    assert!(state.contains("not in shared_preload_libraries"), "{state}");
    for statement in [
        "CALL caption.wait('products')",
        "SELECT caption.retry('products')",
        "SELECT caption.recaption('products')",
        "SELECT caption.prune('products')",
        "SELECT caption_image('http://127.0.0.1/a.jpg')",
    ] {
        let error = fresh.error(statement);
        assert_eq!(error.message(), "pg_caption is not running in this server", "{statement}");
        assert!(error.hint().unwrap_or_default().contains("shared_preload_libraries"));
    }
    drop((session, fresh));
    cluster.set("shared_preload_libraries", "pg_caption");
    cluster.restart(StopMode::Fast);
    db.eventually(&format!("(SELECT count(*) FROM products) = 4 AND {FILLED}"));
    let mut session = db.session();
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}
