//! A superuser restores the dump of a database whose owner is not trusted. With `--no-owner`,
//! tables, triggers and functions then belong to the superuser.

use pg_caption_tests::{
    FILLED, ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, quote_literal,
};
use std::process::Command;

#[track_caller]
fn output(mut command: Command) -> Vec<u8> {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What an untrusted owner can plant. Each runs code that makes the role a superuser if a superuser
/// runs it, and notes who ran it. A restore runs none of it: rules, triggers and policies act on
/// writes of rows; the operators and functions have names that the extension uses.
const PLANTED: &str = "\
    CREATE TABLE seen (role text, what text);
    GRANT INSERT ON seen TO PUBLIC;
    CREATE FUNCTION climb(what text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.seen VALUES (current_user, what);
        IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) THEN
            ALTER ROLE mallory SUPERUSER;
        END IF;
        RETURN true;
    END $$;
    CREATE FUNCTION on_write() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM public.climb(TG_NAME);
        RETURN NEW;
    END $$;
    CREATE TRIGGER before_write BEFORE UPDATE ON products
        FOR EACH ROW EXECUTE FUNCTION on_write();
    CREATE CONSTRAINT TRIGGER after_write AFTER UPDATE ON products
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION on_write();
    CREATE TRIGGER statement_write AFTER UPDATE ON products
        FOR EACH STATEMENT EXECUTE FUNCTION on_write();
    CREATE TRIGGER with_condition BEFORE UPDATE ON products
        FOR EACH ROW WHEN (climb(NEW.alt)) EXECUTE FUNCTION on_write();
    CREATE RULE rule_write AS ON UPDATE TO products
        WHERE climb('rule') AND false DO ALSO NOTHING;
    ALTER TABLE products ALTER alt SET DEFAULT climb('default')::text;
    CREATE POLICY planted ON products USING (climb('policy'));
    ALTER TABLE products ENABLE ROW LEVEL SECURITY;
    ALTER TABLE products FORCE ROW LEVEL SECURITY;

    CREATE FUNCTION trap(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT public.climb('=') $$;
    CREATE FUNCTION trap(oid, oid) RETURNS boolean LANGUAGE sql AS $$ SELECT public.climb('=') $$;
    CREATE FUNCTION trap(jsonb, jsonb) RETURNS boolean
        LANGUAGE sql AS $$ SELECT public.climb('=') $$;
    CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = trap);
    CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap);
    CREATE OPERATOR = (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = trap);
    CREATE OPERATOR <> (LEFTARG = text, RIGHTARG = text, FUNCTION = trap);
    CREATE FUNCTION enqueue() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM public.climb('enqueue');
        RETURN NEW;
    END $$;
    CREATE FUNCTION format(text, VARIADIC text[]) RETURNS text
        LANGUAGE sql AS $$ SELECT public.climb('format')::text $$;
    CREATE FUNCTION caption_image(url text) RETURNS text
        LANGUAGE sql AS $$ SELECT public.climb('caption_image')::text $$;
    CREATE TABLE watch (relation regclass, paused boolean);
    CREATE TRIGGER pg_caption_change BEFORE UPDATE ON products
        FOR EACH ROW EXECUTE FUNCTION enqueue()";

/// A database of `mallory` with a watched table, which is filled.
fn hostile<'a>(cluster: &'a TestCluster, web: &TestServer) -> TestDatabase<'a> {
    let db = cluster.database();
    let mut session = db.session();
    session.run(&format!(
        "CREATE ROLE mallory LOGIN; \
         CREATE ROLE accomplice LOGIN; \
         ALTER DATABASE {} OWNER TO mallory; \
         ALTER SCHEMA public OWNER TO mallory; \
         GRANT USAGE ON SCHEMA caption TO mallory; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA caption TO mallory; \
         GRANT INSERT, SELECT ON caption.style TO mallory",
        db.name
    ));
    let mut mallory = db.session_as("mallory");
    mallory.run(
        "CREATE TABLE products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, \
         image_url text, alt text, seo text)",
    );
    for url in web.pictures(3) {
        mallory.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    }
    mallory.run(
        "INSERT INTO caption.style (name, instruction) \
         VALUES ('evil', '''; ALTER ROLE mallory SUPERUSER; --')",
    );
    mallory
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"evil\", \"seo\": \"seo\"}')");
    session.run("CALL caption.wait('products')");
    mallory.run(PLANTED);
    mallory.run("GRANT SELECT, INSERT, UPDATE, TRIGGER ON products TO accomplice");
    db
}

/// Restores the database as the superuser, who owns everything then.
fn restored<'a>(cluster: &'a TestCluster, db: &TestDatabase) -> TestDatabase<'a> {
    let mut dump = cluster.tool("pg_dump");
    dump.args(["--no-owner", &db.name]);
    let path = cluster.data().join("hostile.sql");
    std::fs::write(&path, output(dump)).expect("a file");
    let copy = cluster.empty_database();
    // As in a dump with --create.
    cluster
        .session("postgres")
        .run(&format!("ALTER DATABASE {} SET search_path = public, pg_catalog", copy.name));
    let mut psql = cluster.tool("psql");
    psql.args(["-qX", "-v", "ON_ERROR_STOP=1", "-d", &copy.name, "-f"]).arg(&path);
    output(psql);
    copy
}

/// That no planted code has run as a superuser. Uses names of the catalog only.
#[track_caller]
fn assert_powerless(session: &mut TestSession) {
    session.run("SET search_path = pg_catalog");
    let super_users = "SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname <> 'postgres'";
    assert_eq!(session.number(super_users), 0);
    let seen = session.rows("SELECT role, what FROM public.seen WHERE role = 'postgres'");
    assert!(seen.is_empty(), "ran as a superuser: {seen:?}");
}

#[test]
fn a_restored_dump_gives_its_owner_no_rights() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = hostile(&cluster, &web);
    let copy = restored(&cluster, &db);
    let mut session = copy.session();
    assert!(session.holds(
        "(SELECT c.relowner::regrole::text OPERATOR(pg_catalog.=) 'postgres' \
                            FROM pg_class c WHERE c.oid OPERATOR(pg_catalog.=) \
                            'public.products'::regclass)"
    ));
    session.run("SET search_path = pg_catalog");
    let requests = web.total();

    // Rows of a role with the rights that the old owner has granted: a new one, one whose text is
    // of another URL, and one without its URL.
    let url = quote_literal(&web.serve("/new.jpg", ServerAnswer::picture(7)));
    let mut accomplice = copy.session_as("accomplice");
    accomplice.run(&format!(
        "SET search_path = pg_catalog; \
         INSERT INTO public.products (image_url, alt) VALUES ({url}, NULL)"
    ));
    eventually_stopped(&mut session);
    for call in ["resume", "retry", "recaption", "prune", "pause", "resume"] {
        session.run(&format!("SELECT caption.{call}('public.products')"));
    }
    session.run(
        "SELECT * FROM caption.progress; SELECT * FROM caption.failure; \
                 SELECT * FROM caption.database; SELECT * FROM caption.host",
    );
    session.error("CALL caption.wait('public.products')");
    eventually_stopped(&mut session);
    assert_powerless(&mut session);
    assert_eq!(web.total(), requests, "no row of the table was read");
    assert_eq!(session.number("SELECT count(*) FROM public.products WHERE alt IS NULL"), 1);

    // A superuser who has removed the planted code watches the table again.
    session.run(
        "DROP TRIGGER before_write ON public.products; \
         DROP TRIGGER after_write ON public.products; \
         DROP TRIGGER statement_write ON public.products; \
         DROP TRIGGER with_condition ON public.products; \
         DROP TRIGGER pg_caption_change ON public.products; \
         DROP RULE rule_write ON public.products; \
         DROP POLICY planted ON public.products; \
         ALTER TABLE public.products ALTER alt DROP DEFAULT, DISABLE ROW LEVEL SECURITY, \
             NO FORCE ROW LEVEL SECURITY; \
         SELECT caption.watch('public.products')",
    );
    let filled = FILLED.replace("FROM products", "FROM public.products");
    pg_caption_tests::eventually("every row is filled", || session.holds(&filled));
    assert_powerless(&mut session);
}

/// Waits until the watch says that a superuser has to confirm it.
fn eventually_stopped(session: &mut TestSession) {
    pg_caption_tests::eventually("the watch has stopped", || {
        session.holds("(SELECT p.stopped AND p.state LIKE '%superuser%' FROM caption.progress p)")
    });
}
