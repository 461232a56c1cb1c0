//! A transaction left open after a call of the extension delays its own table and nothing else.

use pg_caption_tests::{AnswerGate, ServerAnswer, TestCluster, TestServer, eventually};

/// Leaves `call` uncommitted, adds rows to this table and to another one, and checks that the same
/// worker fills the other table. After COMMIT the condition `finally` must hold.
fn only_its_own_table_waits(call: &str, finally: &str) {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    // A failed row, as work for a retry.
    let mut urls = web.pictures(3);
    urls.push(web.url("/gone.jpg"));
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session.run("CREATE TABLE other (LIKE products INCLUDING ALL); SELECT caption.watch('other')");
    session.run("CALL caption.wait('other')");

    // Rows of that table in flight: a new one, a changed one, and one that will fail.
    let gate = AnswerGate::new();
    let new: Vec<String> = (10..12)
        .map(|n| web.serve(&format!("/{n}.jpg"), ServerAnswer::picture(n).behind(&gate)))
        .collect();
    let gone = web.serve("/gone_too.jpg", ServerAnswer::status(404).behind(&gate));
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", new[0]));
    session.run(&format!(
        "UPDATE products SET alt = NULL, image_url = '{}' WHERE id = 1; \
         UPDATE products SET image_url = '{gone}' WHERE id = 4",
        new[1]
    ));
    eventually("the pictures are being fetched", || gate.waiting() >= 3);
    let mut open = db.session();
    open.run(&format!("BEGIN; {call}"));
    gate.open();
    let others = web.serve("/other.jpg", ServerAnswer::picture(6));
    for _ in 0..3 {
        session.run(&format!("INSERT INTO other (image_url) VALUES ('{others}')"));
        db.eventually("NOT EXISTS (SELECT FROM other WHERE alt IS NULL)");
    }
    open.run("COMMIT");
    db.eventually(finally);
    let log = cluster.log();
    assert!(
        !log.contains("lock timeout") && !log.contains("exited with exit code 1"),
        "no worker died:\n{}",
        cluster.log_tail("ERROR")
    );
}

#[test]
fn an_open_watch_delays_only_its_table() {
    only_its_own_table_waits(
        "SELECT caption.watch('products')",
        "(SELECT count(*) FROM products WHERE alt <> '') = 4",
    );
}

#[test]
fn an_open_retry_delays_only_its_table() {
    only_its_own_table_waits(
        "SELECT caption.retry('products')",
        "(SELECT count(*) FROM products WHERE alt <> '') = 4",
    );
}

#[test]
fn an_open_resume_delays_only_its_table() {
    only_its_own_table_waits(
        "SELECT caption.pause('products'), caption.resume('products')",
        "(SELECT count(*) FROM products WHERE alt <> '') = 4",
    );
}

#[test]
fn an_open_unwatch_delays_only_its_table() {
    only_its_own_table_waits(
        "SELECT caption.unwatch('products')",
        "NOT EXISTS (SELECT FROM caption.progress WHERE relation = 'products'::regclass)",
    );
}

#[test]
fn an_open_recaption_delays_only_its_table() {
    only_its_own_table_waits(
        "SELECT caption.recaption('products')",
        "(SELECT count(*) FROM products WHERE alt <> '') = 4",
    );
}

#[test]
fn an_open_prune_delays_only_its_table() {
    only_its_own_table_waits(
        "SELECT caption.prune('products')",
        "(SELECT count(*) FROM products WHERE alt <> '') = 4",
    );
}
