//! Image columns that hold the picture itself, and those that hold several.

use pg_caption_tests::pictures::{bytea_literal, jpeg};
use pg_caption_tests::{FILLED, TestCluster, TestServer, project, shared_database, sql_blocks};

#[test]
fn pictures_in_a_column_are_captioned() {
    let cluster = TestCluster::private(&[("pg_caption.max_image_size", "100kB")]);
    let db = cluster.database();
    let mut session = db.session();
    session.run(
        "CREATE TABLE products (id int PRIMARY KEY, title text, photo bytea, alt text, seo text); \
         ALTER TABLE products ALTER photo SET STORAGE EXTERNAL",
    );
    for (id, picture) in [(1, 1), (2, 2), (3, 1)] {
        let picture = bytea_literal(&jpeg(picture));
        session.run(&format!("INSERT INTO products VALUES ({id}, 'x', {picture})"));
    }
    session.run(
        "INSERT INTO products VALUES (4, 'no picture', NULL), (5, 'empty', ''), \
         (6, 'damaged', 'not a picture at all'), (7, 'large', decode(repeat('00', 200000), 'hex'))",
    );
    session.run("SELECT caption.watch('products', image => 'photo')");
    session.run("CALL caption.wait('products')");
    let text = |session: &mut pg_caption_tests::TestSession, id: i32| {
        session.value(&format!("SELECT alt FROM products WHERE id = {id}"))
    };
    let first = text(&mut session, 1).expect("a caption");
    let expected = session.text("SELECT caption_image(photo) FROM products WHERE id = 1");
    assert_eq!((first.as_str(), text(&mut session, 3)), (expected.as_str(), Some(first.clone())));
    let failures = "SELECT string_agg(key->>'id' || ' ' || code, ', ' ORDER BY key) FROM \
        caption.failure";
    assert_eq!(session.text(failures), "6 not_an_image, 7 too_large");
    assert!(session.holds("(SELECT filled = 3 FROM caption.progress)"));
    // No bytes of a picture are in the bookkeeping; the ledger has hashes.
    assert!(session.holds(
        "(SELECT max(length(url)) = 32 AND max(length(outputs::text)) < 4000 FROM caption.ledger)"
    ));
    assert_eq!(session.number("SELECT count(*) FROM caption.failure WHERE detail LIKE '%\\x%'"), 0);
    // Another picture replaces the text, the same one does not, and no picture takes it away.
    session.run("UPDATE products SET title = 'y'; UPDATE products SET photo = photo WHERE id = 2");
    let second = bytea_literal(&jpeg(2));
    session.run(&format!("UPDATE products SET photo = {second} WHERE id = 1"));
    session.run("UPDATE products SET photo = NULL WHERE id = 3");
    db.eventually("(SELECT alt IS NULL FROM products WHERE id = 3)");
    session.run("CALL caption.wait('products')");
    assert_eq!(text(&mut session, 1), text(&mut session, 2));
    assert_ne!(text(&mut session, 1), Some(first));
    // The triggers compare bytea, not its text.
    let condition = "SELECT pg_get_triggerdef(oid) FROM pg_trigger \
        WHERE tgname = 'pg_caption_update'";
    let condition = session.text(condition);
    assert!(condition.contains("new.photo IS DISTINCT FROM old.photo"), "{condition}");
    // Corrected rows, and conditions.
    let third = bytea_literal(&jpeg(3));
    session.run(&format!("UPDATE products SET photo = {third} WHERE id IN (6, 7)"));
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 4);
    session.run("SELECT caption.watch('products', condition => 'octet_length(photo) > 100000')");
    session.run("UPDATE products SET alt = NULL, seo = NULL");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 0);
    for option in ["base_url => 'http://localhost/'", "sign => 'btrim(text)'"] {
        let error = session.error(&format!("SELECT caption.watch('products', {option})"));
        assert!(error.message().contains("has no use"), "{error:?}");
    }
}

// Many large pictures: the worker holds one at a time, whatever its window.
#[test]
fn a_worker_holds_one_picture_at_a_time() {
    let cluster = TestCluster::private(&[("pg_caption.max_workers", "1")]);
    let db = cluster.database();
    let mut session = db.session();
    session.run(
        "CREATE TABLE products (id int PRIMARY KEY, photo bytea, alt text, seo text); \
         ALTER TABLE products ALTER photo SET STORAGE EXTERNAL",
    );
    // A JPEG may be followed by anything.
    let mut picture = jpeg(1);
    picture.resize(8 << 20, 0);
    let picture = bytea_literal(&picture);
    session.run(&format!("INSERT INTO products VALUES (0, {picture})"));
    session.run("INSERT INTO products SELECT n, photo FROM products, generate_series(1, 39) n");
    session.run("SELECT caption.watch('products', image => 'photo')");
    let mut most = 0;
    pg_caption_tests::eventually("all rows are filled", || {
        for pid in cluster.processes_titled("pg_caption worker") {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let data = status.lines().find_map(|line| line.strip_prefix("VmData:"));
            let kilobytes = data.and_then(|data| data.split_whitespace().next()?.parse().ok());
            most = most.max(kilobytes.unwrap_or(0));
        }
        session.holds(FILLED)
    });
    assert!(most < 120_000, "a worker allocated {most} kB for 40 pictures of 8 MB");
}

/// The SQL of docs/galleries.md.
fn documented() -> String {
    let page = std::fs::read_to_string(project().join("docs/galleries.md")).expect("the page");
    sql_blocks(&page).next().expect("SQL").into()
}

#[test]
fn galleries_get_a_row_for_each_picture() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    let urls = web.pictures(4);
    for (table, kind, value) in [
        ("products", "text[]", format!("ARRAY['{}', NULL, '{}', '{0}']", urls[0], urls[1])),
        ("\"My \"\"shop\"\"\"", "text[]", format!("ARRAY['{}', '{}']", urls[0], urls[1])),
        (
            "objects",
            "jsonb",
            format!("'[{{\"url\": \"{}\", \"w\": 1}}, \"{}\", null]'::jsonb", urls[0], urls[1]),
        ),
        ("plain", "json", format!("'[\"{}\", \"{}\"]'::json", urls[0], urls[1])),
    ] {
        let value = value.replace("'{0}'", &format!("'{}'", urls[0]));
        session.run(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, title text, images {kind}); \
             INSERT INTO {table} VALUES (1, 'a', {value}), (2, 'b', NULL)"
        ));
        let watch = format!(
            "SELECT caption.watch('{table}', image => 'images', fills => \
             '{{\"title\": \"concise\"}}')"
        );
        let error = session.error(&watch);
        assert_eq!(error.code().code(), "42804", "{error:?}");
        let hint = error.hint().expect("a hint");
        let (_, recipe) = hint.split_once("docs/galleries.md: ").expect("the recipe");
        // The page has the same recipe, for its own table.
        let recipe = if table == "products" { documented() } else { recipe.into() };
        session.run(&recipe);
        let child = match table.strip_suffix('"') {
            Some(name) => format!("{name}_picture\""),
            None => format!("{table}_picture"),
        };
        let filled = format!("SELECT count(*) FROM {child} WHERE alt <> '' AND seo <> ''");
        db.eventually(&format!("({filled}) = 2"));
        if kind != "text[]" {
            continue;
        }
        // A new order moves no text; removed and added pictures do what is expected.
        session.run(&format!(
            "UPDATE {table} SET images = ARRAY['{}', '{}'] WHERE id = 1; \
             UPDATE {table} SET id = 7 WHERE id = 1; \
             INSERT INTO {table} VALUES (3, 'c', ARRAY['{}'])",
            urls[2], urls[0], urls[3]
        ));
        db.eventually(&format!("({filled}) = 3"));
        assert_eq!(
            session.text(&format!(
                "SELECT string_agg(id || ':' || position, ' ' ORDER BY id, position) FROM {child}"
            )),
            "3:1 7:1 7:2"
        );
        session.run(&format!("DELETE FROM {table} WHERE id = 7"));
        assert_eq!(session.number(&filled), 1);
    }
}
