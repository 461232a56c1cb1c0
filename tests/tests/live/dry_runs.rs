//! `caption.estimate` and `caption.preview`: what a watch would do.

use pg_caption_tests::{ServerAnswer, TestServer, shared_database};

#[test]
fn an_estimate_counts_and_fetches_nothing() {
    let (db, web) = (shared_database(), TestServer::start());
    let urls = web.pictures(3);
    let mut session = db.products(&[urls.as_slice(), &urls[..1], &[" ".into()]].concat());
    session.run("UPDATE products SET alt = 'x', seo = 'y' WHERE id = 3");
    let estimate = |arguments: &str| {
        format!(
            "SELECT concat_ws(' ', rows, pictures, requests, cost) \
             FROM caption.estimate('products'{arguments})"
        )
    };
    assert_eq!(session.text(&estimate("")), "3 2");
    assert_eq!(session.text(&estimate(", condition => 'id > 1'")), "2 2");
    assert_eq!(session.text(&estimate(", 'title', '{\"alt\": \"seo\"}'")), "4 1");
    assert_eq!(web.total(), 0);
    assert!(session.error(&estimate(", 'nothing'")).message().contains("\"nothing\""));
    let error = session.error(&estimate(", fills => '{\"alt\": \"unknown\"}'"));
    assert!(error.message().contains("unknown caption style"));
    // Of a watch: its picture column, fills and condition; and the speed of the engine.
    session.run("ALTER TABLE products RENAME image_url TO picture");
    session.run("SELECT caption.watch('products', 'picture', condition => 'id <> 2')");
    session.run("CALL caption.wait('products')");
    session.run("SELECT caption.pause('products'); UPDATE products SET seo = NULL");
    assert_eq!(session.text(&estimate("")), "3 2");
    let urls = format!("'{}'", web.pictures(9).join("','"));
    session.run(&format!("SELECT FROM caption_images(ARRAY[{urls}])"));
    assert!(session.holds("(SELECT duration > interval '0' FROM caption.estimate('products'))"));
}

#[test]
fn a_preview_shows_what_would_be_written() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(3);
    urls.push(web.serve("/gone.jpg", ServerAnswer::status(410)));
    let mut session = db.products(&urls);
    session.run("UPDATE products SET title = 'Navy cup ' || chr(64 + id)");
    let fills = "'{\"alt\": {\"style\": \"concise\", \"template\": \"{title}: {caption}\", \
                 \"fallback\": \"{title}\"}, \"seo\": \"seo\"}'";
    let preview = |select: &str, arguments: &str| {
        format!("SELECT {select} FROM caption.preview('products', fills => {fills}{arguments})")
    };
    let all = "string_agg(concat_ws(' ', key->>'id', column_name, source, code), ', ' \
               ORDER BY key, column_name)";
    assert_eq!(
        session.text(&preview(all, "")),
        "1 alt model, 1 seo model, 2 alt model, 2 seo model, 3 alt model, 3 seo model, \
         4 alt fallback http_410, 4 seo http_410"
    );
    let counts = "concat_ws(' ', count(*), count(text), count(confidence), count(failure), \
                  count(*) FILTER (WHERE text LIKE 'Navy cup%'))";
    assert_eq!(session.text(&preview(counts, "")), "8 7 6 2 4");
    assert_eq!(session.text(&preview("count(DISTINCT key)", ", sample => 2")), "2");
    let only = ", condition => 'title = ''Navy cup B'''";
    assert_eq!(session.text(&preview("string_agg(DISTINCT key->>'id', '')", only)), "2");
    for (arguments, problem) in [
        (", sample => 0", "sample 0 is out of range"),
        (", sample => NULL", "sample must not be null"),
        (", condition => 'titel'", "condition cannot be used"),
    ] {
        let error = session.error(&preview("text", arguments));
        assert!(error.message().starts_with(problem), "{error}");
    }
    // Nothing is written, also on a server that cannot write; the texts are those of a watch.
    session.run("BEGIN READ ONLY");
    let texts = session.rows(&preview("key, column_name, text", ", sample => 9"));
    session.run("COMMIT");
    assert!(session.holds("(SELECT bool_and(alt IS NULL AND seo IS NULL) FROM products)"));
    assert!(session.holds(
        "NOT EXISTS (SELECT FROM caption.watch) \
                           AND NOT EXISTS (SELECT FROM caption.ledger)"
    ));
    session.run(&format!("SELECT caption.watch('products', fills => {fills})"));
    session.run("CALL caption.wait('products')");
    for row in texts {
        let [key, column, text] = row.try_into().expect("three columns");
        let (key, column) = (key.expect("a key"), column.expect("a column"));
        let written = format!(
            "SELECT nullif({column}, '') FROM products WHERE id = ('{key}'::jsonb->>'id')::int"
        );
        assert_eq!(session.value(&written), text, "{key} {column}");
    }
    // Pictures in the table itself, and addresses relative to a base.
    session.run(
        "CREATE TABLE shelf (id int PRIMARY KEY, path text, picture bytea, alt text); \
         INSERT INTO shelf VALUES (1, '0.jpg', NULL), (2, '1.jpg', 'no picture')",
    );
    let shelf = |arguments: &str| {
        format!(
            "SELECT string_agg(coalesce(code, 'ok'), ' ' ORDER BY key) \
             FROM caption.preview('shelf', {arguments}, fills => '{{\"alt\": \"concise\"}}')"
        )
    };
    assert_eq!(session.text(&shelf("'picture'")), "not_an_image");
    let base = format!("'path', base_url => '{}/'", web.url(""));
    assert_eq!(session.text(&shelf(&base)), "ok ok");
}

#[test]
fn a_dry_run_has_the_rights_of_its_caller() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run(
        "CREATE ROLE dry_caller; GRANT EXECUTE ON FUNCTION caption.estimate, caption.preview \
         TO dry_caller; SET ROLE dry_caller",
    );
    let calls = [
        "SELECT rows FROM caption.estimate('products')",
        "SELECT count(*) FROM caption.preview('products')",
    ];
    for call in calls {
        assert_eq!(session.error(call).code().code(), "42501", "no right to read");
    }
    // Row security holds; a condition runs as the caller.
    session.run(
        "RESET ROLE; GRANT SELECT ON products TO dry_caller; \
                 ALTER TABLE products ENABLE ROW LEVEL SECURITY; \
                 CREATE POLICY one ON products FOR SELECT USING (id = 1); \
                 SET ROLE dry_caller",
    );
    assert_eq!(session.text(calls[0]), "1");
    assert_eq!(session.text(calls[1]), "2");
    let who = "SELECT rows FROM caption.estimate('products', \
               condition => 'current_user = ''dry_caller''')";
    assert_eq!(session.text(who), "1");
    // Condition, base URL and signing function of a watch are its owner's.
    session.run("RESET ROLE; SELECT caption.watch('products'); SET ROLE dry_caller");
    for call in calls {
        let error = session.error(call);
        assert_eq!(error.code().code(), "42501");
        assert_eq!(error.message(), "must be owner of table public.products");
    }
    session.run("RESET ROLE; DROP OWNED BY dry_caller; DROP ROLE dry_caller");
}
