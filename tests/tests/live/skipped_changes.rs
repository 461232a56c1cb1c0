//! Trigger skipping against a baseline: the queue receives the same keys with and without it.

use pg_caption_tests::{TestSession, shared_database};

/// The tables to change; most of them are watched.
const TABLES: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, title text UNIQUE DEFERRABLE, image_url text, \
    alt text, seo text, slug text GENERATED ALWAYS AS (title || '!') STORED);
    CREATE VIEW shown AS SELECT image_url AS a, title AS b, id AS k FROM plain;
    CREATE VIEW shown_again AS SELECT b AS z, a AS y, k FROM shown WITH CHECK OPTION;
    CREATE TABLE feed (id int, x text);
    CREATE RULE also AS ON UPDATE TO feed DO ALSO UPDATE plain SET image_url = NEW.x \
    WHERE id = NEW.id;
    CREATE VIEW by_rule AS SELECT * FROM plain;
    CREATE RULE instead AS ON UPDATE TO by_rule DO INSTEAD UPDATE plain SET image_url = NEW.title \
    WHERE id = OLD.id;
    CREATE TABLE made (id int PRIMARY KEY, title text, n int, alt text, seo text, \
    image_url text GENERATED ALWAYS AS ('h' || title) STORED);
    CREATE TABLE parted (id int, k int, title text, image_url text, alt text, seo text, \
    PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE part_1 (seo text, image_url text, gone int, title text, k int NOT NULL, alt text, \
    id int NOT NULL, PRIMARY KEY (id, k));
    ALTER TABLE part_1 DROP gone; ALTER TABLE parted ATTACH PARTITION part_1 FOR VALUES IN (1);
    CREATE TABLE part_23 (gone int, title text, id int NOT NULL, alt text, image_url text, \
    seo text, k int NOT NULL, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    ALTER TABLE part_23 DROP gone; \
    ALTER TABLE parted ATTACH PARTITION part_23 FOR VALUES IN (2, 3);
    CREATE TABLE part_2 (k int NOT NULL, gone int, image_url text, id int NOT NULL, seo text, \
    alt text, title text, PRIMARY KEY (id, k));
    ALTER TABLE part_2 DROP gone; \
    ALTER TABLE part_23 ATTACH PARTITION part_2 FOR VALUES IN (2); \
    CREATE TABLE part_3 PARTITION OF part_23 FOR VALUES IN (3);
    CREATE TABLE of_parted (id int, k int, FOREIGN KEY (id, k) REFERENCES parted ON \
    UPDATE CASCADE);
    CREATE TABLE parent (id int PRIMARY KEY, title text, image_url text, alt text, seo text);
    CREATE TABLE child (x int, image_url text, id int PRIMARY KEY, seo text, title text, \
    alt text);
    CREATE TABLE pictures (url text PRIMARY KEY);
    CREATE TABLE referring (id int PRIMARY KEY, image_url text DEFAULT 'd' REFERENCES pictures ON \
    UPDATE CASCADE ON DELETE SET DEFAULT, title text, alt text, seo text);
    CREATE TABLE itself (id text PRIMARY KEY, image_url text REFERENCES itself ON \
    UPDATE CASCADE, title text, alt text, seo text);
    INSERT INTO plain (id, title, image_url, alt, seo) SELECT n, 't' || n, 'u', 'a', 's' \
    FROM generate_series(1, 20) n; \
    INSERT INTO feed VALUES (11, 'a');
    INSERT INTO made (id, title, alt, seo) VALUES (1, 'a', 'a', 's'), (2, 'b', 'a', 's');
    INSERT INTO parted SELECT n, 1 + n % 3, 't', 'u', 'a', 's' FROM generate_series(1, 12) n; \
    INSERT INTO of_parted VALUES (1, 2), (3, 1);
    INSERT INTO parent VALUES (1, 't', 'u', 'a', 's'); \
    INSERT INTO child (id, title, image_url, alt, seo) VALUES (2, 't', 'u', 'a', 's');
    INSERT INTO pictures VALUES ('a'), ('b'), ('c'), ('d'); \
    INSERT INTO referring VALUES (1, 'a', 't', 'a', 's'), (2, 'b', 't', 'a', 's'), (3, 'c', 't', \
    'a', 's');
    INSERT INTO itself VALUES ('1', '1', 't', 'a', 's'), ('2', '1', 't', 'a', 's'), ('3', '2', \
    't', 'a', 's');
    CREATE TABLE seen (what text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen \
    SELECT o::text || n::text FROM o JOIN n USING (id); RETURN NULL; END $$;
    CREATE TRIGGER transition AFTER UPDATE ON itself REFERENCING OLD TABLE AS o NEW TABLE AS n \
    FOR EACH STATEMENT EXECUTE FUNCTION note()";

/// Changes of watched and other columns, direct ones and those by rules, views and foreign keys.
const CHANGES: &[&str] = &[
    "UPDATE plain SET title = 'x' WHERE id = 1",
    "UPDATE plain SET alt = NULL WHERE id = 1",
    "UPDATE plain SET seo = '', title = 'y' WHERE id = 1",
    "UPDATE shown_again SET y = 'v' WHERE k = 1",
    "UPDATE shown_again SET z = 'v' WHERE k = 1",
    "INSERT INTO shown_again (k, y, z) VALUES (1, 'w', 't') ON CONFLICT (k) DO UPDATE \
     SET y = excluded.y",
    "INSERT INTO plain (id, title) VALUES (2, 'w') ON CONFLICT (id) DO UPDATE \
     SET title = excluded.title",
    "UPDATE plain SET (title, image_url) = (SELECT 'z', 'z') WHERE id = 2",
    "WITH a AS (UPDATE plain SET title = 'c' WHERE id = 3), b AS (UPDATE plain SET image_url = 'c' \
     WHERE id = 4) UPDATE plain SET id = id + 100 WHERE id = 5",
    "MERGE INTO plain USING (VALUES (6), (7), (50)) w (i) ON id = i WHEN MATCHED AND i = 6 THEN \
     UPDATE SET title = 'm' WHEN MATCHED THEN UPDATE SET image_url = 'm' WHEN NOT MATCHED THEN \
     INSERT (id, title) VALUES (i, 'n')",
    "MERGE INTO plain USING (VALUES (6), (7), (51)) w (i) ON id = i WHEN MATCHED AND i = 6 THEN \
     DELETE WHEN MATCHED THEN UPDATE SET title = 'n2' WHEN NOT MATCHED THEN INSERT (id, image_url) \
     VALUES (i, 'n')",
    "UPDATE feed SET x = 'r'",
    "UPDATE by_rule SET title = 'r' WHERE id = 12",
    "UPDATE made SET title = 'z' WHERE id = 1",
    "UPDATE made SET n = 1",
    "INSERT INTO made (id, title) VALUES (2, 'q') ON CONFLICT (id) DO UPDATE \
     SET title = excluded.title",
    "MERGE INTO made USING (VALUES (1), (2), (7)) w (i) ON id = i WHEN MATCHED AND i = 1 THEN \
     UPDATE SET n = 3 WHEN MATCHED THEN UPDATE SET title = 'm' WHEN NOT MATCHED THEN \
     INSERT (id, title) VALUES (i, 'n')",
    "UPDATE parted SET image_url = 'a' || id",
    "UPDATE parted SET title = 'a' || id",
    "UPDATE part_23 SET image_url = 'b' || id",
    "UPDATE part_2 SET image_url = 'c' || id",
    "UPDATE part_2 SET title = 'c' || id",
    "UPDATE part_1 SET alt = NULL",
    "UPDATE parted SET k = 3, image_url = 'm' WHERE id = 1",
    "UPDATE parted SET k = 3 WHERE id = 3",
    "INSERT INTO parted VALUES (4, 2, 'x', 'o') ON CONFLICT (id, k) DO UPDATE \
     SET image_url = excluded.image_url",
    "INSERT INTO parted VALUES (4, 2, 'x', 'o') ON CONFLICT (id, k) DO UPDATE \
     SET title = excluded.title",
    "MERGE INTO parted USING (VALUES (5), (6)) w (i) ON id = i WHEN MATCHED AND i = 5 THEN UPDATE \
     SET title = 'x' WHEN MATCHED THEN UPDATE SET image_url = 'm'",
    "UPDATE parent SET image_url = 'i'",
    "UPDATE parent SET title = 'i'",
    "UPDATE child SET image_url = 'j'",
    "UPDATE pictures SET url = 'aa' WHERE url = 'a'",
    "DELETE FROM pictures WHERE url = 'b'",
    "WITH a AS (UPDATE referring SET title = 'x') UPDATE pictures SET url = 'cc' WHERE url = 'c'",
    "UPDATE itself SET title = 'x'",
    "UPDATE itself SET image_url = '3'",
    "WITH a AS (UPDATE itself SET title = 'y' WHERE id = '1') UPDATE itself SET id = '33' \
     WHERE id = '3'",
    "PREPARE again (text, int) AS UPDATE parted SET image_url = $1 WHERE k = $2; \
     SET plan_cache_mode = force_generic_plan; \
     EXECUTE again ('g', 1); \
     EXECUTE again ('h', 2); \
     DEALLOCATE again",
    "PREPARE again (text) AS UPDATE plain SET title = title || $1; \
     EXECUTE again ('g'); \
     EXECUTE again ('h'); \
     DEALLOCATE again; \
     RESET plan_cache_mode",
    "BEGIN; \
     SET CONSTRAINTS ALL DEFERRED; \
     UPDATE plain SET title = CASE id WHEN 13 THEN 't14' ELSE 't13' END WHERE id IN (13, 14); \
     COMMIT",
    "DO $$ DECLARE c CURSOR FOR SELECT * FROM plain WHERE id < 16 FOR UPDATE; r plain; \
     BEGIN OPEN c; FETCH c INTO r; UPDATE plain SET image_url = 'cur' \
     WHERE CURRENT OF c; CLOSE c; END $$",
];

/// Further changes that PostgreSQL 17 and later support.
const CHANGES_17: &[&str] = &[
    "MERGE INTO shown USING (VALUES (8)) w (i) ON k = i WHEN MATCHED THEN UPDATE SET a = 'mv'",
    "MERGE INTO shown USING (VALUES (8)) w (i) ON k = i WHEN MATCHED THEN UPDATE SET b = 'mv'",
    "MERGE INTO plain USING (VALUES (9)) w (i) ON id = i WHEN NOT MATCHED BY SOURCE AND id = 10 \
     THEN UPDATE SET image_url = 'nbs' RETURNING id",
];

#[test]
fn skipping_changes_no_queue_entry() {
    let db = shared_database();
    let mut session = db.session();
    let watched = ["plain", "made", "parted", "parent", "child", "referring", "itself"];
    // A trigger of another name is never skipped: it is the baseline.
    for schema in ["skipping", "baseline"] {
        session.run(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}; {TABLES}"));
        for table in watched {
            session
                .run(&format!("SELECT caption.watch('{table}'); SELECT caption.pause('{table}')"));
            if schema == "baseline" {
                session.run(&format!(
                    "ALTER TRIGGER pg_caption_update ON {table} RENAME TO another_name"
                ));
            }
        }
        session.run("ALTER TABLE child INHERIT parent");
    }
    let queued = |session: &mut TestSession, schema: &str, change: &str| {
        session.run(&format!("SET search_path = {schema}; DELETE FROM caption.queue"));
        session.run(change);
        let keys = "SELECT coalesce(string_agg(c.relname || k.v, ' ' \
            ORDER BY c.relname, k.v::text), '') FROM caption.queue q JOIN pg_class c \
            ON c.oid = q.relation, jsonb_array_elements(q.keys::jsonb) k (v) WHERE q.n > 0";
        (session.text(keys), session.number("SELECT count(*) FROM seen"))
    };
    let newer: &[&str] = if session.major() >= 17 { CHANGES_17 } else { &[] };
    let (mut with_keys, mut without_keys) = (0, 0);
    for change in CHANGES.iter().chain(newer) {
        let [skipping, baseline] =
            ["skipping", "baseline"].map(|schema| queued(&mut session, schema, change));
        assert_eq!(skipping, baseline, "{change}");
        *if skipping.0.is_empty() { &mut without_keys } else { &mut with_keys } += 1;
    }
    assert!(
        with_keys >= 20 && without_keys >= 8,
        "both kinds of changes occur: {with_keys}, {without_keys}"
    );
    for table in ["plain", "made", "parted", "parent", "referring", "itself"] {
        let all = |schema: &str| {
            format!("(SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM {schema}.{table} t)")
        };
        assert!(
            session.holds(&format!("{} = {}", all("skipping"), all("baseline"))),
            "{table} has the same rows"
        );
    }
}
