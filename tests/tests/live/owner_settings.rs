//! Code of a table runs with the settings of its owner, and with nothing that others planted.

use pg_caption_tests::{FILLED, TestDatabase, TestServer, TestSession, shared_database};

/// A database with schema `shop` and its table `shop.products`, which belong to an ordinary role,
/// watched and with rows. The session acts as that role. Also the role's name.
fn shop(db: &TestDatabase<'_>, web: &TestServer) -> (TestSession, String) {
    let role = format!("owner_{}", db.name);
    let mut session = db.session();
    session.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {} TO {role}; \
         CREATE SCHEMA shop AUTHORIZATION {role}; \
         GRANT USAGE ON SCHEMA caption TO {role}; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA caption TO {role}; SET ROLE {role}",
        db.name
    ));
    session.run(
        "CREATE TABLE shop.products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
         image_url text, alt text, seo text)",
    );
    for url in web.pictures(3) {
        session.run(&format!("INSERT INTO shop.products (image_url) VALUES ('{url}')"));
    }
    (session, role)
}

const SHOP_FILLED: &str = "NOT EXISTS (SELECT FROM shop.products \
    WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

/// An audit trigger with unqualified names.
const AUDIT: &str = "\
    CREATE TABLE shop.audit (who text, app text, path text); \
    CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    INSERT INTO audit VALUES (current_setting('app.who'), \
    current_setting('application_name'), current_setting('search_path')); RETURN NEW; END $$; \
    CREATE TRIGGER note AFTER UPDATE ON shop.products FOR EACH ROW EXECUTE FUNCTION shop.note()";

#[test]
fn triggers_run_with_the_owner_s_settings() {
    let (db, web) = (shared_database(), TestServer::start());
    let (mut session, role) = shop(&db, &web);
    session.run(AUDIT);
    session.run(&format!(
        "RESET ROLE; ALTER ROLE {role} SET search_path = shop, public; \
         ALTER DATABASE {} SET app.who = 'the database'; SET ROLE {role}",
        db.name
    ));
    session.run("SELECT caption.watch('shop.products')");
    db.eventually(SHOP_FILLED);
    let seen = "SELECT DISTINCT who, app, path FROM shop.audit";
    let expected = |who: &str| [[who, "pg_caption", "shop, public"].map(|x| Some(x.to_string()))];
    assert_eq!(session.rows(seen), expected("the database"));
    // The role's own value wins, and one for the role in this database above all.
    for (scope, who) in [("", "the role"), (&format!("IN DATABASE {}", db.name), "the role here")] {
        session.run(&format!(
            "RESET ROLE; ALTER ROLE {role} {scope} SET app.who = '{who}'; SET ROLE {role}"
        ));
        session.run(&format!(
            "SET search_path = shop; SET app.who = 'the session'; \
             UPDATE shop.products SET alt = NULL WHERE alt <> '{who}'; TRUNCATE shop.audit"
        ));
        db.eventually(SHOP_FILLED);
        assert_eq!(
            session.number(&format!("SELECT count(*) FROM shop.audit WHERE who = '{who}'")),
            3
        );
    }
}

#[test]
fn a_missing_setting_is_named_in_the_failure() {
    let (db, web) = (shared_database(), TestServer::start());
    let (mut session, role) = shop(&db, &web);
    session.run(&format!("RESET ROLE; ALTER ROLE {role} SET search_path = shop; SET ROLE {role}"));
    session.run(AUDIT);
    session.run("SELECT caption.watch('shop.products')");
    db.eventually(
        "EXISTS (SELECT FROM caption.failure WHERE message LIKE '%app.who%' \
         AND detail LIKE '%ALTER ROLE%')",
    );
}

#[test]
fn a_superuser_s_triggers_need_qualified_names() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run(
        "CREATE TABLE audit (path text); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO audit VALUES ('x'); RETURN NEW; END $$; \
         CREATE TRIGGER note AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION note()",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "EXISTS (SELECT FROM caption.failure WHERE message LIKE '%\"audit\"%' \
         AND detail LIKE '%search_path = pg_catalog%')",
    );
    session.run("ALTER FUNCTION note() SET search_path = public");
    session.run("SELECT caption.retry('products')");
    db.eventually(FILLED);
}

// Another role plants functions and operators in each schema of the owner's path. The worker's own
// statements must not call them, whatever the owner's triggers do.
#[test]
fn planted_names_in_the_owner_s_path_are_not_called() {
    let (db, web) = (shared_database(), TestServer::start());
    let (mut session, role) = shop(&db, &web);
    session.run(&format!(
        "RESET ROLE; CREATE SCHEMA planted; CREATE TABLE planted.called (name text); \
         GRANT ALL ON SCHEMA planted TO PUBLIC; GRANT ALL ON planted.called TO PUBLIC; \
         ALTER ROLE {role} SET search_path = planted, public, pg_catalog"
    ));
    for schema in ["planted", "public"] {
        session.run(&format!(
            "CREATE FUNCTION {schema}.note(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO planted.called VALUES ($1); RETURN true; END $$; \
             CREATE FUNCTION {schema}.eq(int, int) RETURNS boolean LANGUAGE sql \
             AS $$ SELECT {schema}.note('=') $$; \
             CREATE OPERATOR {schema}.= (PROCEDURE = {schema}.eq, LEFTARG = int, RIGHTARG = int); \
             CREATE FUNCTION {schema}.octet_length(text) RETURNS int LANGUAGE sql \
             AS $$ SELECT CASE WHEN {schema}.note('octet_length') THEN 1 END $$; \
             CREATE FUNCTION {schema}.left(text, int) RETURNS text LANGUAGE sql \
             AS $$ SELECT CASE WHEN {schema}.note('left') THEN $1 END $$; \
             CREATE FUNCTION {schema}.sha256(bytea) RETURNS bytea LANGUAGE sql \
             AS $$ SELECT CASE WHEN {schema}.note('sha256') THEN $1 END $$"
        ));
    }
    session.run(&format!("SET ROLE {role}"));
    session.run("SELECT caption.watch('shop.products')");
    db.eventually(SHOP_FILLED);
    session.run("UPDATE shop.products SET image_url = NULL");
    db.eventually("NOT EXISTS (SELECT FROM shop.products WHERE alt <> '')");
    assert_eq!(session.rows("SELECT DISTINCT name FROM planted.called"), Vec::<Vec<_>>::new());
}

#[test]
fn a_refused_column_does_not_keep_the_others_empty() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    session.run("ALTER TABLE products ADD CHECK (char_length(seo) <= 20)");
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo IS NULL) = 3");
    db.eventually("(SELECT count(*) FROM caption.failure) = 3");
    assert!(session.holds(
        "(SELECT bool_and(code = 'write_refused' AND message LIKE '%of \"seo\": %') \
         FROM caption.failure)"
    ));
    session.run("ALTER TABLE products DROP CONSTRAINT products_seo_check");
    session.run("SELECT caption.retry('products')");
    db.eventually(FILLED);
    // A domain refuses a column, too.
    session.run("SELECT caption.unwatch('products')");
    session.run(
        "CREATE DOMAIN tiny AS text CHECK (char_length(VALUE) < 5); \
         UPDATE products SET alt = NULL, seo = NULL; ALTER TABLE products ALTER alt TYPE tiny",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt IS NULL AND seo <> '') = 3");
}
