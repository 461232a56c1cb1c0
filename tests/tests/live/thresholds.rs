//! `pg_caption.min_confidence`: rows are judged by its present value.

use pg_caption_tests::{FILLED, ServerAnswer, TestCluster, TestServer, shared_database};

#[test]
fn uncertain_rows_are_judged_by_a_new_threshold() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.min_confidence", "1")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run(&format!(
        "INSERT INTO products (image_url) VALUES ('{}')",
        web.serve("/gone.jpg", ServerAnswer::status(410))
    ));
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    let uncertain = "(SELECT count(*) FROM caption.failure WHERE code = 'low_confidence')";
    assert_eq!(session.number(&format!("SELECT {uncertain}")), 3);
    let set = |value: &str| {
        let mut session = cluster.session("postgres");
        session.run(&format!("ALTER SYSTEM SET pg_caption.min_confidence = {value}"));
        session.run("SELECT pg_reload_conf()");
    };
    // A lower one that is still too high judges them, once.
    let hits = web.total();
    set("0.9999");
    pg_caption_tests::eventually("the pictures were judged again", || web.total() >= hits + 3);
    db.eventually(&format!("{uncertain} = 3"));
    session.run("CALL caption.wait('products')");
    assert_eq!((web.total(), web.hits("/gone.jpg")), (hits + 3, 1), "only uncertain rows");
    // A lower one also wakes a worker that has left.
    let worker = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_caption worker'";
    pg_caption_tests::eventually("the worker leaves", || session.number(worker) == 0);
    set("0");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 3");
    db.eventually("(SELECT count(*) FROM caption.failure) = 1");
    // Under a higher one, what was written stays; a new row is judged by it.
    set("1");
    let url = web.serve("/new.jpg", ServerAnswer::picture(9));
    session.run("DELETE FROM products WHERE id = 4");
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    db.eventually(&format!("{uncertain} = 1"));
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 3);
    session.run("DELETE FROM products WHERE alt IS NULL");
    assert!(session.holds(FILLED));
}

#[test]
fn a_changed_threshold_of_a_fill_judges_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    let fills = |min: &str| {
        format!(
            "{{\"alt\": \"concise\", \"seo\": {{\"style\": \"seo\", \"min_confidence\": {min}, \
             \"fallback\": \"{{title}}\"}}}}"
        )
    };
    session.run("UPDATE products SET title = CASE id WHEN 1 THEN 'Teapot' END");
    session.run(&format!("SELECT caption.watch('products', fills => '{}')", fills("1")));
    session.run("CALL caption.wait('products')");
    let seo = "SELECT string_agg(coalesce(seo, '-'), ' ' ORDER BY id) FROM products";
    assert_eq!(session.text(seo), "Teapot -");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 2);
    // A higher one accepts nothing more; a lower one may, also where the fallback is.
    let hits = web.hits("/0.jpg");
    session.run(&format!("SELECT caption.watch('products', fills => '{}')", fills("1.0")));
    session.run("CALL caption.wait('products')");
    assert_eq!(web.hits("/0.jpg"), hits);
    session.run(&format!("SELECT caption.watch('products', fills => '{}')", fills("0")));
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    assert!(session.holds("(SELECT bool_and(length(seo) > 7) FROM products)"));
    assert_eq!(web.hits("/0.jpg"), hits + 1, "judged once");
}
