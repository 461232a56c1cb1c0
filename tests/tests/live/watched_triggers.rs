//! Triggers of watched tables: attached and detached partitions, disabled and missing triggers.

use pg_caption_tests::{
    FILLED, ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, shared_database,
};

/// A watched partitioned table with one filled row in its first partition.
fn partitioned(db: &TestDatabase<'_>, web: &TestServer) -> TestSession {
    let mut session = db.session();
    session.run(
        "CREATE TABLE products (id int PRIMARY KEY, image_url text, alt text, seo text) \
         PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF products FOR VALUES FROM (0) TO (100)",
    );
    session.run(&format!(
        "INSERT INTO products VALUES (1, '{}')",
        web.serve("/1.jpg", ServerAnswer::picture(1))
    ));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session
}

#[test]
fn rows_of_an_attached_partition_are_filled() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = partitioned(&db, &web);
    let url = web.serve("/2.jpg", ServerAnswer::picture(2));
    session.run(&format!(
        "CREATE TABLE high (LIKE products INCLUDING ALL); INSERT INTO high VALUES (200, '{url}')"
    ));
    session.run("ALTER TABLE products ATTACH PARTITION high FOR VALUES FROM (100) TO (1000)");
    // Immediately, without another event that starts a worker.
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
    assert_eq!(web.hits("/1.jpg"), 1, "the filled row is not captioned again");
    // Detached, changed and attached again.
    session.run("ALTER TABLE products DETACH PARTITION high; UPDATE high SET seo = NULL");
    session.run("ALTER TABLE products ATTACH PARTITION high FOR VALUES FROM (100) TO (1000)");
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
}

#[test]
fn a_partition_attached_by_commit_prepared_is_filled() {
    let (cluster, web) =
        (TestCluster::private(&[("max_prepared_transactions", "2")]), TestServer::start());
    let db = cluster.database();
    let mut session = partitioned(&db, &web);
    let url = web.serve("/2.jpg", ServerAnswer::picture(2));
    session.run(
        "CREATE TABLE high (id int PRIMARY KEY, image_url text, alt text, seo text) \
         PARTITION BY RANGE (id);
         CREATE TABLE higher PARTITION OF high FOR VALUES FROM (500) TO (1000)",
    );
    session.run(&format!("INSERT INTO high VALUES (600, '{url}')"));
    session.run(
        "BEGIN; \
         ALTER TABLE products ATTACH PARTITION high FOR VALUES FROM (100) TO (1000); \
         PREPARE TRANSACTION 'attach'",
    );
    session.run("COMMIT PREPARED 'attach'");
    db.eventually(FILLED);
}

#[test]
fn an_empty_partition_costs_no_backfill() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = partitioned(&db, &web);
    let backfill_run = "SELECT backfill_run FROM caption.watch_state";
    let before = session.number(backfill_run);
    session.run("CREATE TABLE high PARTITION OF products FOR VALUES FROM (100) TO (1000)");
    let url = web.serve("/2.jpg", ServerAnswer::picture(2));
    session.run(&format!("INSERT INTO products VALUES (200, '{url}')"));
    db.eventually(FILLED);
    assert_eq!(session.number(backfill_run), before);
}

// Rows written meanwhile are filled once the triggers are enabled.
#[test]
fn disabled_triggers_stop_the_watch() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    for (off, on) in [
        ("DISABLE TRIGGER USER", "ENABLE TRIGGER USER"),
        ("DISABLE TRIGGER pg_caption_insert", "ENABLE TRIGGER pg_caption_insert"),
        ("ENABLE REPLICA TRIGGER pg_caption_insert", "ENABLE ALWAYS TRIGGER pg_caption_insert"),
    ] {
        session.run(&format!("ALTER TABLE products {off}"));
        db.eventually(
            "(SELECT stopped AND state LIKE '%triggers are disabled%ENABLE TRIGGER%' \
             FROM caption.progress)",
        );
        session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg")));
        session.run(&format!("ALTER TABLE products {on}"));
        db.eventually(FILLED);
        assert_eq!(session.text("SELECT state FROM caption.progress"), "idle", "{off}");
    }
}

#[test]
fn disabled_partition_triggers_are_reported() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = partitioned(&db, &web);
    session.run("ALTER TABLE low DISABLE TRIGGER USER");
    db.eventually(
        "(SELECT stopped AND state LIKE '%triggers are disabled%low%' FROM caption.progress)",
    );
    session.run(&format!("INSERT INTO products VALUES (2, '{}')", web.url("/1.jpg")));
    session.run("ALTER TABLE low ENABLE TRIGGER USER");
    db.eventually(FILLED);
}

#[test]
fn a_repeated_watch_enables_the_triggers() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    session.run("ALTER TABLE products DISABLE TRIGGER USER");
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg")));
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
}

#[test]
fn triggers_not_firing_on_replica_are_reported() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products', on_replica => true)");
    session.run("CALL caption.wait('products')");
    // ENABLE TRIGGER enables them for sessions of this server only, not for replicated rows.
    session
        .run("ALTER TABLE products DISABLE TRIGGER USER; ALTER TABLE products ENABLE TRIGGER USER");
    db.eventually(
        "(SELECT stopped AND state LIKE '%triggers are disabled%caption.watch()%' \
         FROM caption.progress)",
    );
    session.run("SELECT caption.watch('products', on_replica => true)");
    session.run("CALL caption.wait('products')");
}
