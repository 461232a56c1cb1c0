//! `caption_image`: one caption for one picture, while the session waits.

use pg_caption_tests::{
    AnswerGate, ServerAnswer, TestCluster, TestServer, eventually, pictures, shared_database,
};

#[test]
fn a_picture_behind_a_url_gets_a_caption() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let caption = db.session().text(&format!("SELECT caption_image('{url}')"));
    assert!(!caption.trim().is_empty());
    assert_eq!(web.hits("/a.jpg"), 1);
}

#[test]
fn null_returns_null_without_a_request() {
    let db = shared_database();
    let mut session = db.session();
    assert_eq!(session.value("SELECT caption_image(NULL::text)"), None);
    assert_eq!(session.value("SELECT caption_image(NULL::bytea)"), None);
}

#[test]
fn an_unknown_style_error_lists_the_styles() {
    let db = shared_database();
    let error = db.session().error("SELECT caption_image('http://127.0.0.1:1/a.jpg', 'poetic')");
    assert_eq!(error.code().code(), "22023");
    let text = format!("{error:?}");
    for style in ["poetic", "concise", "seo", "detailed"] {
        assert!(text.contains(style), "{style} is not in: {text}");
    }
}

#[test]
fn max_tokens_errors_name_the_range() {
    let db = shared_database();
    let mut session = db.session();
    for tokens in [31, 257, 0, -1] {
        let error = session.error(&format!(
            "SELECT caption_image('http://127.0.0.1:1/a.jpg', 'concise', {tokens})"
        ));
        assert_eq!(error.code().code(), "22023");
        let text = format!("{error:?}");
        assert!(text.contains("32") && text.contains("256"), "{text}");
    }
}

#[test]
fn a_missing_picture_error_names_the_status() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/gone.jpg", ServerAnswer::status(404));
    let error = db.session().error(&format!("SELECT caption_image('{url}')"));
    assert_eq!(error.code().code(), "38000");
    assert!(format!("{error:?}").contains("404"), "{error:?}");
}

#[test]
fn errors_hide_credentials_of_a_url() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.url("/gone.jpg").replace("http://", "http://shop:s3cr3t@");
    let error = db.session().error(&format!("SELECT caption_image('{url}')"));
    assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
    // PostgreSQL may log the statement; all other lines must hide the credentials.
    let log = db.cluster.log();
    assert!(
        !log.lines().filter(|line| !line.contains("STATEMENT")).any(|line| line.contains("s3cr3t"))
    );
}

#[test]
fn a_body_that_is_no_picture_is_rejected() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve(
        "/page.jpg",
        ServerAnswer::body(b"<html>not a picture</html>".to_vec(), "image/jpeg"),
    );
    assert_eq!(
        db.session().error(&format!("SELECT caption_image('{url}')")).code().code(),
        "38000"
    );
}

#[test]
fn on_error_null_returns_null_and_warns() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.url("/gone.jpg");
    let mut session = db.session();
    session.run("SET pg_caption.on_error = 'null'");
    assert_eq!(session.value(&format!("SELECT caption_image('{url}')")), None);
    let notices = session.notices();
    assert!(
        notices
            .iter()
            .any(|notice| notice.severity() == "WARNING" && format!("{notice:?}").contains("410")),
        "{notices:?}"
    );
}

#[test]
fn an_update_with_bad_rows_keeps_the_good_ones() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(4);
    urls.push(web.url("/gone.jpg"));
    let mut session = db.products(&urls);
    session.run("SET pg_caption.on_error = 'null'");
    session.run("UPDATE products SET alt = coalesce(caption_image(image_url), alt)");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 4);
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NULL"), 1);
}

#[test]
fn calls_of_one_statement_share_a_fetch() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run(
        "UPDATE products SET alt = caption_image(image_url), seo = caption_image(image_url, 'seo')",
    );
    assert!(session.holds("(SELECT alt <> '' AND seo <> '' FROM products)"));
    assert_eq!(web.hits("/0.jpg"), 1);
}

#[test]
fn each_statement_fetches_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.session();
    session.run(&format!("SELECT caption_image('{url}')"));
    session.run(&format!("SELECT caption_image('{url}')"));
    assert_eq!(web.hits("/a.jpg"), 2);
}

#[test]
fn bytes_and_url_get_the_same_caption() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(3));
    let bytes = pictures::bytea_literal(&pictures::jpeg(3));
    let mut session = db.session();
    assert_eq!(
        session.text(&format!("SELECT caption_image({bytes})")),
        session.text(&format!("SELECT caption_image('{url}')"))
    );
}

#[test]
fn statement_timeout_ends_a_waiting_call() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut session = db.session();
    session.run("SET statement_timeout = '300ms'");
    // The engine's own limit would give another code.
    assert_eq!(session.error(&format!("SELECT caption_image('{url}')")).code().code(), "57014");
    assert_eq!(session.text("SELECT 'still here'"), "still here");
}

#[test]
fn a_cancelled_call_ends_during_the_fetch() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut waiting = db.session();
    let pid = waiting.pid();
    let call = std::thread::spawn(move || waiting.error(&format!("SELECT caption_image('{url}')")));
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    assert!(db.session().holds(&format!("pg_cancel_backend({pid})")));
    // The gate stays closed: if the cancel had no effect, the engine's own limit would end the call
    // with another code.
    assert_eq!(call.join().unwrap().code().code(), "57014");
}

#[test]
fn a_terminated_caller_cancels_its_request() {
    // In its own cluster, the engine counts no requests of other tests.
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let (mut session, mut waiting) = (db.session(), db.session());
    let pid = waiting.pid();
    let call = std::thread::spawn(move || {
        waiting.try_rows(&format!("SELECT caption_image('{url}')")).is_err()
    });
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    assert_eq!(session.number("SELECT in_flight FROM caption.engine_status()"), 1);
    session.run(&format!("SELECT pg_terminate_backend({pid})"));
    assert!(call.join().unwrap());
    db.eventually(&format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})"));
    // The gate is still closed: the engine has cancelled the request.
    db.eventually("(SELECT in_flight = 0 FROM caption.engine_status())");
    assert_eq!(gate.waiting(), 1);
}

#[test]
fn a_forced_database_drop_ends_waiting_calls() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut waiting = db.session();
    let call = std::thread::spawn(move || {
        waiting.try_rows(&format!("SELECT caption_image('{url}')")).is_err()
    });
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    db.cluster.session("postgres").run(&format!("DROP DATABASE {} WITH (FORCE)", db.name));
    assert!(call.join().unwrap());
}

#[test]
fn a_waiting_call_blocks_no_other_database_drop() {
    let (db, other, web, gate) =
        (shared_database(), shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut waiting = db.session();
    let call = std::thread::spawn(move || waiting.text(&format!("SELECT caption_image('{url}')")));
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    // DROP DATABASE waits until every process, including the waiting one, has closed the database's
    // files.
    let mut admin = db.cluster.session("postgres");
    admin.run("SET statement_timeout = '60s'");
    admin.run(&format!("DROP DATABASE {}", other.name));
    gate.open();
    assert!(!call.join().unwrap().is_empty());
}

#[test]
fn pg_caption_timeout_limits_a_call() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut session = db.session();
    session.run("SET pg_caption.timeout = '500ms'");
    let error = session.error(&format!("SELECT caption_image('{url}')"));
    assert_eq!(error.code().code(), "58030", "{error:?}");
}

#[test]
fn read_only_transactions_get_captions() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.session();
    session.run("BEGIN READ ONLY");
    assert!(!session.text(&format!("SELECT caption_image('{url}')")).is_empty());
    session.run("COMMIT");
}

#[test]
fn the_argument_on_error_outranks_the_setting() {
    let (db, web) = (shared_database(), TestServer::start());
    let (gone, mut session) = (web.url("/gone.jpg"), db.session());
    for picture in [format!("'{gone}'"), "'x'::bytea".into()] {
        let call = |more: &str| format!("SELECT caption_image({picture}, 'concise', 64{more})");
        assert_eq!(session.error(&call("")).code().code(), "38000");
        assert_eq!(session.value(&call(", 'null'")), None);
        session.run("SET pg_caption.on_error = 'null'");
        assert_eq!(session.value(&call("")), None);
        assert_eq!(session.value(&call(", NULL")), None);
        assert_eq!(session.error(&call(", 'Error'")).code().code(), "38000");
        session.run("RESET pg_caption.on_error");
        let error = session.error(&call(", 'ignore'"));
        assert_eq!(error.code().code(), "22023");
        assert_eq!(error.message(), "invalid value for on_error: \"ignore\"");
        assert_eq!(error.hint(), Some("Available values: error, null."));
    }
    let named = format!("SELECT caption_image('{gone}', on_error => 'null')");
    assert_eq!(session.value(&named), None);
}

#[test]
fn plpgsql_catches_caption_errors() {
    let (db, web) = (shared_database(), TestServer::start());
    let (good, gone) = (web.serve("/a.jpg", ServerAnswer::picture(0)), web.url("/gone.jpg"));
    let mut session = db.session();
    session.run(
        "CREATE FUNCTION careful(url text) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN RETURN caption_image(url); \
         EXCEPTION WHEN OTHERS THEN RETURN 'caught ' || SQLSTATE; \
         END $$",
    );
    let rows = session.rows(&format!(
        "SELECT careful(url) FROM unnest(ARRAY['{gone}', '{good}', '{gone}']) WITH ORDINALITY AS \
         u(url, n) ORDER BY n"
    ));
    let texts: Vec<_> = rows.iter().map(|row| row[0].clone().expect("a text")).collect();
    assert_eq!((texts[0].as_str(), texts[2].as_str()), ("caught 38000", "caught 38000"));
    assert!(!texts[1].starts_with("caught"), "{texts:?}");
}

#[test]
fn a_prepared_statement_fetches_every_url() {
    let (db, web) = (shared_database(), TestServer::start());
    let urls = web.pictures(7);
    let mut session = db.session();
    session.run("PREPARE c(text) AS SELECT caption_image($1)");
    // After five executions PostgreSQL considers a generic plan.
    for url in &urls {
        assert!(!session.text(&format!("EXECUTE c('{url}')")).is_empty());
    }
    assert_eq!(web.total(), 7);
}

#[test]
fn parallel_workers_get_captions() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 8);
    session.run("ALTER TABLE products SET (parallel_workers = 2); ANALYZE products");
    session.run(
        "SET parallel_setup_cost = 0; \
         SET parallel_tuple_cost = 0; \
         SET min_parallel_table_scan_size = 0",
    );
    let plan: Vec<_> = session
        .rows("EXPLAIN (COSTS OFF) SELECT caption_image(image_url) FROM products")
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert!(plan.iter().any(|line| line.contains("Gather")), "{plan:#?}");
    assert_eq!(session.number("SELECT count(caption_image(image_url)) FROM products"), 8);
}

#[test]
fn caption_image_needs_a_grant() {
    let db = shared_database();
    let role = format!("caller_{}", db.name);
    let mut session = db.session();
    session.run(&format!("CREATE ROLE {role} LOGIN"));
    let error = db.session_as(&role).error("SELECT caption_image(NULL::text)");
    session.run(&format!(
        "GRANT EXECUTE ON FUNCTION caption_image(text, text, int, text, jsonb) TO {role}"
    ));
    let granted = db.session_as(&role).value("SELECT caption_image(NULL::text)");
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(error.code().code(), "42501");
    assert_eq!(granted, None);
}
