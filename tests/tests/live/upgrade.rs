//! Upgrades from every published release: an upgraded database equals a fresh one, keeps all work,
//! and works before the upgrade, too.
//!
//! `tests/released` holds the install scripts of the releases. That of the current version must
//! make the objects of this one: what changes them afterwards needs another version.

use pg_caption_tests::{FILLED, ServerAnswer, TestCluster, TestServer, TestSession, releases};

/// All objects of the extension and their properties, one per line, without OIDs.
const CATALOG: &str = "
WITH member AS (SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e \
    ON e.oid = d.refobjid AND e.extname = 'pg_caption'
                 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'),
     relation AS (SELECT c.*, c.oid::regclass::text AS name FROM pg_class c JOIN member m \
     ON m.classid = 'pg_class'::regclass AND m.objid = c.oid),
     acl AS (SELECT array_agg(item::text ORDER BY item::text) AS items, key FROM (
               SELECT 'relation ' || r.name, unnest(r.relacl) FROM relation r
               UNION ALL SELECT 'column ' || r.name || '.' || a.attname, unnest(a.attacl) \
               FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid
               UNION ALL SELECT 'function ' || p.oid::regprocedure, unnest(p.proacl) \
               FROM pg_proc p JOIN member m ON m.objid = p.oid
               UNION ALL SELECT 'schema ' || n.nspname, unnest(n.nspacl) FROM pg_namespace n \
               JOIN member m ON m.objid = n.oid
               UNION ALL SELECT 'initial: ' || pg_describe_object(i.classoid, i.objoid, \
               i.objsubid), unnest(i.initprivs)
                           FROM pg_init_privs i JOIN member m ON m.classid = i.classoid \
                           AND m.objid = i.objoid) AS of (key, item) GROUP BY key)
SELECT 'member: ' || pg_describe_object(classid, objid, 0) || ' by ' || \
    (pg_identify_object(classid, objid, 0)).identity FROM member
UNION ALL SELECT 'comment: ' || pg_describe_object(d.classoid, d.objoid, \
    d.objsubid) || ' ' || d.description
            FROM pg_description d JOIN member m ON m.classid = d.classoid AND m.objid = d.objoid
UNION ALL SELECT 'rights: ' || key || ' ' || items::text FROM acl
UNION ALL SELECT 'function: ' || pg_get_functiondef(p.oid) || ' cost ' || p.procost || ' rows ' || \
    p.prorows || ' owner ' || p.proowner::regrole
            FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
UNION ALL SELECT concat_ws(' ', 'relation:', name, relkind, relpersistence, relreplident, \
    relrowsecurity, relowner::regrole, reloptions) FROM relation
UNION ALL SELECT concat_ws(' ', 'column:', r.name, row_number() OVER (PARTITION BY r.oid \
    ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
                           a.attnotnull, a.attidentity, a.attgenerated, a.attstorage, \
                           a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid))
            FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 \
            AND NOT a.attisdropped
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
            WHERE r.relkind IN ('r', 'v')
UNION ALL SELECT concat_ws(' ', 'constraint:', r.name, c.conname, pg_get_constraintdef(c.oid)) \
    FROM relation r JOIN pg_constraint c ON c.conrelid = r.oid
UNION ALL SELECT concat_ws(' ', 'index:', pg_get_indexdef(i.indexrelid), c.reloptions) \
    FROM relation r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class c ON c.oid = i.indexrelid
UNION ALL SELECT concat_ws(' ', 'trigger:', pg_get_triggerdef(t.oid), t.tgenabled) FROM relation r \
    JOIN pg_trigger t ON t.tgrelid = r.oid
UNION ALL SELECT concat_ws(' ', 'view:', name, pg_get_viewdef(oid)) FROM relation \
    WHERE relkind = 'v'
UNION ALL SELECT concat_ws(' ', 'extension:', e.extversion, e.extrelocatable, n.nspname) \
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
           WHERE e.extname = 'pg_caption'
UNION ALL SELECT concat_ws(' ', 'dumped:', config.relation::regclass, 'if', condition.text)
            FROM pg_extension e, unnest(e.extconfig) WITH ORDINALITY AS config (relation, n), \
            unnest(e.extcondition) WITH ORDINALITY AS condition (text, n)
           WHERE e.extname = 'pg_caption' AND config.n = condition.n";

/// The lines of [`CATALOG`], sorted.
fn catalog(session: &mut TestSession) -> Vec<String> {
    let mut lines: Vec<String> = session.rows(CATALOG).into_iter().flatten().flatten().collect();
    lines.sort();
    lines
}

#[test]
fn an_upgrade_equals_a_fresh_install() {
    let cluster = TestCluster::shared();
    let fresh = catalog(&mut cluster.database().session());
    assert!(fresh.len() > 100, "the catalog was read: {}", fresh.len());
    for release in &releases() {
        let db = cluster.database_of_release(release);
        let mut session = db.session();
        let before = catalog(&mut session);
        session.run("ALTER EXTENSION pg_caption UPDATE");
        let upgraded = catalog(&mut session);
        assert!(before != upgraded, "the update changed the objects");
        let only = |these: &[String], those: &[String]| {
            these
                .iter()
                .filter(|line| !those.contains(line))
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        };
        let (added, missing) = (only(&upgraded, &fresh), only(&fresh, &upgraded));
        assert!(
            upgraded == fresh,
            "from {release} (raise the version if it is the current one)\n\
             only in the upgraded one:\n{added}\nonly in a fresh one:\n{missing}"
        );
    }
}

#[test]
fn a_new_library_serves_old_objects() {
    for release in &releases() {
        let (db, web) = (TestCluster::shared().database_of_release(release), TestServer::start());
        let mut session = db.products_of(&web, 3);
        session.run("SELECT caption.watch('products')");
        db.eventually(FILLED);
        let url = web.serve("/new.jpg", ServerAnswer::picture(4));
        session.run(&format!(
            "INSERT INTO products (image_url) VALUES ('{url}'), ('{}')",
            web.url("/gone.jpg")
        ));
        db.eventually(
            "(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 4 AND EXISTS (SELECT \
             FROM caption.failure)",
        );
        assert_eq!(
            session.text("SELECT alt FROM products WHERE id = 4"),
            session.text(&format!("SELECT caption_image('{url}')"))
        );
        session.run(
            "SELECT caption.pause('products'); \
             SELECT caption.resume('products'); \
             SELECT caption.retry('products')",
        );
        session.run("CALL caption.wait('products')");
        session.run("ALTER EXTENSION pg_caption UPDATE");
        session.run("SELECT caption.watch('products')");
    }
}

#[test]
fn an_upgrade_keeps_all_work() {
    for release in &releases() {
        let (db, web) = (TestCluster::shared().database_of_release(release), TestServer::start());
        let mut urls = web.pictures(3);
        urls.push(web.url("/gone.jpg"));
        let mut session = db.products(&urls);
        session.run(
            "INSERT INTO caption.style (name, instruction) VALUES ('poetic', 'Say it in verse.')",
        );
        session.run("SELECT caption.watch('products')");
        session.run("CALL caption.wait('products')");
        let kept = "SELECT (SELECT jsonb_agg(w.relation ORDER BY w.relation) \
            FROM caption.watch w)::text || (SELECT jsonb_agg(w ORDER BY w.key) \
            FROM caption.ledger w)::text
                    || (SELECT jsonb_agg(f ORDER BY f.key) FROM caption.failed f)::text || \
                    (SELECT jsonb_agg(to_jsonb(s) - 'prompts') FROM caption.style s)::text
                    || (SELECT jsonb_agg((t.relation, t.backfill_done, t.backfilled, t.filled)) \
                    FROM caption.watch_state t)::text || (SELECT jsonb_agg(p ORDER BY p.id) \
                    FROM products p)::text";
        let before = session.text(kept);
        session.run("ALTER EXTENSION pg_caption UPDATE");
        assert_eq!(session.text(kept), before);
        // The watch continues with new rows only.
        let url = web.serve("/new.jpg", ServerAnswer::picture(4));
        session.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
        db.eventually("(SELECT alt <> '' AND seo <> '' FROM products WHERE id = 5)");
        assert_eq!((web.hits("/0.jpg"), web.hits("/gone.jpg")), (1, 1));
    }
}
