//! Look-ahead: a statement requests the pictures of its next rows, and changes nothing but time.

use pg_caption_tests::{
    AnswerGate, ServerAnswer, TestCluster, TestServer, TestSession, eventually, pictures,
    shared_database,
};
use postgres::error::DbError;
use std::time::Duration;

/// The tables of the comparisons. Five rows have a picture; one has no URL, one a URL that is gone.
fn shop(session: &mut TestSession, web: &TestServer) {
    let base = web.url("/").replace("/?", "/");
    let bytes = pictures::bytea_literal(&pictures::jpeg(4));
    web.pictures(5);
    session.run(&format!(
        "CREATE TABLE shop (id int PRIMARY KEY, title text, url text, alt text, seo text, \
                            kind int, image bytea); \
         INSERT INTO shop \
         SELECT i, 'Product ' || i, \
                CASE i WHEN 3 THEN NULL WHEN 6 THEN '{base}gone.jpg' \
                       ELSE '{base}' || (i - 1) % 5 || '.jpg' END, \
                CASE WHEN i % 2 = 0 THEN 'text ' || i END, '', i % 3, {bytes} \
           FROM generate_series(1, 7) AS i; \
         CREATE TABLE filled (id int, alt text, note varchar(400)); \
         CREATE TABLE kinds (kind int PRIMARY KEY, name text); \
         INSERT INTO kinds VALUES (0, 'zero'), (1, 'one'), (2, 'two'); \
         CREATE TABLE parts (id int, url text, alt text) PARTITION BY RANGE (id); \
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (4); \
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (4) TO (9); \
         INSERT INTO parts SELECT id, url FROM shop WHERE id <> 6; \
         CREATE FUNCTION noisy(t text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ \
         BEGIN RAISE NOTICE 'noisy %', t; RETURN t; END $$; \
         CREATE FUNCTION each_title() RETURNS SETOF text LANGUAGE plpgsql AS $$ \
         DECLARE r record; BEGIN \
           FOR r IN SELECT id, caption_image(url) AS c FROM shop WHERE id <> 6 ORDER BY id LOOP \
             RETURN NEXT r.id || coalesce(r.c, '-'); EXIT WHEN r.id = 5; \
           END LOOP; END $$; \
         CREATE VIEW captions AS SELECT id, caption_image(url) AS c FROM shop; \
         CREATE SEQUENCE counter; ANALYZE"
    ));
}

/// Statements that must do the same with and without look-ahead. Those that fail do so in the same
/// row; `on_error` is 'null' for the second half of the runs.
const STATEMENTS: &[&str] = &[
    "SELECT id, caption_image(url) FROM shop",
    "SELECT id, caption_image(url) FROM shop WHERE id <> 6 ORDER BY id DESC",
    "SELECT caption_image(url) FROM shop WHERE id <> 6 ORDER BY 1",
    "SELECT id, caption_image(url) FROM shop ORDER BY id LIMIT 3",
    "SELECT id, caption_image(url) FROM shop ORDER BY id DESC LIMIT 2 OFFSET 2",
    "SELECT id, caption_image(url) FROM shop LIMIT 0",
    "SELECT id, caption_image(url) FROM shop ORDER BY kind FETCH FIRST 2 ROWS WITH TIES",
    "SELECT caption_image(url) FROM (SELECT url FROM shop ORDER BY id LIMIT 4) AS s",
    "SELECT caption_image(url) FROM (SELECT url FROM shop ORDER BY id OFFSET 1 LIMIT 3) AS s",
    "SELECT id, caption_image(url), caption_image(url, 'seo') FROM shop WHERE id < 6",
    "SELECT id, caption_image(url, CASE kind WHEN 0 THEN 'seo' ELSE 'concise' END) FROM shop \
      WHERE id < 6",
    "SELECT id, caption_image(url, 'nonsense') FROM shop",
    "SELECT id, caption_image(url, CASE id WHEN 4 THEN 'nonsense' ELSE 'seo' END) FROM shop",
    "SELECT id, caption_image(url, 'seo', id + 28) FROM shop",
    "SELECT id, caption_image(url, NULL) FROM shop",
    "SELECT id, caption_image(url, context => jsonb_build_object('title', title)) FROM shop",
    "SELECT id, caption_image(url, context => CASE id WHEN 4 THEN '[]' END::jsonb) FROM shop",
    "SELECT id, caption_image(image) FROM shop",
    "SELECT id, caption_image(substr(image, id)) FROM shop WHERE id < 3",
    "SELECT id, 10 / (id - 4), caption_image(url) FROM shop",
    "SELECT id, caption_image(url), 10 / (id - 4) FROM shop",
    "SELECT id, caption_image(url || (10 / (id - 4))::text) FROM shop WHERE id > 3",
    "SELECT id, caption_image(split_part(url, '#', 5 - id)) FROM shop",
    "SELECT id, caption_image(url) FROM shop WHERE 10 / (id - 4) IS NOT NULL",
    "SELECT id, caption_image(url) FROM shop WHERE 10 / (id - 4) IS NOT NULL LIMIT 2",
    "SELECT id, CASE WHEN alt IS NULL THEN caption_image(url) ELSE alt END FROM shop",
    "SELECT id, CASE kind WHEN 1 THEN alt WHEN 2 THEN caption_image(url) ELSE 'x' END FROM shop",
    "SELECT id, CASE WHEN kind = 0 THEN caption_image(url) WHEN 1 / (id - 4) = 0 THEN 'y' \
       ELSE caption_image(url, 'seo') END FROM shop",
    "SELECT id, coalesce(alt, caption_image(url), 'none') FROM shop",
    "SELECT id, coalesce(caption_image(url), caption_image(url, 'seo')) FROM shop WHERE id < 6",
    "SELECT id, coalesce(nullif(seo, ''), caption_image(url)) FROM shop WHERE id < 6",
    "SELECT id, kind = 1 AND caption_image(url) <> '' FROM shop",
    "SELECT id, kind = 1 OR caption_image(url) <> '' FROM shop",
    "SELECT id, NOT (caption_image(url) IS NULL) FROM shop WHERE id < 6",
    "SELECT id, upper(caption_image(url)) || '!' FROM shop WHERE id < 6",
    "SELECT id, ARRAY[caption_image(url), title] FROM shop WHERE id < 6",
    "SELECT id, ROW(caption_image(url), title) FROM shop WHERE id < 6",
    "SELECT id, greatest(caption_image(url), title) FROM shop WHERE id < 6",
    "SELECT id, caption_image(caption_image(url)) FROM shop",
    "SELECT id, caption_image(url)::varchar(5) FROM shop WHERE id < 6",
    "SELECT s, caption_image(url) FROM shop AS s WHERE id < 4",
    "SELECT ctid, tableoid::regclass, caption_image(url) FROM shop WHERE id < 6",
    "SELECT id, noisy(title), caption_image(url) FROM shop",
    "SELECT id, caption_image(noisy(url)) FROM shop",
    "SELECT nextval('counter') > 0, caption_image(url) FROM shop WHERE id < 6",
    "SELECT id, caption_image(url), (SELECT name FROM kinds AS k WHERE k.kind = s.kind) \
       FROM shop AS s WHERE id < 6",
    "SELECT id, (SELECT caption_image(s.url)) FROM shop AS s WHERE id < 6",
    "SELECT id, caption_image((SELECT url FROM shop AS o WHERE o.id = s.id)) FROM shop AS s \
      WHERE id < 6",
    "SELECT id, caption_image(url) FROM shop WHERE id > (SELECT min(id) FROM shop) AND id < 6",
    "SELECT id FROM shop WHERE id < 6 AND caption_image(url) IS NOT NULL",
    "SELECT count(caption_image(url)), kind FROM shop WHERE id <> 6 GROUP BY kind ORDER BY kind",
    "SELECT kind, caption_image(max(url)) FROM shop WHERE id < 6 GROUP BY kind ORDER BY kind",
    "SELECT kind, caption_image(min(url)), count(*) FROM shop WHERE id < 6 GROUP BY kind \
     HAVING count(*) > 1 ORDER BY kind",
    "SELECT id, row_number() OVER (ORDER BY id), caption_image(url) FROM shop WHERE id < 6",
    "SELECT DISTINCT caption_image(url) FROM shop WHERE id < 6",
    "SELECT id, generate_series(1, 2), caption_image(url) FROM shop WHERE id < 3",
    "SELECT id, caption_image(url) FROM shop JOIN kinds USING (kind) WHERE name <> 'one' \
        AND id <> 6 ORDER BY id",
    "SELECT id, name, caption_image(url) FROM kinds LEFT JOIN shop USING (kind) WHERE id < 6 \
      ORDER BY id",
    "SELECT id, c FROM shop, LATERAL (SELECT caption_image(url) AS c OFFSET 0) AS l WHERE id < 6",
    "SELECT caption_image(url) FROM shop WHERE id < 4 \
     UNION ALL SELECT caption_image(url, 'seo') FROM shop WHERE id < 3",
    "SELECT caption_image(url) FROM shop WHERE id < 4 \
     INTERSECT SELECT caption_image(url) FROM shop WHERE id < 3",
    "WITH c AS MATERIALIZED (SELECT id, caption_image(url) AS c FROM shop WHERE id < 6) \
     SELECT * FROM c ORDER BY id LIMIT 2",
    "WITH u AS MATERIALIZED (SELECT id, url FROM shop WHERE id < 6) \
     SELECT id, caption_image(url) FROM u",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 4) \
     SELECT n, caption_image(url) FROM r JOIN shop ON id = n ORDER BY n",
    "SELECT caption_image(replace(url, '/' || id % 5 || '.', '/' || i || '.')) \
       FROM shop, generate_series(0, 2) AS i WHERE id = 1",
    "SELECT i, caption_image(u || i || '.jpg') FROM generate_series(0, 4) AS i, \
       (SELECT replace(url, '0.jpg', '') AS u FROM shop WHERE id = 1) AS b",
    "SELECT id, caption_image(url) FROM (VALUES (1), (2), (9)) AS v (id) JOIN shop USING (id)",
    "VALUES (caption_image((SELECT url FROM shop WHERE id = 1))), ('b')",
    "SELECT * FROM captions WHERE id < 6",
    "SELECT * FROM captions ORDER BY id LIMIT 3",
    "SELECT each_title()",
    "SELECT * FROM shop WHERE EXISTS (SELECT caption_image(url) FROM shop)",
    "SELECT id, caption_image(url) FROM parts ORDER BY id",
    "SELECT id, caption_image(url) FROM parts WHERE id > 2",
    "SELECT id, caption_image(url) FROM shop TABLESAMPLE BERNOULLI (100) WHERE id < 6",
    "SELECT id, caption_image(url) FROM shop WHERE id < 6 FOR UPDATE",
    "SELECT id, caption_image(url) FROM (SELECT * FROM shop WHERE id < 6 FOR UPDATE) AS s",
    "UPDATE shop SET alt = caption_image(url)",
    "UPDATE shop SET alt = caption_image(url) WHERE id <> 6",
    "UPDATE shop SET alt = coalesce(caption_image(url), alt) WHERE id < 6 RETURNING id, alt",
    "UPDATE shop SET alt = caption_image(url), seo = caption_image(url, 'seo') WHERE id < 6",
    "UPDATE shop SET alt = CASE WHEN alt IS NULL THEN caption_image(url) ELSE alt END",
    "UPDATE shop SET alt = caption_image(url) FROM kinds AS k WHERE k.kind = shop.kind \
        AND k.name = 'one'",
    "UPDATE shop SET id = id + 100, alt = caption_image(url) WHERE id < 6",
    "UPDATE shop SET alt = 'x' WHERE id < 6 RETURNING id, caption_image(url)",
    "UPDATE parts SET alt = caption_image(url)",
    "UPDATE parts SET alt = caption_image(url), id = 8 - id WHERE id > 1",
    "DELETE FROM shop WHERE id < 6 RETURNING caption_image(url)",
    "INSERT INTO filled SELECT id, caption_image(url) FROM shop WHERE id < 6",
    "INSERT INTO filled SELECT id, caption_image(url) FROM shop RETURNING *",
    "INSERT INTO filled (id, note) SELECT id, caption_image(url) FROM shop WHERE id < 6",
    "INSERT INTO filled VALUES (1, caption_image((SELECT url FROM shop WHERE id = 1))), (2, 'b')",
    "INSERT INTO shop (id, alt) SELECT id + 5, caption_image(url) FROM shop WHERE id < 5 \
     ON CONFLICT (id) DO UPDATE SET seo = excluded.alt",
    "INSERT INTO shop (id, alt) SELECT id, title FROM shop WHERE id < 4 \
     ON CONFLICT (id) DO UPDATE SET seo = caption_image(shop.url)",
    "MERGE INTO shop AS t USING (SELECT id, caption_image(url) AS c FROM shop WHERE id < 4) AS s \
        ON s.id = t.id WHEN MATCHED THEN UPDATE SET alt = s.c",
    "MERGE INTO shop AS t USING kinds AS s ON s.kind = t.id \
      WHEN MATCHED THEN UPDATE SET alt = caption_image(t.url)",
    "CREATE TABLE made AS SELECT id, caption_image(url) AS alt FROM shop WHERE id < 6; \
     SELECT * FROM made",
    "DECLARE c CURSOR FOR SELECT id, caption_image(url) FROM shop; FETCH 2 FROM c; \
     FETCH BACKWARD 1 FROM c; FETCH 2 FROM c",
    "DECLARE c SCROLL CURSOR FOR SELECT id, caption_image(url) FROM shop; FETCH 2 FROM c; \
     FETCH BACKWARD 1 FROM c",
    "PREPARE p(int) AS SELECT id, caption_image(url) FROM shop ORDER BY id LIMIT $1; \
     EXECUTE p(2); EXECUTE p(3); EXECUTE p(0)",
    "PREPARE q(text) AS SELECT id, caption_image(replace(url, $1, $1)) FROM shop WHERE id < 3; \
     SET plan_cache_mode = force_generic_plan; EXECUTE q('a'); EXECUTE q(NULL); EXECUTE q('b')",
    "DO $$ BEGIN UPDATE shop SET alt = caption_image(url); \
     EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'caught %', SQLERRM; END $$; \
     SELECT id, caption_image(url) FROM shop WHERE id < 3",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT id, caption_image(url) FROM shop",
    "SET pg_caption.min_confidence = 1; SELECT id, caption_image(url) FROM shop WHERE id < 6",
    "SET work_mem = '64kB'; SELECT id, caption_image(image) FROM shop",
    "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; \
     SET auto_explain.log_analyze = on; SET auto_explain.log_verbose = on; \
     UPDATE shop SET alt = caption_image(url) WHERE id < 6",
    "SELECT id, caption_image(url, on_error => 'null') FROM shop",
    "SELECT id, caption_image(url, on_error => CASE id WHEN 4 THEN 'odd' END) FROM shop",
    "SELECT id, caption_image(CASE id WHEN 4 THEN '  ' ELSE url END) FROM shop WHERE id < 6",
    "SET enable_hashjoin = off; SET enable_mergejoin = off; SELECT id, caption_image(url) FROM \
     kinds JOIN shop USING (kind) WHERE id < 6 ORDER BY id",
    "SET enable_hashjoin = off; SET enable_nestloop = off; SELECT id, caption_image(url) FROM \
     kinds JOIN shop USING (kind) WHERE id < 6 ORDER BY id",
];

/// What a client sees of a statement: rows, or the fields of the error, and the messages.
#[derive(Debug, PartialEq)]
struct SeenOutcome {
    result: Result<Vec<Vec<Option<String>>>, [Option<String>; 4]>,
    messages: Vec<[Option<String>; 4]>,
    table: Vec<Vec<Option<String>>>,
}

fn fields(error: &DbError) -> [Option<String>; 4] {
    let text = |text: &str| Some(text.to_owned());
    [
        text(error.code().code()),
        text(error.message()),
        error.detail().map(Into::into),
        error.hint().map(Into::into),
    ]
}

/// Runs a statement in a transaction that is rolled back.
fn outcome(session: &mut TestSession, rows: &str, on_error: &str, sql: &str) -> SeenOutcome {
    session.run("BEGIN");
    session.run(&format!(
        "SET LOCAL pg_caption.lookahead = {rows}; SET LOCAL pg_caption.on_error = '{on_error}'"
    ));
    session.run("SAVEPOINT before");
    session.notices();
    // Isolation levels are set before the first query.
    let sql = if sql.starts_with("SET TRANSACTION") {
        session.run("ROLLBACK; BEGIN");
        let (first, rest) = sql.split_once(';').expect("two statements");
        session.run(first);
        session.run(&format!("SET LOCAL pg_caption.lookahead = {rows}"));
        session.run(&format!("SET LOCAL pg_caption.on_error = '{on_error}'; SAVEPOINT before"));
        rest
    } else {
        sql
    };
    let result = session
        .try_rows(sql)
        .map_err(|error| fields(error.as_db_error().unwrap_or_else(|| panic!("{error}: {sql}"))));
    let messages = session.notices().iter().map(fields).collect();
    if result.is_err() {
        session.run("ROLLBACK TO before");
    }
    let table = session.rows(
        "SELECT 'shop', s::text FROM shop AS s UNION ALL SELECT 'filled', f::text FROM filled AS f \
         UNION ALL SELECT 'parts', p::text FROM parts AS p ORDER BY 1, 2",
    );
    session.run("ROLLBACK; DEALLOCATE ALL; RESET ALL");
    session.notices();
    SeenOutcome { result, messages, table }
}

#[track_caller]
fn compare(session: &mut TestSession, on_error: &str, sql: &str) -> bool {
    let without = outcome(session, "0", on_error, sql);
    for rows in ["-1", "2"] {
        let with = outcome(session, rows, on_error, sql);
        assert_eq!(with, without, "lookahead {rows}, on_error {on_error}: {sql}");
    }
    without.result.is_ok()
}

#[test]
fn look_ahead_changes_no_result() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    shop(&mut session, &web);
    let mut succeeded = 0;
    for sql in STATEMENTS {
        for on_error in ["error", "null"] {
            succeeded += usize::from(compare(&mut session, on_error, sql));
        }
    }
    assert!(succeeded > STATEMENTS.len(), "only {succeeded} statements succeeded");
}

/// A random target with one or more calls.
fn random_target(random: &mut fastrand::Rng) -> String {
    let url = ["url", "nullif(url, '')", "url || ''", "split_part(url, '#', 4 - id)"];
    let url = url[random.usize(..url.len())];
    let style = ["'concise'", "'seo'", "CASE WHEN id = 5 THEN 'odd' ELSE 'seo' END"];
    let call = format!("caption_image({url}, {})", style[random.usize(..style.len())]);
    match random.u8(..9) {
        0 => format!("CASE WHEN kind = {} THEN {call} END", random.u8(..3)),
        1 => format!("CASE kind WHEN {} THEN alt ELSE {call} END", random.u8(..3)),
        2 => format!("coalesce(alt, {call})"),
        3 => format!("coalesce({call}, 'none')"),
        4 => format!("{call} || (12 / (id - {}))", random.u8(..9)),
        5 => format!("lower({call})"),
        6 => format!("noisy({call})"),
        _ => call,
    }
}

/// A random statement over the tables of [`shop`].
fn random_statement(random: &mut fastrand::Rng) -> String {
    let first = random_target(random);
    let second = if random.bool() { random_target(random) } else { "title".into() };
    let condition = match random.u8(..6) {
        0 => format!("WHERE id > {}", random.u8(..7)),
        1 => format!("WHERE id % 3 = {}", random.u8(..3)),
        2 => format!("WHERE 6 / (id - {}) < 5", random.u8(..9)),
        3 => "WHERE alt IS NULL".into(),
        4 => "WHERE title LIKE '%t_%'".into(),
        _ => String::new(),
    };
    let order = ["", "ORDER BY id", "ORDER BY kind, id DESC", "ORDER BY 1, 2"];
    let order = order[random.usize(..order.len())];
    let limit = if random.bool() { format!("LIMIT {}", random.u8(..6)) } else { String::new() };
    let from = ["shop", "shop JOIN kinds USING (kind)", "(SELECT * FROM shop ORDER BY id) AS s"];
    let from = from[random.usize(..from.len())];
    match random.u8(..4) {
        0 => format!("UPDATE shop SET alt = {first}, seo = {second} {condition} RETURNING *"),
        1 => format!(
            "INSERT INTO filled SELECT id, {first}, {second} FROM {from} {condition} {order} \
             {limit}"
        ),
        _ => format!("SELECT {first}, {second} FROM {from} {condition} {order} {limit}"),
    }
}

#[test]
fn look_ahead_changes_no_random_result() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    shop(&mut session, &web);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let on_error = if random.bool() { "error" } else { "null" };
        compare(&mut session, on_error, &random_statement(&mut random));
    }
}

/// The lines of a plan, and why it does not look ahead.
fn plan(session: &mut TestSession, sql: &str) -> (String, Vec<String>) {
    session.run("SET client_min_messages = debug1");
    session.notices();
    let lines = session.rows(&format!("EXPLAIN (COSTS OFF) {sql}"));
    let notices = session.notices();
    session.run("RESET client_min_messages");
    let lines: Vec<String> = lines.into_iter().flatten().flatten().collect();
    let reasons = notices.iter().map(|notice| notice.message().to_owned());
    let about = "pg_caption does not look ahead: ";
    let reasons = reasons.filter_map(|text| text.strip_prefix(about).map(Into::into)).collect();
    (lines.join("\n"), reasons)
}

#[test]
fn explain_names_the_node_that_looks_ahead() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    shop(&mut session, &web);
    for sql in [
        "UPDATE shop SET alt = caption_image(url)",
        "UPDATE shop SET alt = caption_image(url) WHERE alt IS NULL",
        "UPDATE parts SET alt = caption_image(url)",
        "INSERT INTO filled SELECT id, caption_image(url) FROM shop",
        "SELECT caption_image(url) FROM shop ORDER BY id",
        "SELECT caption_image(url) FROM shop ORDER BY id LIMIT 2",
        "SELECT caption_image(url) FROM (SELECT url FROM shop ORDER BY id LIMIT 2) AS s",
        "SELECT caption_image(url) FROM shop JOIN kinds USING (kind)",
        "SELECT caption_image('http://a/' || i || '.jpg') FROM generate_series(1, 5) AS i",
        "SELECT caption_image(split_part(url, '?', 2)) FROM shop",
        "SELECT caption_image(url), caption_image(url, 'seo') FROM shop",
        "SELECT CASE WHEN alt IS NULL THEN caption_image(url) END FROM shop",
        "SELECT coalesce(alt, caption_image(url)) FROM shop",
        "SELECT caption_image(image) FROM shop",
        "SELECT caption_image(url) FROM shop WHERE title LIKE 'Pro%' AND id % 2 = 0",
        "SELECT * FROM captions",
    ] {
        let (lines, reasons) = plan(&mut session, sql);
        assert!(lines.contains("Custom Scan (Caption Lookahead)"), "{sql}\n{lines}\n{reasons:?}");
        assert_eq!(reasons, Vec::<String>::new(), "{sql}");
        // The columns to which the node refers are resolved.
        let verbose = session.rows(&format!("EXPLAIN (VERBOSE) {sql}"));
        assert!(verbose.into_iter().flatten().flatten().any(|line| line.contains("caption_image")));
    }
}

#[test]
fn debug1_says_why_a_statement_is_left_alone() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    shop(&mut session, &web);
    session.run(
        "CREATE FUNCTION picture(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE \
         AS 'BEGIN RETURN t; END'; \
         CREATE DOMAIN address AS text CHECK (value <> '')",
    );
    for (reason, sql) in [
        (
            "the query is a declared cursor",
            "DECLARE c CURSOR FOR SELECT caption_image(url) FROM shop",
        ),
        (
            "the statement is a MERGE",
            "MERGE INTO shop AS t USING kinds AS s ON s.kind = t.id \
          WHEN MATCHED THEN UPDATE SET alt = caption_image(t.url)",
        ),
        ("the call is in a condition", "SELECT id FROM shop WHERE caption_image(url) <> ''"),
        ("the call is in a condition", "SELECT (SELECT caption_image(s.url)) FROM shop AS s"),
        ("the call is in a condition", "UPDATE shop SET alt = '' RETURNING caption_image(url)"),
        (
            "the call is in a condition",
            "INSERT INTO shop (id) VALUES (1) ON CONFLICT (id) DO \
          UPDATE SET alt = caption_image(shop.url)",
        ),
        ("the call is not made for the rows", "SELECT caption_image('http://a/b.jpg')"),
        (
            "reading the rows involves a volatile function",
            "SELECT caption_image(url) FROM shop WHERE random() < 2",
        ),
        (
            "reading the rows involves a volatile function",
            "SELECT caption_image(url) FROM shop WHERE picture(url) <> ''",
        ),
        (
            "reading the rows evaluates an expression",
            "SELECT caption_image(url) FROM shop WHERE 1 / id > 0",
        ),
        (
            "the rows come from a plan node",
            "SELECT caption_image(url) FROM \
          (SELECT url FROM shop FOR UPDATE) AS s",
        ),
        (
            "an argument, or a condition of the call, involves a volatile",
            "SELECT caption_image(url || random()) FROM shop",
        ),
        (
            "an argument, or a condition of the call, involves a volatile",
            "SELECT CASE WHEN random() < 2 THEN caption_image(url) END FROM shop",
        ),
        (
            "an argument, or a condition of the call, involves a function or domain of a user",
            "SELECT caption_image(picture(url)) FROM shop",
        ),
        (
            "an argument, or a condition of the call, involves a function or domain of a user",
            "SELECT caption_image(url::address) FROM shop",
        ),
        (
            "an argument, or a condition of the call, is not a simple",
            "SELECT caption_image((SELECT o.url FROM shop AS o WHERE o.id = s.id)) FROM shop AS s",
        ),
    ] {
        let (lines, reasons) = plan(&mut session, sql);
        assert!(!lines.contains("Lookahead"), "{sql}\n{lines}");
        assert_eq!(reasons.len(), 1, "{sql}: {reasons:?}");
        assert!(reasons[0].starts_with(reason), "{sql}: {reasons:?}");
    }
    session.run("SET pg_caption.lookahead = 0");
    let (_, reasons) = plan(&mut session, "SELECT caption_image(url) FROM shop");
    assert_eq!(reasons, ["\"pg_caption.lookahead\" is 0"]);
    let (_, reasons) = plan(&mut session, "SELECT upper(url) FROM shop");
    assert_eq!(reasons, Vec::<String>::new());
}

#[test]
fn a_window_of_rows_is_requested_ahead() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let mut session = db.products(&web.gated_pictures(20, &gate));
    session.run("SET pg_caption.lookahead = 3");
    let update = std::thread::spawn(move || {
        session.run("UPDATE products SET alt = caption_image(image_url)");
        session
    });
    // The row whose turn it is, and three rows ahead.
    eventually("four pictures are requested", || gate.waiting() == 4);
    gate.open();
    let mut session = update.join().unwrap();
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 20);
    assert_eq!(web.total(), 20);
}

#[test]
fn rows_behind_a_false_guard_are_not_requested() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 8);
    session.run("UPDATE products SET alt = 'text' WHERE id % 2 = 0");
    session.run(
        "UPDATE products SET alt = coalesce(alt, caption_image(image_url)), \
                seo = CASE WHEN id = 2 THEN caption_image(image_url, 'seo') END",
    );
    let requested: Vec<usize> = (0..8).map(|at| web.hits(&format!("/{at}.jpg"))).collect();
    assert_eq!(requested, [1, 1, 1, 0, 1, 0, 1, 0]);
}

#[test]
fn each_needed_row_is_requested_once() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 10);
    session.run("CREATE TABLE chosen AS SELECT id FROM products WHERE id > 7; ANALYZE");
    for (requests, sql) in [
        (3, "SELECT caption_image(image_url) FROM products ORDER BY id DESC LIMIT 3"),
        (2, "SELECT caption_image(image_url) FROM products WHERE id IN (4, 5)"),
        (3, "SELECT caption_image(image_url) FROM products JOIN chosen USING (id)"),
        (4, "SELECT caption_image(image_url) FROM products LIMIT 2 OFFSET 2"),
        (
            5,
            "SELECT c FROM (SELECT id, caption_image(image_url) AS c FROM products OFFSET 0) AS s \
             LIMIT 5",
        ),
    ] {
        let before = web.total();
        session.run(sql);
        assert_eq!(web.total() - before, requests, "{sql}");
    }
}

// Else its answer would share the model with those of the rows behind it.
#[test]
fn the_first_row_of_a_select_does_not_wait_for_others() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let mut session = db.products(&web.gated_pictures(4, &gate));
    let select =
        std::thread::spawn(move || session.rows("SELECT caption_image(image_url) FROM products"));
    eventually("the first picture is requested", || gate.waiting() > 0);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(web.total(), 1, "pictures requested before the first row");
    gate.open();
    assert_eq!(select.join().unwrap().len(), 4);
    assert_eq!(web.total(), 4);
}

#[test]
fn an_early_end_cancels_the_requests_ahead() {
    // In its own cluster, the engine counts no requests of other tests.
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let mut urls = web.gated_pictures(12, &gate);
    urls[0] = web.serve("/first.jpg", ServerAnswer::picture(0));
    urls[1] = web.serve("/second.jpg", ServerAnswer::picture(1));
    let mut session = db.products(&urls);
    session.run(
        "CREATE FUNCTION ends() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN \
           FOR r IN SELECT caption_image(image_url), 1 / (id - 2) FROM products LOOP END LOOP; \
           RETURN 'no error'; EXCEPTION WHEN division_by_zero THEN RETURN 'caught'; END $$",
    );
    assert_eq!(session.text("SELECT ends()"), "caught");
    assert!(web.total() > 2, "nothing was requested ahead");
    // The gate is still closed.
    db.eventually("(SELECT in_flight = 0 FROM caption.engine_status())");
    let pid = session.pid();
    let before = gate.waiting();
    let call = std::thread::spawn(move || {
        let error = session.error("UPDATE products SET alt = caption_image(image_url)");
        (session, error)
    });
    eventually("pictures are requested again", || gate.waiting() > before);
    db.session().run(&format!("SELECT pg_cancel_backend({pid})"));
    let (mut session, error) = call.join().unwrap();
    assert_eq!(error.code().code(), "57014");
    db.eventually("(SELECT in_flight = 0 FROM caption.engine_status())");
    gate.open();
    assert_eq!(session.number("SELECT count(caption_image(image_url)) FROM products"), 12);
}

#[test]
fn a_dead_engine_costs_a_looking_statement_time() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let mut session = db.products(&web.gated_pictures(8, &gate));
    let engine = db.engine_pid();
    let update = std::thread::spawn(move || {
        session.run("UPDATE products SET alt = caption_image(image_url)");
        session
    });
    eventually("pictures are requested", || gate.waiting() >= 4);
    pg_caption_tests::signal(engine, pg_caption_tests::Signal::KILL);
    gate.open();
    let mut session = update.join().unwrap();
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 8);
}

#[test]
fn a_concurrent_update_is_rechecked() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let mut urls = web.pictures(4);
    urls[0] = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut session = db.products(&urls);
    let update = std::thread::spawn(move || {
        session.run("UPDATE products SET alt = caption_image(image_url) WHERE title = 'Product'");
        session
    });
    eventually("the first picture is being fetched", || gate.waiting() == 1);
    let other = web.serve("/other.jpg", ServerAnswer::picture(7));
    let mut second = db.session();
    second.run(&format!("UPDATE products SET image_url = '{other}' WHERE id = 3"));
    second.run("UPDATE products SET title = 'Sold' WHERE id = 4");
    gate.open();
    let mut session = update.join().unwrap();
    assert!(
        session
            .holds(&format!("(SELECT alt = caption_image('{other}') FROM products WHERE id = 3)"))
    );
    assert!(session.holds("(SELECT alt IS NULL FROM products WHERE id = 4)"));
}
