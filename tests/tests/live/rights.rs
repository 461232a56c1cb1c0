//! Privileges: a table's code runs with the rights of the table's owner at most.

use pg_caption_tests::{
    FILLED, TestCluster, TestDatabase, TestServer, TestSession, shared_database,
};

/// A database, a session as an ordinary role that owns `products` and may watch, and that role.
fn shop<'a>(cluster: &'a TestCluster, web: &TestServer) -> (TestDatabase<'a>, TestSession, String) {
    let db = cluster.database();
    let mut session = db.session();
    let role = format!("owner_{}", session.text("SELECT current_database()"));
    session.run(&format!("CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}"));
    session.run(&format!("GRANT EXECUTE ON FUNCTION caption.watch TO {role}"));
    session.run(&format!("SET ROLE {role}"));
    session.run(
        "CREATE TABLE products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, image_url text, \
         alt text, seo text)",
    );
    for url in web.pictures(3) {
        session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    }
    (db, session, role)
}

#[test]
fn triggers_run_as_the_table_owner() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, role) = shop(&cluster, &web);
    session.run("CREATE TABLE seen (role text)");
    session.run(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.seen VALUES (current_user); RETURN NEW; END $$",
    );
    session
        .run("CREATE TRIGGER at_once AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION see()");
    session.run(
        "CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON products DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION see()",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert_eq!(session.rows("SELECT DISTINCT role FROM seen"), [[Some(role)]]);
    assert_eq!(session.number("SELECT count(*) FROM seen"), 6);
}

#[test]
fn a_trigger_cannot_change_its_role() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, _) = shop(&cluster, &web);
    session.run(
        "CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET ROLE postgres; \
         CREATE TABLE public.owned_by_a_superuser (); RETURN NEW; END $$",
    );
    session.run(
        "CREATE TRIGGER climb BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION climb()",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM caption.failure WHERE code = 'write_refused') = 3");
    assert!(session.holds("to_regclass('public.owned_by_a_superuser') IS NULL"));
}

#[test]
fn planted_functions_are_not_called() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, _) = shop(&cluster, &web);
    session.run("CREATE TABLE trapped (role text)");
    for (name, kind) in [("=", "text, text"), ("=", "oid, oid"), ("<>", "text, text")] {
        session.run(&format!(
            "CREATE OR REPLACE FUNCTION public.trap({kind}) RETURNS boolean LANGUAGE plpgsql AS $$ \
             BEGIN INSERT INTO public.trapped VALUES (current_user); RETURN true; END $$"
        ));
        let (left, right) = kind.split_once(", ").expect("two types");
        session.run(&format!(
            "CREATE OPERATOR public.{name} (LEFTARG = {left}, RIGHTARG = {right}, \
             FUNCTION = public.trap)"
        ));
    }
    session.run("SET search_path = public, pg_catalog");
    session.run("SELECT caption.watch('products'::regclass)");
    session.run("RESET search_path");
    db.eventually(FILLED);
    assert_eq!(session.number("SELECT count(*) FROM trapped WHERE role = 'postgres'"), 0);
}

#[test]
fn only_the_owner_controls_a_watch() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, _) = shop(&cluster, &web);
    session.run("SELECT caption.watch('products')");
    let mut other = db.session();
    other.run(
        "CREATE ROLE other_role; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA caption TO other_role; \
         GRANT ALL ON products TO other_role; \
         SET ROLE other_role",
    );
    for call in ["watch", "unwatch", "pause", "resume", "retry", "recaption"] {
        let error = other.error(&format!("SELECT caption.{call}('products')"));
        assert_eq!(error.code().code(), "42501", "{call}: {error:?}");
    }
    assert_eq!(other.number("SELECT count(*) FROM caption.progress"), 0);
    assert_eq!(
        other.value("SELECT caption.in_flight('products')"),
        None,
        "other roles do not see the rows in flight"
    );
    assert!(session.holds("caption.in_flight('products') >= 0"), "the owner sees them");
}

#[test]
fn functions_are_revoked_from_public() {
    let db = shared_database();
    let mut session = db.session();
    let open = session.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid \
         AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e' JOIN pg_extension e \
         ON e.oid = d.refobjid AND e.extname = 'pg_caption' \
         WHERE has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY 1",
    );
    // The trigger function must be executable by the owner of a watch and checks how it is called.
    // The others return only what the caller may see, or work on their arguments alone.
    let expected = [
        "caption.audit(regclass)",
        "caption.enqueue()",
        "caption.escape_markup(text)",
        "caption.help()",
        "caption.img_tag(text,text,integer,integer,jsonb)",
        "caption.in_flight(regclass)",
        "caption.is_language(text)",
        "caption.json_ld(text,text,text,jsonb)",
        "caption.key_object(oid,jsonb)",
        "caption.lint(text,text,text[])",
        "caption.neutral_wording()",
        "caption.obstacle()",
        "caption.open_graph(text,text,text,text,text,text)",
        "caption.require_no_transaction(text)",
        "caption.rows_ahead(regclass)",
        "caption.style_problem(jsonb)",
        "caption.unwatched_hint(regclass)",
        "caption.wait_for(regclass,text,interval,boolean,boolean)",
        "caption.web_address(text)",
    ];
    assert_eq!(open, expected.map(|function| [Some(function.to_string())]));
}

#[test]
fn every_extension_object_is_described() {
    let db = shared_database();
    let undescribed = db.session().rows(
        "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_extension e \
         ON e.oid = d.refobjid AND e.extname = 'pg_caption' WHERE d.deptype = 'e' \
         AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass) \
         AND NOT EXISTS (SELECT FROM pg_description c WHERE c.objoid = d.objid \
         AND c.classoid = d.classid AND c.objsubid = 0) AND NOT EXISTS (SELECT FROM pg_class i \
         WHERE d.classid = 'pg_class'::regclass AND i.oid = d.objid \
         AND i.relkind IN ('S', 'i', 't'))",
    );
    assert_eq!(undescribed, Vec::<Vec<Option<String>>>::new());
}

#[test]
fn planted_expressions_run_as_the_owner() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, role) = shop(&cluster, &web);
    session.run("CREATE TABLE seen (role text); GRANT INSERT ON seen TO PUBLIC");
    // Declared immutable like an attacker's function, and calling another function: for an index, a
    // generated column and a check.
    session.run(
        "CREATE FUNCTION note_role() RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.seen VALUES (current_user); END $$;
         CREATE FUNCTION note(x text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ \
         BEGIN PERFORM public.note_role(); RETURN x; END $$",
    );
    session.run(
        "CREATE INDEX ON products (note(alt)); \
         ALTER TABLE products ADD CHECK (note(alt) IS DISTINCT FROM 'x')",
    );
    session.run(
        "ALTER TABLE products ADD copy text GENERATED ALWAYS AS (note(alt)) STORED; TRUNCATE seen",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert!(
        session.number("SELECT count(*) FROM seen") >= 9,
        "each of the three expressions was evaluated for each row"
    );
    assert_eq!(session.rows("SELECT DISTINCT role FROM seen"), [[Some(role)]]);
}

// A trigger written by the old owner must not run with the rights of a superuser before a superuser
// has confirmed the watch.
#[test]
fn a_new_superuser_owner_must_watch_again() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, role) = shop(&cluster, &web);
    session.run(&format!(
        "CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF (SELECT rolsuper \
         FROM pg_catalog.pg_roles WHERE rolname = current_user) \
         THEN ALTER ROLE {role} SUPERUSER; END IF; RETURN NEW; END $$"
    ));
    session
        .run("CREATE TRIGGER climb AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION climb()");
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run(&format!(
        "RESET ROLE; \
         ALTER TABLE products OWNER TO postgres; \
         GRANT INSERT ON products TO {role}; \
         SET ROLE {role}"
    ));
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/1.jpg")));
    db.eventually("(SELECT problem LIKE '%belongs to a superuser%' FROM caption.watch_state)");
    let is_super = format!("SELECT rolsuper::text FROM pg_roles WHERE rolname = '{role}'");
    session.run("RESET ROLE");
    assert_eq!(
        (session.text(&is_super).as_str(), session.number("SELECT count(*) FROM caption.ledger")),
        ("false", 3)
    );
    session.run("DROP TRIGGER climb ON products; SELECT caption.watch('products')");
    db.eventually(FILLED);

    // The same if the owner becomes a superuser.
    session.run(&format!(
        "ALTER TABLE products OWNER TO {role}; \
         SELECT caption.watch('products'); \
         ALTER ROLE {role} SUPERUSER"
    ));
    session.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/2.jpg")));
    db.eventually("(SELECT problem LIKE '%belongs to a superuser%' FROM caption.watch_state)");
    session.run(&format!("ALTER ROLE {role} NOSUPERUSER; SELECT caption.watch('products')"));
    db.eventually(FILLED);
}

/// A trigger function of the current role that makes the role a superuser, if it may.
fn climb(role: &str) -> String {
    format!(
        "CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF (SELECT rolsuper \
         FROM pg_catalog.pg_roles WHERE rolname = current_user) \
         THEN ALTER ROLE {role} SUPERUSER; END IF; RETURN NEW; END $$"
    )
}

const MUST_CONFIRM: &str = "(SELECT problem LIKE '%belongs to a superuser%' \
    FROM caption.watch_state WHERE relation = 'products'::regclass)";

// Between the two changes of the owner, no worker reads the watches.
#[test]
fn an_owner_in_between_ends_a_superuser_s_watch() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.enabled", "off")]), TestServer::start());
    let (db, mut session, role) = shop(&cluster, &web);
    session.run("RESET ROLE; ALTER TABLE products OWNER TO postgres");
    session.run("SELECT caption.watch('products')");
    session.run(&format!("ALTER TABLE products OWNER TO {role}; SET ROLE {role}"));
    session.run(&climb(&role));
    session
        .run("CREATE TRIGGER climb AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION climb()");
    session.run("RESET ROLE; ALTER TABLE products OWNER TO postgres");
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    db.eventually(MUST_CONFIRM);
    let is_super = format!("SELECT rolsuper::text FROM pg_roles WHERE rolname = '{role}'");
    assert_eq!(session.text(&is_super), "false");
}

#[test]
fn a_demoted_owner_s_watch_must_be_confirmed() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.enabled", "off")]), TestServer::start());
    let (db, mut session, role) = shop(&cluster, &web);
    session.run(&format!("RESET ROLE; ALTER ROLE {role} SUPERUSER"));
    session.run("SELECT caption.watch('products')");
    // In another database.
    let mut elsewhere = cluster.session("postgres");
    elsewhere.run(&format!("ALTER ROLE {role} NOSUPERUSER"));
    elsewhere.run(&format!("ALTER ROLE {role} SUPERUSER"));
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    db.eventually(MUST_CONFIRM);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
}

// Each statement adds code of an ordinary role to a superuser's table. (A superuser runs them: what
// counts is the owner of the code.)
#[test]
fn foreign_code_stops_a_superuser_s_watch() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, role) = shop(&cluster, &web);
    session.run(
        "CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE FUNCTION is_good(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE DOMAIN short AS text CHECK (is_good(VALUE));
         CREATE OPERATOR === (PROCEDURE = texteq, LEFTARG = text, RIGHTARG = text)",
    );
    session.run("RESET ROLE; ALTER TABLE products OWNER TO postgres");
    session.run(
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
         CREATE ROLE app_of_foreign_code; ALTER TABLE products ADD title text",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    let row = format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg"));
    let trigger = "CREATE TRIGGER t AFTER UPDATE ON products FOR EACH ROW";
    let planted = [
        (format!("{trigger} EXECUTE FUNCTION keep()"), "DROP TRIGGER t ON products", "trigger t"),
        (
            format!("{trigger} WHEN (is_good(NEW.alt)) EXECUTE FUNCTION own()"),
            "DROP TRIGGER t ON products",
            "trigger t uses function public.is_good(text)",
        ),
        (
            format!(
                "{trigger} EXECUTE FUNCTION own('x'); \
                 GRANT TRIGGER ON products TO app_of_foreign_code"
            ),
            "DROP TRIGGER t ON products; REVOKE ALL ON products FROM app_of_foreign_code",
            "role app_of_foreign_code may create triggers",
        ),
        (
            "CREATE RULE r AS ON UPDATE TO products WHERE is_good(NEW.alt) DO ALSO SELECT 1".into(),
            "DROP RULE r ON products",
            "rule r",
        ),
        (
            "ALTER TABLE products ALTER title SET DEFAULT f('x')".into(),
            "ALTER TABLE products ALTER title DROP DEFAULT",
            "column title",
        ),
        (
            "ALTER TABLE products ADD g text GENERATED ALWAYS AS (f(alt)) STORED".into(),
            "ALTER TABLE products DROP g",
            "column g",
        ),
        (
            "ALTER TABLE products ADD CONSTRAINT c CHECK (is_good(alt))".into(),
            "ALTER TABLE products DROP CONSTRAINT c",
            "constraint c",
        ),
        (
            "ALTER TABLE products ADD CONSTRAINT c CHECK (alt === alt)".into(),
            "ALTER TABLE products DROP CONSTRAINT c",
            "operator",
        ),
        ("CREATE INDEX i ON products (f(alt))".into(), "DROP INDEX i", "index i"),
        (
            "CREATE POLICY p ON products USING (is_good(alt))".into(),
            "DROP POLICY p ON products",
            "policy p",
        ),
        (
            "ALTER TABLE products ALTER seo TYPE short".into(),
            "ALTER TABLE products ALTER seo TYPE text",
            "column seo has type",
        ),
    ];
    for (plant, remove, named) in planted {
        // The type of a watched column is changed without the triggers.
        let retyped = plant.contains(" TYPE ");
        let unwatch = if retyped { "SELECT caption.unwatch('products');" } else { "" };
        let watch = if retyped { "SELECT caption.watch('products');" } else { "" };
        session.run(&format!("{unwatch} {plant}; {watch} {row}"));
        let problem = format!(
            "(SELECT problem LIKE '%its code does not: %{named}%' FROM caption.watch_state)"
        );
        db.eventually(&problem);
        session.run(&format!("{unwatch} {remove}; {watch}"));
        session.run("SELECT caption.resume('products')");
        db.eventually(FILLED);
    }
    // Granted on its own, the privilege is harmless: code that it adds is detected.
    session.run(&format!("GRANT TRIGGER ON products TO {role}; {row}"));
    db.eventually(FILLED);
}

#[test]
fn a_foreign_partition_stops_a_superuser_s_watch() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let (db, mut session, role) = shop(&cluster, &web);
    session.run("RESET ROLE");
    session.run(&format!(
        "CREATE TABLE parts (id int PRIMARY KEY, image_url text, alt text, seo text) \
         PARTITION BY RANGE (id); \
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (100); \
         ALTER TABLE part_1 OWNER TO {role}; \
         INSERT INTO parts (id, image_url) VALUES (1, '{}'); \
         SELECT caption.watch('parts')",
        web.url("/0.jpg")
    ));
    db.eventually(
        "(SELECT problem LIKE '%partition public.part_1 belongs to role%' FROM caption.watch_state \
         WHERE relation = 'parts'::regclass)",
    );
    assert!(session.holds("(SELECT alt IS NULL FROM parts)"));
    session.run("ALTER TABLE part_1 OWNER TO postgres");
    db.eventually("(SELECT alt <> '' FROM parts)");
}

// While caption.watch() waits for the table's lock, another table gets its name.
#[test]
fn a_renamed_table_keeps_its_watch_and_triggers() {
    let db = shared_database();
    let (mut session, mut other) = (db.session(), db.session());
    session.run(
        "CREATE TABLE sw (id int PRIMARY KEY, image_url text, alt text, seo text); \
         CREATE TABLE sw_new (LIKE sw INCLUDING ALL)",
    );
    session.run("BEGIN; ALTER TABLE sw RENAME TO sw_old; ALTER TABLE sw_new RENAME TO sw");
    let waits = std::thread::spawn(move || other.try_rows("SELECT caption.watch('sw')"));
    db.eventually(
        "EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
    );
    session.run("COMMIT");
    waits.join().unwrap().expect("the watch succeeds");
    let tables = session.rows(
        "SELECT w.relation::text, (SELECT string_agg(DISTINCT t.tgrelid::regclass::text, ' ') \
         FROM pg_trigger t WHERE t.tgfoid = 'caption.enqueue()'::regprocedure) \
         FROM caption.watch w",
    );
    assert_eq!(tables, [["sw_old", "sw_old"].map(|name| Some(name.to_string()))]);
}

#[test]
fn grant_to_gives_a_role_all_that_it_needs() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    let (caller, editor) = (format!("caller_{}", db.name), format!("editor_{}", db.name));
    session.run(&format!(
        "CREATE ROLE {caller} LOGIN; CREATE ROLE {editor} LOGIN; \
         GRANT CREATE ON SCHEMA public TO {editor}; \
         SELECT caption.grant_to('{caller}', 'caller'), caption.grant_to('{editor}', 'editor')"
    ));
    let url = web.pictures(1).remove(0);
    let mut calling = db.session_as(&caller);
    assert!(!calling.text(&format!("SELECT caption_image('{url}', 'seo', 128)")).is_empty());
    assert_eq!(
        calling.error("SELECT caption.watch('pg_class')").code().code(),
        "42501",
        "a caller watches nothing"
    );
    let mut editing = db.session_as(&editor);
    editing.run("CREATE TABLE own (id int PRIMARY KEY, image_url text, alt text, seo text)");
    editing.run(&format!("INSERT INTO own VALUES (1, '{url}')"));
    editing.run("SELECT caption.watch('own')");
    editing.run("CALL caption.wait('own')");
    assert!(editing.holds("(SELECT alt <> '' FROM own)"));
    editing.run("SELECT caption.retry('own'), caption.recaption('own'), caption.unwatch('own')");
    let error = session.error(&format!("SELECT caption.grant_to('{caller}', 'owner')"));
    assert!(error.hint().is_some_and(|hint| hint.contains("editor")), "{error:?}");
    session.run(&format!("DROP OWNED BY {caller}, {editor}; DROP ROLE {caller}, {editor}"));
}

#[test]
fn pg_monitor_sees_progress_and_failures_by_code() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[web.url("/gone.jpg")]);
    let role = format!("monitor_{}", db.name);
    session.run(&format!("CREATE ROLE {role} LOGIN IN ROLE pg_monitor"));
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM caption.failure)");
    let mut monitor = db.session_as(&role);
    assert_eq!(monitor.number("SELECT failed FROM caption.progress"), 1);
    assert_eq!(monitor.text("SELECT code FROM caption.failure_count"), "http_410");
    assert_eq!(monitor.number("SELECT count(*) FROM caption.failure"), 0, "no keys, no messages");
    monitor.run("SELECT * FROM caption.host; SELECT * FROM caption.engine_status()");
    monitor.run("SELECT * FROM caption.models()");
    session.run(&format!("DROP ROLE {role}"));
}
