//! The watched table: empty columns fill themselves.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, TestCluster, TestServer, TestSession, eventually,
    quote_literal, shared_database,
};

/// The caption that `caption_image` returns.
fn caption_of(session: &mut TestSession, url: &str) -> String {
    session.text(&format!("SELECT caption_image('{url}')"))
}

#[test]
fn existing_rows_are_filled() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 5);
    session.run("SELECT caption.watch('products', 'image_url')");
    db.eventually(FILLED);
}

#[test]
fn a_new_row_is_filled() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    let url = web.serve("/new.jpg", ServerAnswer::picture(1));
    session.run(&format!("INSERT INTO products (title, image_url) VALUES ('New', '{url}')"));
    db.eventually(&format!("EXISTS (SELECT FROM products) AND {FILLED}"));
    let (alt, caption) = (session.text("SELECT alt FROM products"), caption_of(&mut session, &url));
    assert_eq!(alt, caption);
}

#[test]
fn rolled_back_rows_are_never_fetched() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    let (undone, kept) = (
        web.serve("/undone.jpg", ServerAnswer::picture(1)),
        web.serve("/kept.jpg", ServerAnswer::picture(2)),
    );
    session.run(&format!("BEGIN; INSERT INTO products (image_url) VALUES ('{undone}'); ROLLBACK"));
    session.run(&format!(
        "BEGIN; \
         SAVEPOINT s; \
         INSERT INTO products (image_url) VALUES ('{undone}'); \
         ROLLBACK TO s; \
         COMMIT"
    ));
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{kept}')"));
    db.eventually(&format!("EXISTS (SELECT FROM products) AND {FILLED}"));
    assert_eq!(web.hits("/undone.jpg"), 0);
}

#[test]
fn a_picture_with_two_fills_is_fetched_once() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    for number in 0..3 {
        assert_eq!(web.hits(&format!("/{number}.jpg")), 1);
    }
}

#[test]
fn a_changed_url_replaces_the_caption() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    let url = web.serve("/other.jpg", ServerAnswer::picture(7));
    session.run(&format!("UPDATE products SET image_url = '{url}'"));
    let caption = caption_of(&mut session, &url);
    db.eventually(&format!("(SELECT alt = {} FROM products)", quote_literal(&caption)));
    eventually("the watch fetches the new picture, too", || web.hits("/other.jpg") == 2);
}

#[test]
fn a_user_text_is_not_overwritten() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run("UPDATE products SET alt = 'Written by hand' WHERE id = 1");
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 1"), "Written by hand");
}

#[test]
fn a_user_text_survives_a_new_url() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run("UPDATE products SET alt = 'Better words'");
    let before = session.text("SELECT seo FROM products");
    let url = web.serve("/other.jpg", ServerAnswer::picture(9));
    session.run(&format!("UPDATE products SET image_url = '{url}'"));
    let seo = session.text(&format!("SELECT caption_image('{url}', 'seo')"));
    if seo != before {
        db.eventually(&format!("(SELECT seo = {} FROM products)", quote_literal(&seo)));
    }
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT alt FROM products"), "Better words");
}

#[test]
fn a_row_edited_meanwhile_is_not_overwritten() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    session.run("UPDATE products SET alt = 'Just written by hand'");
    gate.open();
    db.eventually("(SELECT seo <> '' FROM products)");
    assert_eq!(session.text("SELECT alt FROM products"), "Just written by hand");
}

#[test]
fn a_changed_url_never_gets_the_old_caption() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let old = web.serve("/old.jpg", ServerAnswer::picture(0).behind(&gate));
    let new = web.serve("/new.jpg", ServerAnswer::picture(8));
    let mut session = db.products(&[old]);
    // Records everything that is written to the row.
    session.run(
        "CREATE TABLE history (url text, alt text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.history VALUES (NEW.image_url, NEW.alt); RETURN NEW; END $$;
         CREATE TRIGGER note AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION note()",
    );
    session.run("SELECT caption.watch('products')");
    eventually("the old picture is being fetched", || gate.waiting() >= 1);
    session.run(&format!("UPDATE products SET image_url = '{new}'"));
    gate.open();
    db.eventually(FILLED);
    let caption = caption_of(&mut session, &new);
    assert_eq!(
        session.number(&format!(
            "SELECT count(*) FROM history WHERE alt <> '' AND alt <> {}",
            quote_literal(&caption)
        )),
        0
    );
}

#[test]
fn an_emptied_text_is_filled_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run("UPDATE products SET alt = ''");
    db.eventually(FILLED);
    session.run("UPDATE products SET seo = NULL");
    db.eventually(FILLED);
}

#[test]
fn a_missing_picture_costs_only_its_row() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(3);
    urls.insert(1, web.url("/gone.jpg"));
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> '' AND seo <> ''"), 3);
    assert!(
        session.holds(
            "EXISTS (SELECT FROM caption.failure AS f WHERE to_jsonb(f)::text LIKE '%410%')"
        )
    );
    assert_eq!(web.hits("/gone.jpg"), 1, "a rejected picture is not tried again");
}

#[test]
fn retry_processes_failed_rows_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.url("/late.jpg");
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM caption.failure)");
    web.serve("/late.jpg", ServerAnswer::picture(0));
    session.run("SELECT caption.retry('products')");
    db.eventually(FILLED);
    db.eventually("NOT EXISTS (SELECT FROM caption.failure)");
}

#[test]
fn a_server_error_is_retried() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::status(500));
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    eventually("the picture was requested", || web.hits("/a.jpg") > 0);
    web.serve("/a.jpg", ServerAnswer::picture(0));
    db.eventually(FILLED);
}

#[test]
fn a_busy_host_delays_no_other_host() {
    let (db, busy, web) = (shared_database(), TestServer::start(), TestServer::start());
    let cooling = busy.serve("/busy.jpg", ServerAnswer::status(429).header("Retry-After", "1"));
    let mut urls = vec![cooling; 3];
    urls.extend(web.pictures(3));
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 3");
    busy.serve("/busy.jpg", ServerAnswer::picture(5));
    db.eventually(FILLED);
}

#[test]
fn a_paused_watch_writes_nothing() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    session.run("SELECT caption.pause('products')");
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    // A second table shows that a worker has run since.
    session.run("CREATE TABLE other (LIKE products INCLUDING ALL)");
    session.run("SELECT caption.watch('other')");
    let url = web.serve("/b.jpg", ServerAnswer::picture(1));
    session.run(&format!("INSERT INTO other (image_url) VALUES ('{url}')"));
    db.eventually("(SELECT alt <> '' FROM other)");
    assert_eq!(web.hits("/a.jpg"), 0);
    session.run("SELECT caption.resume('products')");
    db.eventually(FILLED);
}

#[test]
fn an_unwatched_table_is_left_alone() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run("SELECT caption.unwatch('products')");
    assert_eq!(
        session.number(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'products'::regclass \
             AND NOT tgisinternal"
        ),
        0
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.progress"), 0);
    session.run("UPDATE products SET alt = NULL");
    session.run(&format!(
        "INSERT INTO products (image_url) VALUES ('{}')",
        web.serve("/late.jpg", ServerAnswer::picture(3))
    ));
    // A second table shows that a worker has run since.
    session.run("CREATE TABLE other (LIKE products INCLUDING ALL); SELECT caption.watch('other')");
    session.run(&format!(
        "INSERT INTO other (image_url) VALUES ('{}')",
        web.serve("/other.jpg", ServerAnswer::picture(1))
    ));
    session.run("CALL caption.wait('other')");
    assert_eq!(session.number("SELECT count(alt) FROM products"), 0);
    assert_eq!((web.hits("/0.jpg"), web.hits("/late.jpg"), web.hits("/other.jpg")), (1, 0, 1));
    let remaining = "SELECT count(*) FROM (SELECT relation FROM caption.queue UNION ALL \
        SELECT relation FROM caption.failed UNION ALL SELECT relation FROM caption.watch_state) x \
        WHERE relation = 'products'::regclass";
    assert_eq!(session.number(remaining), 0, "no bookkeeping is left but the ledger");
}

#[test]
fn wait_returns_when_all_rows_are_done() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 6);
    session.run("SELECT caption.watch('products')");
    session.notices();
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
    assert!(session.notices().iter().any(|notice| notice.severity() == "NOTICE"));
}

#[test]
fn progress_counts_filled_rows() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 4);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    db.eventually(
        "(SELECT (filled, waiting, in_flight, deferred, failed) = (4, 0, 0, 0, 0) \
         FROM caption.progress WHERE relation = 'products'::regclass)",
    );
    assert!(
        session.text("SELECT bar FROM caption.progress").contains("100"),
        "{}",
        session.text("SELECT bar FROM caption.progress")
    );
}

#[test]
fn overwrite_replaces_user_texts() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("UPDATE products SET alt = 'Old words'");
    session.run("SELECT caption.watch('products', overwrite => true)");
    db.eventually("(SELECT alt <> 'Old words' AND seo <> '' FROM products)");
}

#[test]
fn two_databases_are_filled_in_parallel() {
    let (one, two, web) = (shared_database(), shared_database(), TestServer::start());
    let gate = AnswerGate::new();
    let slow = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    one.products(&[slow]).run("SELECT caption.watch('products')");
    eventually("the first database has work", || gate.waiting() >= 1);
    two.products_of(&web, 3).run("SELECT caption.watch('products')");
    two.eventually(FILLED);
    gate.open();
    one.eventually(FILLED);
}

#[test]
fn a_later_extension_is_discovered() {
    let (db, web) = (TestCluster::shared().empty_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("CREATE EXTENSION pg_caption");
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
}

#[test]
fn a_rewatch_in_one_transaction_backfills() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.url("/late.jpg");
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "EXISTS (SELECT FROM caption.failure) AND (SELECT backfill_done FROM caption.watch_state)",
    );
    web.serve("/late.jpg", ServerAnswer::picture(0));
    // The worker that finished the first backfill is still running.
    session
        .run("BEGIN; SELECT caption.unwatch('products'); SELECT caption.watch('products'); COMMIT");
    db.eventually(FILLED);
}

#[test]
fn a_new_url_resets_the_attempts() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.max_attempts", "2")]), TestServer::start());
    let db = cluster.database();
    let broken: Vec<String> =
        (0..2).map(|n| web.serve(&format!("/{n}.jpg"), ServerAnswer::status(500))).collect();
    let mut session = db.products(&broken[..1]);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT attempts = 1 FROM caption.deferred)");
    session.run(&format!("UPDATE products SET image_url = '{}'", broken[1]));
    eventually("the new picture was requested", || web.hits("/1.jpg") == 1);
    db.eventually("NOT EXISTS (SELECT FROM caption.queue)");
    assert_eq!(session.number("SELECT attempts FROM caption.deferred"), 1);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn texts_of_a_removed_url_are_taken_away() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 5);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run(
        "UPDATE products SET seo = 'edited' WHERE id <= 2; \
         UPDATE products SET image_url = CASE id WHEN 1 THEN NULL WHEN 2 THEN '' END WHERE id <= 2",
    );
    db.eventually("(SELECT count(*) FROM products WHERE alt IS NULL AND seo = 'edited') = 2");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 3);
    // While the watch is paused, too; and nothing is left to do.
    session.run("SELECT caption.pause('products')");
    session.run("UPDATE products SET image_url = NULL; SELECT caption.resume('products')");
    db.eventually("NOT EXISTS (SELECT FROM products WHERE alt <> '')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    let hits = web.total();
    session.run("UPDATE products SET alt = 'by hand'");
    session.run("CALL caption.wait('products')");
    assert_eq!(web.total(), hits, "nothing is fetched for rows without a URL");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt = 'by hand'"), 5);
}

#[test]
fn relative_urls_are_resolved_against_the_base_url() {
    let (db, web) = (shared_database(), TestServer::start());
    web.serve("/media/p/1.jpg", ServerAnswer::picture(1));
    web.serve("/2.jpg", ServerAnswer::picture(2));
    let whole = web.serve("/3.jpg", ServerAnswer::picture(3));
    let mut session = db.products(&["p/1.jpg".into(), "/2.jpg".into(), whole]);
    session.run(&format!("SELECT caption.watch('products', base_url => '{}')", web.url("/media/")));
    db.eventually(FILLED);
    assert_eq!(web.hits("/media/p/1.jpg"), 1);
    // A new value is captioned again, an equal one is not.
    web.serve("/media/p/4.jpg", ServerAnswer::picture(4));
    let before = session.text("SELECT alt FROM products WHERE id = 1");
    session.run("UPDATE products SET image_url = 'p/4.jpg' WHERE id = 1");
    session.run("CALL caption.wait('products')");
    assert_ne!(session.text("SELECT alt FROM products WHERE id = 1"), before);
}

#[test]
fn a_second_watch_changes_what_it_is_given() {
    let db = shared_database();
    let mut session = db.products(&[]);
    session.run("ALTER TABLE products ADD long text; SELECT caption.watch('products')");
    session.notices();
    session.run("SELECT caption.watch('products', fills => '{\"long\": \"detailed\"}')");
    let options = "SELECT fills::text || max_tokens FROM caption.watch";
    assert_eq!(session.text(options), r#"{"alt": "concise", "seo": "seo", "long": "detailed"}64"#);
    let notices = session.notices();
    assert!(notices[0].message().contains("column \"long\" is filled with"), "{notices:?}");
    session.run("SELECT caption.watch('products', max_tokens => 128)");
    assert_eq!(session.text(options), r#"{"alt": "concise", "seo": "seo", "long": "detailed"}128"#);
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"seo\"}', replace => true)");
    assert_eq!(session.text(options), r#"{"alt": "seo"}128"#);
}

// Queue and backfill are acknowledged by pages of up to 500 rows: the bar moves within one.
#[test]
fn the_bar_of_a_small_table_moves() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let urls = web.half_gated_pictures(8, &gate);
    let mut session = db.products(&urls);
    let percent = "substring(p.bar FROM '([0-9]+)%')::int";
    let half = format!(
        "(SELECT p.filled = 4 AND {percent} = 50 AND p.waiting = 4 FROM caption.progress p)"
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(&half);
    // The same for rows from the queue.
    session.run("SELECT caption.unwatch('products'); TRUNCATE products");
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    let values: Vec<String> = urls.iter().map(|url| format!("('{url}')")).collect();
    session.run(&format!("INSERT INTO products (image_url) VALUES {}", values.join(", ")));
    db.eventually(&half);
    gate.open();
    session.run("CALL caption.wait('products')");
    assert!(session.holds(&format!("(SELECT {percent} = 100 FROM caption.progress p)")));
}
