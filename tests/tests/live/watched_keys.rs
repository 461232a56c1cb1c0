//! Tables of every shape: keys, names, schemas, partitions, types of the filled columns.

use pg_caption_tests::{ServerAnswer, TestServer, shared_database};

/// Creates a table, inserts one row before `watch` and one after it, and waits until both are
/// filled. `$n` and `$url` in `insert` are replaced.
fn fills(create: &str, table: &str, insert: &str, url_column: &str) {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    session.run(create);
    for (number, path) in ["/before.jpg", "/after.jpg"].into_iter().enumerate() {
        let url = web.serve(path, ServerAnswer::picture(number as u32));
        if number == 1 {
            session.run(&format!("SELECT caption.watch('{table}', '{url_column}')"));
        }
        session.run(&insert.replace("$n", &number.to_string()).replace("$url", &url));
    }
    db.eventually(&format!("(SELECT count(*) FROM {table} WHERE alt <> '' AND seo <> '') = 2"));
    assert_eq!((web.hits("/before.jpg"), web.hits("/after.jpg")), (1, 1));
}

#[test]
fn a_bigint_key_works() {
    fills(
        "CREATE TABLE t (id bigint PRIMARY KEY, image_url text, alt text, seo text)",
        "t",
        "INSERT INTO t VALUES (9007199254740993 + $n, '$url')",
        "image_url",
    );
}

#[test]
fn a_uuid_key_works() {
    fills(
        "CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), image_url text, alt text, \
         seo text)",
        "t",
        "INSERT INTO t (image_url) VALUES ('$url')",
        "image_url",
    );
}

#[test]
fn a_text_key_may_hold_any_character() {
    fills(
        "CREATE TABLE t (sku text PRIMARY KEY, image_url text, alt text, seo text)",
        "t",
        r#"INSERT INTO t VALUES (E'O''Neill "x" \\ {,} ünï $n', '$url')"#,
        "image_url",
    );
}

#[test]
fn a_composite_key_works() {
    fills(
        "CREATE TABLE t (shop int, sku text, day date, image_url text, alt text, seo text, \
         PRIMARY KEY (shop, sku, day))",
        "t",
        "INSERT INTO t VALUES ($n, 'a', '2024-02-29', '$url')",
        "image_url",
    );
}

#[test]
fn keys_ignore_output_settings() {
    fills(
        "CREATE TABLE t (at timestamptz, x double precision, image_url text, alt text, seo text, \
         PRIMARY KEY (at, x));
         SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kathmandu'; SET extra_float_digits = -3",
        "t",
        "INSERT INTO t VALUES ('2024-05-06 07:08:09.123456+00', 0.1::float8 + 0.2::float8 + $n, \
         '$url')",
        "image_url",
    );
}

/// Checks that a row is the same row under other settings of a session: its new URL replaces the
/// caption.
fn assert_same_row(kind: &str, value: &str, settings: &str) {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    session.run(&format!(
        "CREATE TABLE t (id {kind} PRIMARY KEY, image_url text, alt text, seo text)"
    ));
    session.run("SELECT caption.watch('t')");
    session.run(&format!(
        "INSERT INTO t VALUES ({value}, '{}')",
        web.serve("/old.jpg", ServerAnswer::picture(1))
    ));
    session.run("CALL caption.wait('t')");
    let url = web.serve("/new.jpg", ServerAnswer::picture(4));
    session.run(settings);
    session.run(&format!("UPDATE t SET image_url = '{url}'"));
    session.run("CALL caption.wait('t')");
    assert_eq!(
        session.text("SELECT alt FROM t"),
        session.text(&format!("SELECT caption_image('{url}')")),
        "{kind}"
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.ledger"), 1, "{kind}");
}

#[test]
fn a_key_is_equal_under_other_settings() {
    assert_same_row("bytea", "'\\x00ff41'", "SET bytea_output = 'escape'");
    assert_same_row("bytea[]", "ARRAY['\\x00ff41'::bytea]", "SET bytea_output = 'escape'");
    assert_same_row("interval", "'1 month -3 days 2 hours'", "SET IntervalStyle = 'sql_standard'");
    assert_same_row("real", "0.1", "SET extra_float_digits = -3");
    assert_same_row(
        "timestamptz",
        "'2024-05-06 07:08:09.1+00'",
        "SET DateStyle = 'German'; SET TimeZone = 'Asia/Kathmandu'",
    );
    assert_same_row(
        "tstzrange",
        "'[2024-05-06 07:08:09.1+00,2024-05-07]'",
        "SET DateStyle = 'German'; SET TimeZone = 'Asia/Kathmandu'",
    );
}

#[test]
fn a_unique_not_null_index_is_a_key() {
    fills(
        "CREATE TABLE t (code text NOT NULL UNIQUE, image_url text, alt text, seo text)",
        "t",
        "INSERT INTO t VALUES ('$n', '$url')",
        "image_url",
    );
}

#[test]
fn mixed_case_and_quoted_names_work() {
    fills(
        r#"CREATE SCHEMA "My Shop";
           CREATE TABLE "My Shop"."Pro""ducts" ("Id" int PRIMARY KEY, "Image URL" text,
                                                alt text, seo text)"#,
        r#""My Shop"."Pro""ducts""#,
        r#"INSERT INTO "My Shop"."Pro""ducts" VALUES ($n, '$url')"#,
        "Image URL",
    );
}

#[test]
fn a_partitioned_table_is_filled() {
    fills(
        "CREATE TABLE t (id int, image_url text, alt text, seo text, PRIMARY KEY (id)) \
         PARTITION BY RANGE (id);
         CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (1); \
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (9)",
        "t",
        "INSERT INTO t VALUES ($n, '$url')",
        "image_url",
    );
}

#[test]
fn rows_of_a_partition_are_filled() {
    fills(
        "CREATE TABLE t (id int, image_url text, alt text, seo text, PRIMARY KEY (id)) \
         PARTITION BY RANGE (id);
         CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (9)",
        "t",
        "INSERT INTO t0 VALUES ($n, '$url')",
        "image_url",
    );
}

#[test]
fn a_table_with_generated_columns_is_filled() {
    fills(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path text, alt text, \
         seo text,
            image_url text GENERATED ALWAYS AS ('http://' || path) STORED)",
        "t",
        "INSERT INTO t (path) VALUES (replace('$url', 'http://', ''))",
        "image_url",
    );
}

/// The caption of a column of that type, and the warnings of `caption.watch`.
fn filled(create: &str, kind: &str, style: &str) -> (String, Vec<String>) {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.session();
    session
        .run(&format!("{create}; CREATE TABLE t (id int PRIMARY KEY, image_url text, alt {kind})"));
    session.run(&format!("INSERT INTO t VALUES (1, '{url}')"));
    session.notices();
    session.run(&format!(r#"SELECT caption.watch('t', fills => '{{"alt": "{style}"}}')"#));
    let warnings = session
        .notices()
        .iter()
        .filter(|notice| notice.severity() == "WARNING")
        .map(|notice| notice.message().to_string())
        .collect();
    session.run("CALL caption.wait('t')");
    assert_eq!(
        session.rows("SELECT code, message, detail FROM caption.failure"),
        Vec::<Vec<Option<String>>>::new()
    );
    (session.text("SELECT alt FROM t"), warnings)
}

#[test]
fn a_varchar_keeps_its_length() {
    let (text, warnings) = filled("", "varchar(12)", "concise");
    assert!((1..=12).contains(&text.chars().count()), "{text}");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_nested_domain_keeps_its_length() {
    let (text, _) = filled(
        "CREATE DOMAIN short AS varchar(12); \
         CREATE DOMAIN shorter AS short; \
         CREATE DOMAIN shortest AS shorter",
        "shortest",
        "concise",
    );
    assert!((1..=12).contains(&text.chars().count()), "{text}");
}

#[test]
fn a_column_too_short_for_its_style_warns() {
    let (text, warnings) = filled("CREATE DOMAIN short AS varchar(12)", "short", "seo");
    assert!((1..=12).contains(&text.chars().count()), "{text}");
    assert!(
        warnings.iter().any(|warning| warning.contains("12 characters")
            && warning.contains("\"seo\" writes at least 15")),
        "{warnings:?}"
    );
}

#[test]
fn custom_fills_and_columns_work() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.session();
    session.run("CREATE TABLE t (id int PRIMARY KEY, photo text, \"Alt Text\" text, story text)");
    session.run(&format!("INSERT INTO t VALUES (1, '{url}')"));
    session.run(
        r#"SELECT caption.watch('t', 'photo',
                                '{"Alt Text": "concise", "story": "detailed"}', 128)"#,
    );
    db.eventually(r#"(SELECT "Alt Text" <> '' AND story <> '' FROM t)"#);
}

// A check that was added as NOT VALID does not hold for existing keys.
#[test]
fn a_key_violating_its_domain_is_filled() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.session();
    session.run(
        "CREATE DOMAIN sku AS varchar(20); \
         CREATE DOMAIN shop_sku AS sku; \
         CREATE TABLE t (k shop_sku PRIMARY KEY, image_url text, alt text, seo text)",
    );
    session.run(&format!("INSERT INTO t SELECT 'old ' || n, '{url}' FROM generate_series(1, 3) n"));
    session.run("ALTER DOMAIN sku ADD CHECK (value NOT LIKE 'old %') NOT VALID");
    session.run("SELECT caption.watch('t')");
    session.run("CALL caption.wait('t')");
    assert_eq!(session.number("SELECT count(*) FROM t WHERE alt <> '' AND seo <> ''"), 3);
    session.run("UPDATE t SET alt = NULL WHERE k = 'old 2'; SELECT caption.prune('t')");
    session.run("CALL caption.wait('t')");
    assert!(session.holds(
        "NOT EXISTS (SELECT FROM t WHERE alt IS NULL) AND NOT EXISTS (SELECT FROM caption.failure)"
    ));
    // The lookup uses the index of the key.
    session.run("SET enable_seqscan = off");
    assert!(
        session
            .text("EXPLAIN (FORMAT JSON) SELECT FROM t WHERE t.k = CAST('old 2' AS varchar(20))")
            .contains("Index")
    );
}

// Such a key is compressed in its index, and larger than what the queue keeps of a key.
#[test]
fn a_row_with_an_overlong_key_is_left_out() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.session();
    session.run("CREATE TABLE t (id text PRIMARY KEY, image_url text, alt text, seo text)");
    let url = web.pictures(1).remove(0);
    let insert = format!("INSERT INTO t SELECT repeat(n || 'x', 20000), '{url}' FROM unnest");
    session.run(&format!("{insert}(ARRAY[1, 2]) n; INSERT INTO t VALUES ('3', '{url}')"));
    session.run("SELECT caption.watch('t')");
    session.run("CALL caption.wait('t')");
    session.notices();
    session.run(&format!("{insert}(ARRAY[4]) n; INSERT INTO t VALUES ('5', '{url}')"));
    let notices = session.notices();
    assert!(notices[0].message().contains("longer than 8192 bytes"), "{notices:?}");
    session.run("CALL caption.wait('t')");
    let filled = "SELECT string_agg(id, ' ' ORDER BY id) FROM t WHERE alt <> ''";
    assert_eq!(session.text(filled), "3 5");
}
