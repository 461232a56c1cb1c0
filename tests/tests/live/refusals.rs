//! Rejected calls and their messages: tables that cannot be watched, addresses that are not
//! fetched.

use pg_caption_tests::{ServerAnswer, TestCluster, TestServer, shared_database};

/// Creates a table and checks that `caption.watch` fails. Message, detail and hint must contain
/// each of the terms.
#[track_caller]
fn assert_rejected(create: &str, watch: &str, terms: &[&str]) {
    let db = shared_database();
    let mut session = db.session();
    session.run(create);
    let error = session.error(&format!("SELECT caption.watch({watch})"));
    let texts = format!(
        "{} {} {}",
        error.message(),
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default()
    )
    .to_lowercase();
    for term in terms {
        assert!(texts.contains(term), "{term} is not in: {texts}");
    }
    assert_eq!(
        session.number("SELECT count(*) FROM pg_trigger WHERE tgfoid = 'caption.enqueue'::regproc"),
        0,
        "a rejected watch leaves no trigger"
    );
}

#[test]
fn a_table_without_a_key_is_rejected() {
    assert_rejected("CREATE TABLE t (id int, image_url text, alt text, seo text)", "'t'", &["key"]);
}

#[test]
fn a_nullable_unique_index_is_no_key() {
    assert_rejected(
        "CREATE TABLE t (id int UNIQUE, image_url text, alt text, seo text)",
        "'t'",
        &["key"],
    );
}

#[test]
fn a_key_with_unstable_text_is_rejected() {
    for (kind, terms) in [
        ("regclass", ["regclass", "search_path", "oid"]),
        ("regrole[]", ["regrole", "names", "oid"]),
        ("money", ["money", "locale", "numeric"]),
    ] {
        assert_rejected(
            &format!("CREATE TABLE t (id {kind} PRIMARY KEY, image_url text, alt text, seo text)"),
            "'t'",
            &terms,
        );
    }
    let renamed = "CREATE TYPE size AS ENUM ('S', 'M'); \
        CREATE TABLE t (id size PRIMARY KEY, image_url text, alt text, seo text)";
    assert_rejected(renamed, "'t'", &["enum", "rename value", "text"]);
    let domain = "CREATE DOMAIN price AS money; \
        CREATE TABLE t (id price PRIMARY KEY, image_url text, alt text, seo text)";
    assert_rejected(domain, "'t'", &["money", "locale"]);
}

#[test]
fn a_deferrable_key_is_rejected() {
    assert_rejected(
        "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, image_url text, alt text, seo text)",
        "'t'",
        &["key", "(id)", "deferrable"],
    );
}

// Neither a partition of a watched table nor a parent of a watched partition can be watched.
#[test]
fn one_partition_tree_has_one_watch() {
    let db = shared_database();
    let mut session = db.session();
    session.run(
        "CREATE TABLE t (id int PRIMARY KEY, image_url text, alt text, seo text) \
         PARTITION BY RANGE (id);
         CREATE TABLE mid PARTITION OF t FOR VALUES FROM (0) TO (9) PARTITION BY RANGE (id); \
         CREATE TABLE leaf PARTITION OF mid FOR VALUES FROM (0) TO (9)",
    );
    for (watched, others) in
        [("t", ["mid", "leaf"]), ("leaf", ["t", "mid"]), ("mid", ["t", "leaf"])]
    {
        session.run(&format!("SELECT caption.watch('{watched}')"));
        for other in others {
            let error = session.error(&format!("SELECT caption.watch('{other}')"));
            assert_eq!(error.code().code(), "55000", "{error:?}");
            assert!(
                error.message().contains("partition of") && error.message().contains("watched"),
                "{error:?}"
            );
            assert!(
                error.hint().is_some_and(
                    |hint| hint.contains(&format!("caption.unwatch('public.{watched}')"))
                ),
                "{error:?}"
            );
        }
        // The watch itself can be repeated.
        session.run(&format!(
            "SELECT caption.watch('{watched}'); SELECT caption.unwatch('public.{watched}')"
        ));
    }
}

#[test]
fn null_arguments_are_rejected() {
    let db = shared_database();
    let mut session = db.products(&[]);
    session.run("SELECT caption.watch('products')");
    for (call, terms) in [
        ("watch(to_regclass('nowhere'))", ["relation", "table"]),
        ("unwatch(NULL)", ["relation", "table"]),
        ("pause(NULL)", ["relation", "table"]),
        ("resume(NULL)", ["relation", "table"]),
        ("retry(NULL)", ["relation", "table"]),
        ("recaption(NULL)", ["relation", "table"]),
        ("recaption('products', NULL)", ["older_than", "interval"]),
    ] {
        let error = session.error(&format!("SELECT caption.{call}"));
        assert_eq!(error.code().code(), "22004", "{call}: {error:?}");
        assert!(
            error.message().contains(terms[0])
                && error.hint().is_some_and(|hint| hint.contains(terms[1])),
            "{call}: {error:?}"
        );
    }
}

#[test]
fn a_missing_url_column_is_rejected() {
    assert_rejected(
        "CREATE TABLE t (id int PRIMARY KEY, alt text, seo text)",
        "'t', 'photo'",
        &["photo"],
    );
}

#[test]
fn a_missing_fill_column_is_rejected() {
    assert_rejected(
        "CREATE TABLE t (id int PRIMARY KEY, image_url text, alt text)",
        "'t'",
        &["seo"],
    );
}

#[test]
fn a_fill_column_must_be_text() {
    assert_rejected(
        "CREATE TABLE t (id int PRIMARY KEY, image_url text, alt int, seo text)",
        "'t'",
        &["alt", "integer"],
    );
}

#[test]
fn a_generated_column_cannot_be_filled() {
    assert_rejected(
        "CREATE TABLE t (id int PRIMARY KEY, image_url text, alt text GENERATED ALWAYS AS ('x') \
         STORED, seo text)",
        "'t'",
        &["alt", "generated"],
    );
}

#[test]
fn a_view_is_rejected() {
    assert_rejected(
        "CREATE VIEW t AS SELECT 1 AS id, ''::text AS image_url, ''::text AS alt, ''::text AS seo",
        "'t'",
        &["view"],
    );
}

#[test]
fn an_unknown_style_is_rejected() {
    assert_rejected(
        "CREATE TABLE t (id int PRIMARY KEY, image_url text, alt text)",
        r#"'t', fills => '{"alt": "poetic"}'"#,
        &["poetic", "concise"],
    );
}

#[test]
fn max_tokens_out_of_range_is_rejected() {
    assert_rejected(
        "CREATE TABLE t (id int PRIMARY KEY, image_url text, alt text, seo text)",
        "'t', max_tokens => 7",
        &["32", "256"],
    );
}

#[test]
fn only_utf8_databases_are_accepted() {
    let cluster = TestCluster::shared();
    let mut admin = cluster.session("postgres");
    admin.run(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    let error = cluster.session("latin").error("CREATE EXTENSION pg_caption");
    admin.run("DROP DATABASE latin WITH (FORCE)");
    assert_eq!(error.code().code(), "0A000", "{error:?}");
    assert!(
        error.message().contains("UTF8")
            && error.detail().is_some_and(|detail| detail.contains("LATIN1")),
        "{error:?}"
    );
}

#[test]
fn a_table_of_another_owner_is_rejected() {
    let db = shared_database();
    let mut session = db.products(&[]);
    let role = format!("other_{}", db.name);
    session.run(&format!(
        "CREATE ROLE {role} LOGIN; \
         GRANT ALL ON products TO {role}; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA caption TO {role}"
    ));
    let error = db.session_as(&role).error("SELECT caption.watch('products')");
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(error.code().code(), "42501", "{error:?}");
}

#[test]
fn loopback_is_rejected_unless_allowed() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.allowed_networks", "")]), TestServer::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.session();
    for url in [
        url.clone(),
        url.replace("127.0.0.1", "localhost"),
        url.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        let error = session.error(&format!("SELECT caption_image('{url}')"));
        assert_eq!(error.code().code(), "38000", "{error:?}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("pg_caption.allowed_networks")),
            "{error:?}"
        );
    }
    assert_eq!(web.total(), 0, "no request was made");
}
