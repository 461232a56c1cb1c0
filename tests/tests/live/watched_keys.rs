//! Tables of every shape: keys, names, schemas, partitions, types of the filled columns.

use pg_caption_tests::{Answer, Cluster, Web};

/// Creates a table, inserts one row before and one after `watch`, and waits until both are filled.
fn fills(create: &str, table: &str, insert: &str, url_column: &str) {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let mut session = db.session();
    session.run(create);
    for (number, path) in ["/before.jpg", "/after.jpg"].into_iter().enumerate() {
        let url = web.serve(path, Answer::picture(number as u32));
        if number == 1 {
            session.run(&format!("SELECT caption.watch('{table}', '{url_column}')"));
        }
        session.run(&insert.replace("$n", &number.to_string()).replace("$url", &url));
    }
    db.eventually(&format!("(SELECT count(*) FROM {table} WHERE alt <> '' AND seo <> '') = 2"));
    assert_eq!((web.hits("/before.jpg"), web.hits("/after.jpg")), (1, 1));
}

#[test]
fn a_bigint_key() {
    fills(
        "CREATE TABLE t (id bigint PRIMARY KEY, image_url text, alt text, seo text)",
        "t",
        "INSERT INTO t VALUES (9007199254740993 + $n, '$url')",
        "image_url",
    );
}

#[test]
fn a_uuid_key() {
    fills(
        "CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), image_url text, alt text, seo text)",
        "t",
        "INSERT INTO t (image_url) VALUES ('$url')",
        "image_url",
    );
}

#[test]
fn a_text_key_with_anything_in_it() {
    fills(
        "CREATE TABLE t (sku text PRIMARY KEY, image_url text, alt text, seo text)",
        "t",
        r#"INSERT INTO t VALUES (E'O''Neill "x" \\ {,} ünï $n', '$url')"#,
        "image_url",
    );
}

#[test]
fn a_composite_key() {
    fills(
        "CREATE TABLE t (shop int, sku text, day date, image_url text, alt text, seo text, PRIMARY KEY (shop, sku, day))",
        "t",
        "INSERT INTO t VALUES ($n, 'a', '2024-02-29', '$url')",
        "image_url",
    );
}

#[test]
fn keys_that_print_differently_in_other_settings() {
    fills(
        "CREATE TABLE t (at timestamptz, x double precision, image_url text, alt text, seo text, PRIMARY KEY (at, x));
         SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kathmandu'; SET extra_float_digits = -3",
        "t",
        "INSERT INTO t VALUES ('2024-05-06 07:08:09.123456+00', 0.1::float8 + 0.2::float8 + $n, '$url')",
        "image_url",
    );
}

#[test]
fn a_unique_index_over_not_null_columns_serves_as_key() {
    fills("CREATE TABLE t (code text NOT NULL UNIQUE, image_url text, alt text, seo text)", "t", "INSERT INTO t VALUES ('$n', '$url')", "image_url");
}

#[test]
fn mixed_case_and_quoted_names() {
    fills(
        r#"CREATE SCHEMA "My Shop"; CREATE TABLE "My Shop"."Pro""ducts" ("Id" int PRIMARY KEY, "Image URL" text, alt text, seo text)"#,
        r#""My Shop"."Pro""ducts""#,
        r#"INSERT INTO "My Shop"."Pro""ducts" VALUES ($n, '$url')"#,
        "Image URL",
    );
}

#[test]
fn a_partitioned_table() {
    fills(
        "CREATE TABLE t (id int, image_url text, alt text, seo text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (1); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (9)",
        "t",
        "INSERT INTO t VALUES ($n, '$url')",
        "image_url",
    );
}

#[test]
fn rows_written_to_a_partition_directly() {
    fills(
        "CREATE TABLE t (id int, image_url text, alt text, seo text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (9)",
        "t",
        "INSERT INTO t0 VALUES ($n, '$url')",
        "image_url",
    );
}

#[test]
fn a_table_with_generated_columns() {
    fills(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path text, alt text, seo text,
            image_url text GENERATED ALWAYS AS ('http://' || path) STORED)",
        "t",
        "INSERT INTO t (path) VALUES (replace('$url', 'http://', ''))",
        "image_url",
    );
}

#[test]
fn a_varchar_keeps_its_length() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg", Answer::picture(0));
    let mut session = db.session();
    session.run("CREATE TABLE t (id int PRIMARY KEY, image_url text, alt varchar(12), seo text)");
    session.run(&format!("INSERT INTO t VALUES (1, '{url}')"));
    session.run("SELECT caption.watch('t')");
    db.eventually("(SELECT seo <> '' FROM t)");
    db.eventually("(SELECT length(alt) BETWEEN 1 AND 12 FROM t) OR EXISTS (SELECT FROM caption.failure)");
}

#[test]
fn other_fills_and_columns() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg", Answer::picture(0));
    let mut session = db.session();
    session.run("CREATE TABLE t (id int PRIMARY KEY, photo text, \"Alt Text\" text, story text)");
    session.run(&format!("INSERT INTO t VALUES (1, '{url}')"));
    session.run(r#"SELECT caption.watch('t', 'photo', '{"Alt Text": "concise", "story": "detailed"}', 128)"#);
    db.eventually(r#"(SELECT "Alt Text" <> '' AND story <> '' FROM t)"#);
}
