//! The condition of a watch: which rows get captions, and which texts are conditions.

use pg_caption_tests::{
    FILLED, ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, shared_database,
};

/// Numbers of the rows with both texts.
fn filled(session: &mut TestSession) -> String {
    session.text(
        "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM products \
         WHERE alt <> '' AND seo <> ''",
    )
}

#[test]
fn only_matching_rows_are_filled() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 6);
    session.run(
        "ALTER TABLE products ADD published boolean NOT NULL DEFAULT true, ADD deleted date, \
           ADD from_day date NOT NULL DEFAULT '2020-01-01', ADD k text DEFAULT 'k', ADD v text; \
         UPDATE products SET published = false WHERE id IN (2, 3); \
         UPDATE products SET deleted = '2024-01-01' WHERE id = 4; \
         UPDATE products SET from_day = current_date + 1 WHERE id = 5",
    );
    session.run(
        "SELECT caption.watch('products', condition => 'products.published AND deleted IS NULL \
         AND from_day <= current_date AND k = ''k''')",
    );
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "1 6");
    assert_eq!((web.hits("/1.jpg"), web.hits("/3.jpg")), (0, 0), "other pictures are not fetched");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    // An UPDATE of a column that it names is noticed, of several rows by any statement.
    session.run("UPDATE products SET published = true WHERE id = 2");
    session.run("UPDATE products SET deleted = NULL, v = 'x' WHERE id = 4");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 4");
    // A new row, too. The passing of time is not noticed; `watch` finds such rows.
    let url = web.serve("/7.jpg", ServerAnswer::picture(7));
    session.run(&format!("INSERT INTO products (image_url, published) VALUES ('{url}', true)"));
    session.run("CALL caption.wait('products')");
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "1 2 4 6 7");
    // A row that no longer matches keeps its text, also under a new URL and without one.
    let text = session.text("SELECT alt FROM products WHERE id = 1");
    session.run(&format!(
        "UPDATE products SET published = false WHERE id IN (1, 6); \
         UPDATE products SET image_url = '{url}' WHERE id = 1; \
         UPDATE products SET image_url = NULL WHERE id = 6"
    ));
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 1"), text);
    assert!(session.holds("(SELECT alt <> '' FROM products WHERE id = 6)"));
    // Once it matches again, the new picture counts.
    session.run("UPDATE products SET published = true WHERE id IN (1, 6)");
    db.eventually("(SELECT alt IS NULL FROM products WHERE id = 6)");
    session.run("CALL caption.wait('products')");
    assert_eq!(
        session.text("SELECT alt FROM products WHERE id = 1"),
        session.text("SELECT alt FROM products WHERE id = 7")
    );
    // Without the condition, all rows are filled.
    session.notices();
    session.run("SELECT caption.watch('products', condition => '')");
    assert!(session.notices()[0].message().contains("condition from"), "the change is reported");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "1 2 3 4 5 7");
}

#[test]
fn a_condition_is_one_expression_over_a_row() {
    let db = shared_database();
    let mut session = db.products(&[]);
    session.run(
        "CREATE FUNCTION changing(int) RETURNS boolean LANGUAGE sql AS 'SELECT true'; \
         CREATE FUNCTION steady(int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'; \
         CREATE ROLE conditions_owner; REVOKE EXECUTE ON FUNCTION steady(int) FROM PUBLIC",
    );
    for (condition, terms) in [
        ("id IN (SELECT 1)", "sub-select"),
        ("EXISTS (SELECT)", "sub-select"),
        ("count(*) > 1", "aggregate"),
        ("row_number() OVER () > 1", "window"),
        ("generate_series(1, id) > 1", "set-returning"),
        ("changing(id)", "volatile"),
        ("random() > 0.5", "volatile"),
        ("title", "boolean"),
        ("true FROM pg_class", "one expression"),
        ("true WHERE true", "one expression"),
        ("true LIMIT 1", "one expression"),
        ("true, true", "one expression"),
        ("true AS x", "one expression"),
        ("DISTINCT true", "one expression"),
        ("true UNION SELECT true", "syntax error"),
        ("true; DROP TABLE products", "syntax error"),
        ("true) OR (true", "syntax error"),
        ("$1 > 0", "parameter"),
        ("nothing > 0", "nothing"),
        ("other.id > 0", "other"),
        ("ctid IS NOT NULL", "system column"),
        ("nothing(id)", "nothing"),
        ("id / 0 = 1 AND", "one expression"),
        ("id > 0) FROM products; DROP TABLE products; --", "syntax error"),
    ] {
        let call = format!("SELECT caption.watch('products', condition => $c${condition}$c$)");
        let error = session.error(&call);
        assert!(error.message().starts_with("condition cannot be used: "), "{error:?}");
        assert!(error.message().contains(terms), "{condition}: {error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }
    let long = format!("id > 0{}", " OR id > 0".repeat(1000));
    assert!(
        session
            .error(&format!("SELECT caption.watch('products', condition => '{long}')"))
            .message()
            .contains("longer than")
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.watch"), 0);
    // The owner must be allowed to evaluate it.
    session.run("ALTER TABLE products OWNER TO conditions_owner");
    let error = session.error("SELECT caption.watch('products', condition => 'steady(id)')");
    assert!(error.message().contains("permission denied for function steady"), "{error:?}");
}

/// A schema `shop` with a function `is_ok(text)`, and `products` of its owner. The session acts as
/// the owner, a role with the schema in its path.
fn shop(db: &TestDatabase<'_>, web: &TestServer) -> (TestSession, String) {
    let role = format!("owner_{}", db.name);
    let mut session = db.products_of(web, 4);
    session.run(&format!(
        "CREATE ROLE {role}; SELECT caption.grant_to('{role}', 'editor'); \
         CREATE SCHEMA shop AUTHORIZATION {role}; ALTER TABLE products OWNER TO {role}; \
         ALTER ROLE {role} SET search_path = shop, public; SET ROLE {role}; \
         CREATE FUNCTION shop.is_ok(text) RETURNS boolean LANGUAGE plpgsql STABLE AS \
         $$ BEGIN RETURN $1 IS DISTINCT FROM (SELECT word FROM bad); END $$; \
         CREATE TABLE shop.bad (word text); SET search_path = shop, public; \
         UPDATE products SET title = 'No. ' || id"
    ));
    (session, role)
}

#[test]
fn a_condition_runs_as_the_owner() {
    let (db, web) = (shared_database(), TestServer::start());
    let (mut session, role) = shop(&db, &web);
    // The function names a table that only the owner's path and rights find.
    session.run("INSERT INTO bad SELECT title FROM products WHERE id = 2");
    session.run("SELECT caption.watch('products', condition => 'is_ok(title)')");
    session.run("SET search_path = public");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "1 3 4");
    // Stored with its names qualified, shown to the owner only.
    let stored = "SELECT condition FROM caption.watch_option";
    assert_eq!(session.text(stored), "shop.is_ok(title)");
    session.run(&format!("RESET ROLE; CREATE ROLE other_{}; SET ROLE other_{0}", db.name));
    assert_eq!(session.rows(stored), Vec::<Vec<_>>::new());
    session.run("SELECT relation, image, fills FROM caption.watch");
    for column in ["condition", "condition_columns", "base_url"] {
        let error = session.error(&format!("SELECT {column} FROM caption.watch"));
        assert!(error.message().contains("permission denied"), "{error:?}");
    }
    // A function that it names cannot be dropped by mistake. A renamed one stops the watch.
    session.run(&format!("SET ROLE {role}"));
    let error = session.error("DROP FUNCTION shop.is_ok");
    assert!(error.detail().unwrap_or_default().contains("pg_caption_update"), "{error:?}");
    session.run(
        "ALTER FUNCTION shop.is_ok RENAME TO is_fine; UPDATE products SET alt = NULL WHERE id = 1",
    );
    db.eventually(
        "(SELECT stopped AND state LIKE '%condition cannot be used: function shop.is_ok%' \
         FROM caption.progress)",
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    session.run("SELECT caption.watch('products', condition => 'shop.is_fine(title)')");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "1 3 4");
}

#[test]
fn a_row_fails_where_the_condition_raises() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 9);
    session.run(
        "ALTER TABLE products ADD stock int NOT NULL DEFAULT 1; \
         UPDATE products SET stock = 0 WHERE id IN (3, 8); \
         UPDATE products SET stock = 0, alt = 'mine', seo = 'mine' WHERE id = 9",
    );
    session.run("SELECT caption.watch('products', condition => '10 / stock > 0')");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "1 2 4 5 6 7 9");
    let failed = "SELECT string_agg(key->>'id', ' ' ORDER BY key) FROM caption.failure \
        WHERE code = 'condition_failed' AND message LIKE '%division by zero%'";
    assert_eq!(session.text(failed), "3 8", "a row that needs no text does not fail");
    session.run("UPDATE products SET stock = 2 WHERE id = 3");
    db.eventually("(SELECT alt <> '' FROM products WHERE id = 3)");
    // While its caption is being written, too.
    session.run("UPDATE products SET stock = 0, image_url = image_url || '?2' WHERE id = 1");
    db.eventually("(SELECT count(*) FROM caption.failure WHERE code = 'condition_failed') = 2");
    assert!(session.holds("(SELECT alt <> '' FROM products WHERE id = 1)"), "its text stays");
}

#[test]
fn a_renamed_column_stays_in_the_condition() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    session.run("ALTER TABLE products ADD live boolean NOT NULL DEFAULT true, ADD size point");
    session.run("SELECT caption.watch('products', condition => 'live AND size[0] IS NULL')");
    db.eventually(FILLED);
    // Types without an equality operator are compared, too.
    session.run("UPDATE products SET size = point(1, 2), alt = NULL WHERE id = 1");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "2");
    let error = session.error("ALTER TABLE products DROP COLUMN live");
    assert!(error.hint().unwrap_or_default().contains("condition => ''"), "{error:?}");
    session.run("ALTER TABLE products RENAME live TO was_live");
    let condition = "SELECT condition FROM caption.watch_option";
    assert!(session.text(condition).starts_with("(was_live AND "), "it is followed");
    // Another column with its name is not taken for it.
    session.run("ALTER TABLE products ADD live boolean NOT NULL DEFAULT false");
    session.run("UPDATE products SET size = NULL WHERE id = 1");
    db.eventually(FILLED);
    session.run("SELECT caption.watch('products', condition => 'was_live')");
    // The whole row.
    session.run(
        "SELECT caption.watch('products', condition => 'products.* IS NOT NULL OR \
           (products).was_live'); \
         UPDATE products SET alt = NULL, was_live = false WHERE id = 2",
    );
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "1");
    session.run("UPDATE products SET was_live = true WHERE id = 2");
    db.eventually(FILLED);
    assert!(session.text(condition).contains("t.*"));
    session.run("ALTER TABLE products RENAME was_live TO shown");
    assert!(session.text(condition).ends_with("OR shown)"), "{}", session.text(condition));
    session.run("SELECT caption.watch('products', max_tokens => 32)");
    session.run("CALL caption.wait('products')");
    // A condition without columns.
    session.run("SELECT caption.watch('products', condition => 'current_date < ''2020-01-01''')");
    session.run("UPDATE products SET alt = NULL");
    session.run("CALL caption.wait('products')");
    assert_eq!(filled(&mut session), "");
}

#[test]
fn a_superuser_condition_runs_no_foreign_code() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 2);
    let role = format!("planter_{}", db.name);
    session.run(&format!(
        "CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role}; \
         CREATE FUNCTION planted(int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'; \
         RESET ROLE; CREATE FUNCTION mine(int) RETURNS boolean LANGUAGE sql STABLE \
         AS 'SELECT true'"
    ));
    session.run("SELECT caption.watch('products', condition => 'planted(id)')");
    db.eventually(
        "(SELECT stopped AND state LIKE '%function of the watch uses function %planted%' \
         FROM caption.progress)",
    );
    assert_eq!(web.total(), 0);
    session.run("SELECT caption.watch('products', condition => 'mine(id)')");
    db.eventually(FILLED);
    // As after a restored dump, which has no such dependency.
    session.run(
        "SELECT caption.watch('products', condition => ''); \
         UPDATE caption.watch SET condition = 'public.planted(id)', condition_columns = '{id}'",
    );
    db.eventually("(SELECT stopped AND state LIKE '%planted%' FROM caption.progress)");
    // Not an expression at all.
    session.run("UPDATE caption.watch SET condition = 'true) FROM pg_class; --'");
    db.eventually(
        "(SELECT stopped AND state LIKE '%cannot be used: syntax%' FROM caption.progress)",
    );
}

#[test]
fn a_slow_condition_fails_its_rows_only() {
    let settings = [("pg_caption.write_timeout", "500ms")];
    let (cluster, web) = (TestCluster::private(&settings), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 4);
    session.run(
        "CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN \
         IF $1 = 2 THEN PERFORM pg_sleep(60); END IF; RETURN true; END $$",
    );
    session.run("SELECT caption.watch('products', condition => 'slow(id)')");
    // The rows around it may be tried again with it, for lack of time.
    db.eventually(
        "(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 3 AND EXISTS \
         (SELECT FROM caption.deferred_row WHERE key->>'id' = '2' AND code = 'condition_timeout')",
    );
}
