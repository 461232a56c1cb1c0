//! Models on a server, which is scripted: calls, watches, keys, pauses, limits, a server that dies,
//! a cascade, and what all of them report.

use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_tests::{
    ModelsDirectory, ServerAnswer, Signal, TestCluster, TestDatabase, TestServer, TestSession,
    eventually, pictures, signal,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A models directory with the default model, the remote model `far`, and more of its fields.
fn models_with(server: &ScriptedServer, more: Value) -> ModelsDirectory {
    let models = ModelsDirectory::of(&["default"]);
    put_remote(&models, "far", server, more);
    models
}

/// Writes the folder of a remote model with these fields besides those that each has.
pub(crate) fn put_remote(
    models: &ModelsDirectory,
    name: &str,
    server: &ScriptedServer,
    more: Value,
) {
    let mut remote = json!({ "protocol": "openai", "base_url": server.url(), "model": "tiny" });
    for (field, value) in more.as_object().unwrap() {
        remote[field] = value.clone();
    }
    models.put(name, "remote.json", &remote.to_string(), 0o644);
}

/// Changes to a model and waits until it serves.
pub(crate) fn use_model(session: &mut TestSession, name: &str) {
    session.run(&format!("SELECT caption.use_model('{name}', wait => true)"));
}

/// A call with a picture of its own, as SQL.
fn call(number: u32) -> String {
    format!("SELECT caption_image({})", pictures::bytea_literal(&pictures::jpeg(number)))
}

/// Watches one column of `count` products.
fn watch(db: &TestDatabase<'_>, web: &TestServer, count: usize) -> TestSession {
    let mut session = db.products_of(web, count);
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')");
    session
}

fn filled(count: usize) -> String {
    format!("(SELECT count(alt) = {count} FROM products)")
}

/// The process id of the engine that serves.
fn engine(session: &mut TestSession) -> i64 {
    session.number("SELECT pid FROM caption.engine_status()")
}

// The key is read again when the server has refused the old one; rows wait and say why.
#[test]
fn a_remote_model_serves_calls_and_watches() {
    let key = Arc::new(Mutex::new("sk-first-0001".to_string()));
    let expected = key.clone();
    let server = ScriptedServer::start(move |request| {
        let sent = request.headers.get("authorization").map(String::as_str).unwrap_or_default();
        match sent == format!("Bearer {}", expected.lock().unwrap()) {
            true => ScriptedAnswer::text("A cat on a mat.", Some(0.9)),
            false => ScriptedAnswer::status(401, &json!({ "error": sent }).to_string()),
        }
    });
    let models = models_with(&server, json!({ "api_key_file": "key" }));
    models.put("far", "key", "sk-first-0001\n", 0o644);
    let (cluster, web) = (models.cluster("default"), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    let use_far = "SELECT caption.use_model('far', wait => true)";
    let readable = session.error(use_far);
    assert!(format!("{readable:?}").contains("chmod 0600"), "{readable:?}");
    models.put("far", "key", "sk-wrong-0002\n", 0o600);
    let refused = session.error(use_far);
    assert!(format!("{refused:?}").contains("refuses the key"), "{refused:?}");
    models.put("far", "key", "sk-first-0001\n", 0o600);
    use_model(&mut session, "far");
    assert_eq!(session.text(&call(1)), "A cat on a mat");
    assert!(session.holds(
        "(SELECT active AND family = 'remote' AND state = 'serving' AND length(digest) = 64 \
            FROM caption.models() WHERE name = 'far')"
    ));

    let mut owner = watch(&db, &web, 3);
    db.eventually(&filled(3));
    let digest = session.text("SELECT (caption.engine_status()).digest");
    let texts = "SELECT string_agg(DISTINCT \
                 concat_ws(' ', t.text, round(t.confidence::numeric, 2), t.model), '|') \
                 FROM caption.texts('products') t";
    assert_eq!(owner.text(texts), format!("A cat on a mat 0.90 far@{}", &digest[..12]));
    // Another key: calls fail, rows wait and say why, and nothing is charged. With new pictures,
    // since the server is not asked again about others.
    *key.lock().unwrap() = "sk-other-0003".into();
    assert_eq!(session.text(&call(1)), "A cat on a mat");
    let failure = session.error(&call(98));
    assert!(failure.message().contains("refuses the key"), "{failure:?}");
    let url = web.serve("/new.jpg", ServerAnswer::picture(99));
    owner.run(&format!("INSERT INTO products (image_url) VALUES ('{url}')"));
    db.eventually(
        "(SELECT state LIKE 'waiting: the engine cannot serve: the model server refuses the key%' \
            FROM caption.progress)",
    );
    assert_eq!(owner.number("SELECT count(*) FROM caption.failure"), 0);
    models.put("far", "key", "sk-other-0003\n", 0o600);
    db.eventually(&filled(4));
    db.eventually("(SELECT state = 'idle' FROM caption.progress)");
    // No key is anywhere: messages, log, catalogs, status.
    let seen = [
        format!("{readable:?} {refused:?} {failure:?}"),
        cluster.log(),
        session.text("SELECT caption.engine_report()::text"),
        session.text("SELECT coalesce(string_agg(m::text, ''), '') FROM caption.models() m"),
        session.text("SELECT coalesce(string_agg(d::text, ''), '') FROM caption.deferred d"),
    ];
    for text in &seen {
        for part in ["0001", "0002", "0003"].map(|end| format!("-{end}")) {
            assert!(!text.contains(&part), "a key is shown: {text}");
        }
    }
    // Nor in a core file: other processes of the user cannot read the memory of this one.
    let engine = engine(&mut session);
    let root_owned = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(format!("/proc/{engine}/environ")).unwrap(),
    ) == 0;
    assert!(root_owned || std::fs::read(format!("/proc/{engine}/environ")).is_err());
}

#[test]
fn a_pause_and_a_dying_server_cost_no_row() {
    const ROWS: usize = 24;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let server = ScriptedServer::start(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        3..6 => ScriptedAnswer::Full(429, "Retry-After: 1\r\n".into(), "slow down".into()),
        at if at % 9 == 8 => ScriptedAnswer::Cut(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        _ => ScriptedAnswer::text("A cat", Some(0.9)),
    });
    let models = models_with(&server, json!({}));
    let (cluster, web) = (models.cluster("default"), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    use_model(&mut session, "far");
    let mut owner = watch(&db, &web, ROWS);
    owner.run("CREATE TABLE writes (id int)");
    owner.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.writes VALUES (NEW.id); RETURN NEW; END $$; \
         CREATE TRIGGER note AFTER UPDATE ON products FOR EACH ROW EXECUTE FUNCTION note()",
    );
    for deaths in 1..=3 {
        server.wait_for(6 * deaths);
        server.kill();
        server.restart();
    }
    db.eventually(&filled(ROWS));
    db.eventually("(SELECT state = 'idle' FROM caption.progress)");
    assert_eq!(owner.number("SELECT count(*) FROM caption.failure"), 0);
    assert_eq!(
        owner.number(
            "SELECT count(*) FROM (SELECT id FROM writes GROUP BY id HAVING count(*) > 1) x"
        ),
        0,
        "no row is written twice"
    );
}

#[test]
fn a_daily_limit_pauses_watches_across_engines() {
    let server = ScriptedServer::start(|_| ScriptedAnswer::text("A cat", Some(0.9)));
    let price = json!({ "per_request": 0.5, "output_per_million": 100000 });
    let models = models_with(&server, json!({ "daily_requests": 4, "price": price }));
    let (cluster, web) = (models.cluster("default"), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    // The trial of use_model is the first request.
    use_model(&mut session, "far");
    session.run("LISTEN captions");
    let mut owner = db.products_of(&web, 5);
    owner.run(
        "SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', notify => 'captions')",
    );
    db.eventually(&filled(3));
    db.eventually(
        "(SELECT state LIKE 'waiting: the engine cannot serve: the daily limit%' \
            FROM caption.progress)",
    );
    let failure = session.error(&call(1));
    assert!(failure.message().contains("daily limit"), "{failure:?}");
    // The worker writes the use each ten seconds; the launcher has it after two.
    db.eventually("(SELECT sum(requests) = 4 FROM caption.used)");
    let mut notified = 0;
    for (channel, payload) in session.notifications() {
        assert_eq!(channel, "captions");
        let payload: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(payload["table"], "public.products");
        notified += payload["rows"].as_i64().unwrap();
    }
    assert_eq!(notified, 3, "each filled row is in one notification");
    // An engine reports its use to the launcher every two seconds.
    std::thread::sleep(Duration::from_secs(3));
    let before = engine(&mut session);
    signal(before, Signal::KILL);
    eventually("the next engine serves", || {
        session.holds(&format!(
            "(SELECT state = 'ready' AND pid <> {before} FROM caption.engine_status())"
        ))
    });
    let failure = session.error(&call(2));
    assert!(failure.message().contains("daily limit"), "{failure:?}");
    assert_eq!(server.seen().len(), 4);
    assert_eq!(owner.number("SELECT count(*) FROM caption.failure"), 0);

    // The use of the engine that died was written, and is counted once.
    assert_eq!(
        session.rows(
            "SELECT model, style, requests, images, input_tokens, output_tokens, failures, \
                    cost::text::float8 FROM caption.usage"
        ),
        [["far", "concise", "4", "4", "400", "40", "0", "6"].map(|text| Some(text.to_string()))]
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.used"), 1);
    assert!(session.holds("(SELECT day = (now() AT TIME ZONE 'UTC')::date FROM caption.usage)"));
    let metric = |name: &str| format!("SELECT value FROM caption.metrics WHERE name = '{name}'");
    assert_eq!(session.text(&metric("pg_caption_usage_requests_total")), "4");
    assert_eq!(session.text(&metric("pg_caption_engine_up")), "1");
    assert_eq!(session.text(&metric("pg_caption_watch_filled_total")), "3");
    assert!(session.holds(
        "(SELECT bool_and(name ~ '^pg_caption_[a-z_]+$' AND value IS NOT NULL AND help <> '' \
                          AND jsonb_typeof(labels) = 'object') AND count(*) > 15 \
            FROM caption.metrics)"
    ));
    assert!(session.holds(
        "NOT EXISTS (SELECT FROM caption.metrics GROUP BY name, labels HAVING count(*) > 1)"
    ));
    session.run("CREATE ROLE watcher; GRANT pg_monitor TO watcher; CREATE ROLE other");
    session.run("SET ROLE watcher; SELECT * FROM caption.usage; SELECT * FROM caption.metrics");
    session.run("SET ROLE other");
    for view in ["usage", "metrics", "used"] {
        let error = session.error(&format!("SELECT * FROM caption.{view}"));
        assert_eq!(error.code().code(), "42501", "{view}");
    }
}

#[test]
fn a_cascade_says_which_model_wrote() {
    let server = ScriptedServer::start(|_| ScriptedAnswer::text("A cat of far", Some(0.9)));
    let models = models_with(&server, json!({}));
    let cascade = |below: f32| json!({ "first": "default", "then": "far", "below": below });
    models.put("all", "cascade.json", &cascade(1.0).to_string(), 0o644);
    models.put("few", "cascade.json", &cascade(0.0).to_string(), 0o644);
    let (cluster, web) = (models.cluster("default"), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    use_model(&mut session, "all");
    let mut owner = watch(&db, &web, 2);
    db.eventually(&filled(2));
    assert_eq!(
        owner.number("SELECT count(*) FROM products WHERE alt = 'A cat of far'"),
        2,
        "the first is never certain"
    );
    let far = owner.text("SELECT DISTINCT model FROM caption.texts('products')");
    use_model(&mut session, "far");
    let digest = session.text("SELECT (caption.engine_status()).digest");
    assert_eq!(far, format!("far@{}", &digest[..12]));
    use_model(&mut session, "few");
    let asked = server.seen().len();
    owner.run("UPDATE products SET alt = NULL");
    db.eventually(&filled(2));
    assert_eq!(owner.number("SELECT count(*) FROM products WHERE alt = 'A cat of far'"), 0);
    assert_eq!(server.seen().len(), asked, "only the trial of use_model asked it");
    let small = owner.text("SELECT DISTINCT model FROM caption.texts('products')");
    assert_ne!(small, far);
    // The second one dies: with "wait" the rows wait, and calls fail.
    use_model(&mut session, "all");
    server.kill();
    session.run("SET pg_caption.timeout = '2s'");
    session.error(&call(3));
    owner.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/1.jpg")));
    server.restart();
    db.eventually(&filled(3));
    assert_eq!(owner.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn captions_without_confidence_are_not_written() {
    let server = ScriptedServer::start(|_| ScriptedAnswer::text("A cat", None));
    let models = models_with(&server, json!({}));
    put_remote(&models, "sure", &server, json!({ "without_confidence": "write" }));
    let (cluster, web): (TestCluster, _) = (models.cluster("default"), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    use_model(&mut session, "far");
    assert_eq!(session.text(&call(1)), "A cat");
    let mut owner = watch(&db, &web, 1);
    let announced = |session: &mut TestSession| {
        let notices = session.notices();
        notices
            .iter()
            .any(|notice| notice.message() == "captions without a confidence wait for a review")
    };
    assert!(announced(&mut owner));
    db.eventually("(SELECT drafts = 1 AND failed = 0 FROM caption.progress)");
    assert!(owner.holds("(SELECT alt IS NULL FROM products)"));
    owner.run("SELECT caption.approve('products')");
    assert_eq!(owner.text("SELECT alt FROM products"), "A cat");
    use_model(&mut session, "sure");
    owner.run(&format!("INSERT INTO products (image_url) VALUES ('{}')", web.url("/0.jpg")));
    db.eventually(&filled(2));
    owner.run("SELECT caption.watch('products')");
    assert!(!announced(&mut owner), "they are written");
}
