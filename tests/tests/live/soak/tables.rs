//! The tables of a long run. A trigger judges each write that is not of a client.

use super::hosts::Hosts;
use pg_caption_tests::{TestDatabase, quote_literal};

/// A plain table of an ordinary role, and a partitioned one of a superuser.
pub const TABLES: [&str; 2] = ["goods", "parts"];
/// Keys that clients use in each table.
pub const KEYS: usize = 60;

/// `picture`: for each URL its texts, or the code of its failure. User-written texts begin with
/// `user`. `written`: the URL of the last write that is not of a client. `violation`: wrong writes.
const CREATE: &str = "\
    CREATE TABLE picture (url text PRIMARY KEY, alt text, seo text, code text, steady boolean);
    CREATE TABLE violation (relation regclass, id text, what text);
    CREATE TABLE written (relation oid, id text, url text, PRIMARY KEY (relation, id));
    GRANT SELECT ON picture TO PUBLIC;
    GRANT SELECT, INSERT, UPDATE ON written TO PUBLIC;
    GRANT INSERT ON violation TO PUBLIC;

    CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        right_ public.picture;
        what   text;
    BEGIN
        IF pg_catalog.current_setting('soak.client', true) = 'on' THEN
            RETURN NEW;
        END IF;
        SELECT * INTO right_ FROM public.picture p WHERE p.url = NEW.image_url;
        what := CASE
            WHEN (NEW.id, NEW.title, NEW.image_url)
                 IS DISTINCT FROM (OLD.id, OLD.title, OLD.image_url) THEN 'another column'
            WHEN OLD.alt LIKE 'user%' AND NEW.alt IS DISTINCT FROM OLD.alt
              OR OLD.seo LIKE 'user%' AND NEW.seo IS DISTINCT FROM OLD.seo THEN 'a text of a user'
            -- A text may be removed: it was of an earlier URL, and the new one fails now.
            WHEN NEW.alt <> '' AND NEW.alt IS DISTINCT FROM OLD.alt
             AND NEW.alt IS DISTINCT FROM right_.alt
              OR NEW.seo <> '' AND NEW.seo IS DISTINCT FROM OLD.seo
             AND NEW.seo IS DISTINCT FROM right_.seo
            THEN 'a text of another picture'
            WHEN (NEW.alt, NEW.seo) IS NOT DISTINCT FROM (OLD.alt, OLD.seo)
             AND EXISTS (SELECT FROM public.written w WHERE (w.relation, w.id, w.url)
                                                          = (TG_RELID, NEW.id, NEW.image_url))
            THEN 'the same texts again'
        END;
        IF what IS NOT NULL THEN
            INSERT INTO public.violation
            VALUES (TG_RELID, NEW.id, pg_catalog.concat(what, ': ', OLD, ' -> ', NEW));
        END IF;
        INSERT INTO public.written VALUES (TG_RELID, NEW.id, NEW.image_url)
        ON CONFLICT (relation, id) DO UPDATE SET url = excluded.url;
        RETURN NEW;
    END $$;

    CREATE TABLE goods
        (id text PRIMARY KEY, title text, image_url text, alt text, seo text);
    CREATE TABLE parts
        (id text PRIMARY KEY, title text, image_url text, alt text, seo text)
        PARTITION BY HASH (id);
    CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TRIGGER judge BEFORE UPDATE ON goods FOR EACH ROW EXECUTE FUNCTION judge();
    CREATE TRIGGER judge BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION judge();
    CREATE ROLE keeper;
    ALTER TABLE goods OWNER TO keeper";

/// Creates the tables, with a row for each key, and watches them.
pub fn create(db: &TestDatabase, hosts: &Hosts) {
    let mut session = db.session();
    session.run(CREATE);
    for (steady, moody) in hosts.steady_pictures().iter().zip(hosts.moody_pictures()) {
        let (url, moody) = (quote_literal(steady), quote_literal(&moody));
        session.run(&format!(
            "WITH texts AS MATERIALIZED \
               (SELECT caption_image({url}) AS alt, caption_image({url}, 'seo') AS seo) \
             INSERT INTO picture SELECT url, alt, seo, NULL, url = {url} \
             FROM texts, unnest(ARRAY[{url}, {moody}]) url"
        ));
    }
    for (url, code) in hosts.failures() {
        let url = quote_literal(&url);
        session.run(&format!("INSERT INTO picture VALUES ({url}, NULL, NULL, '{code}', true)"));
    }
    assert!(
        session.number("SELECT count(DISTINCT (alt, seo)) FROM picture WHERE code IS NULL") > 4,
        "the texts distinguish the pictures"
    );
    for table in TABLES {
        session.run(&format!(
            "INSERT INTO {table} (id, title, image_url) \
             SELECT 'k' || n, 'Title', (SELECT url FROM picture ORDER BY md5(url || n) LIMIT 1) \
             FROM generate_series(1, {KEYS}) n; \
             SELECT caption.watch('{table}')"
        ));
    }
}
