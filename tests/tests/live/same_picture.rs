//! No picture is looked at twice: rows with one URL, equal files, and what the ledger knows.

use pg_caption_tests::{FILLED, ServerAnswer, TestCluster, TestServer, TestSession};

/// A picture that its server wants to be asked for each time.
fn checked(number: u32, etag: &str) -> ServerAnswer {
    ServerAnswer::picture(number).header("ETag", etag).header("Cache-Control", "no-cache")
}

/// Pictures encoded and captions generated so far.
fn model_runs(session: &mut TestSession) -> (i64, i64) {
    let of = |session: &mut TestSession, column: &str| {
        session.number(&format!("SELECT {column} FROM caption.engine_status()"))
    };
    (of(session, "encoded"), of(session, "generated"))
}

fn saved(session: &mut TestSession, name: &str) -> i64 {
    session.number(&format!("SELECT (saved->>'{name}')::bigint FROM caption.engine_status()"))
}

fn watched(session: &mut TestSession) {
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
}

#[test]
fn rows_with_one_picture_cost_one_model_run() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let picture = ServerAnswer::picture(1).header("Cache-Control", "max-age=600");
    let url = web.serve("/a.jpg", picture);
    let mut session = db.products(&vec![url; 200]);
    watched(&mut session);
    assert!(web.hits("/a.jpg") <= 3, "{} fetches", web.hits("/a.jpg"));
    let (encoded, generated) = model_runs(&mut session);
    assert!(encoded <= 3 && generated <= 6, "{encoded} encodings, {generated} captions");
    assert!(session.holds("(SELECT count(DISTINCT (alt, seo)) = 1 FROM products)"));
    assert!(saved(&mut session, "fetches") >= 197 && saved(&mut session, "captions") >= 394);
    // Another database, another URL and another caller with the same bytes: only the fetch is new.
    let other = cluster.database();
    let copy = web.serve("/copy.jpg", ServerAnswer::picture(1));
    let mut second = other.products(std::slice::from_ref(&copy));
    second.run("INSERT INTO caption.style (name, max_chars) VALUES ('concise', 12)");
    watched(&mut second);
    assert_eq!(web.hits("/copy.jpg"), 1);
    assert!(second.holds("(SELECT length(alt) <= 12 FROM products)"), "by its own rules");
    let caption = second.text(&format!("SELECT caption_image('{copy}', 'seo')"));
    assert_eq!(session.text("SELECT DISTINCT seo FROM products"), caption);
    assert_eq!(web.hits("/copy.jpg"), 2, "a session has its URL fetched");
    assert_eq!(model_runs(&mut session), (encoded, generated));
    // A look-ahead UPDATE of rows with one picture.
    session.run("UPDATE products SET alt = caption_image(image_url, 'detailed') WHERE id < 60");
    assert!(model_runs(&mut session).1 <= generated + 1);
    assert!(saved(&mut session, "memo_bytes") > 0);
    // A new engine knows nothing.
    cluster.set("pg_caption.memo", "0");
    cluster.reload();
    db.eventually("(SELECT state = 'ready' AND encoded = 0 FROM caption.engine_status())");
    for encoded in 1..=2 {
        second.text(&format!("SELECT caption_image('{copy}')"));
        assert_eq!(model_runs(&mut session).0, encoded);
    }
}

// Without the memo: the ledger answers as long as the row exists.
#[test]
fn the_ledger_knows_the_picture_of_a_row() {
    let (cluster, web) = (TestCluster::private(&[("pg_caption.memo", "0")]), TestServer::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", checked(1, "\"v1\""));
    let mut session = db.products(std::slice::from_ref(&url));
    watched(&mut session);
    let before = model_runs(&mut session);
    let texts = "SELECT alt || seo FROM products";
    let (first, entry) =
        (session.text(texts), session.text("SELECT sha256 || model FROM caption.ledger"));
    let mut unchanged = |what: &str, path: &str, hits: usize| {
        db.eventually(FILLED);
        session.run("CALL caption.wait('products')");
        assert_eq!(session.text(texts), first, "{what}");
        assert_eq!(model_runs(&mut session), before, "{what}");
        assert_eq!(web.hits(path), hits, "{what}");
        assert_eq!(session.text("SELECT sha256 || model FROM caption.ledger"), entry, "{what}");
        assert!(session.holds("NOT EXISTS (SELECT FROM caption.failure)"), "{what}");
    };
    let run = |sql: &str| db.session().run(sql);
    run("UPDATE products SET alt = NULL");
    unchanged("a nightly import empties a column", "/a.jpg", 2);
    run("UPDATE products SET alt = '', seo = NULL");
    unchanged("and both columns", "/a.jpg", 3);
    let signed = web.serve("/a.jpg?signature=2", checked(1, "\"v1\""));
    run(&format!("UPDATE products SET image_url = '{signed}'"));
    unchanged("a new signature", "/a.jpg?signature=2", 1);
    let copy = web.serve("/b.jpg", checked(1, "\"other\""));
    run(&format!("UPDATE products SET image_url = '{copy}', alt = NULL"));
    unchanged("an equal file at another URL", "/b.jpg", 1);
    web.serve("/b.jpg", checked(1, "\"newer\""));
    run("SELECT caption.recaption('products')");
    unchanged("an equal file uploaded again", "/b.jpg", 2);
    // What is not the same is captioned.
    let seen = model_runs(&mut session).0;
    run(&format!("UPDATE products SET image_url = '{}'", web.serve("/c.jpg", checked(7, "\"c\""))));
    session.run("CALL caption.wait('products')");
    assert_eq!(model_runs(&mut session).0, seen + 1);
    assert_ne!(session.text("SELECT sha256 || model FROM caption.ledger"), entry);
    run("SELECT caption.watch('products', fills => '{\"alt\": \"seo\", \"seo\": \"seo\"}'); \
         UPDATE products SET alt = NULL");
    db.eventually(FILLED);
    assert_eq!(model_runs(&mut session).0, seen + 2, "another style");
    run("SELECT caption.recaption('products', force => true)");
    session.run("CALL caption.wait('products')");
    assert_eq!(model_runs(&mut session).0, seen + 3, "forced");
    assert!(saved(&mut session, "from_ledger") >= 6);
}

#[test]
fn an_unchanged_picture_column_runs_no_model() {
    let cluster = TestCluster::private(&[("pg_caption.memo", "0")]);
    let db = cluster.database();
    let mut session = db.session();
    let bytes = pg_caption_tests::pictures::bytea_literal(&pg_caption_tests::pictures::jpeg(4));
    session.run(&format!(
        "CREATE TABLE products (id int PRIMARY KEY, image bytea, alt text); \
         INSERT INTO products VALUES (1, {bytes}); \
         SELECT caption.watch('products', 'image', '{{\"alt\": \"concise\"}}')"
    ));
    session.run("CALL caption.wait('products')");
    let (text, before) = (session.text("SELECT alt FROM products"), model_runs(&mut session));
    session.run("UPDATE products SET alt = NULL");
    db.eventually("NOT EXISTS (SELECT FROM products WHERE alt IS NULL)");
    assert_eq!(session.text("SELECT alt FROM products"), text);
    assert_eq!(model_runs(&mut session), before);
}
