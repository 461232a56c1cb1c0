//! Processes that die lose no work. Each test uses its own cluster and stops, kills or drops
//! something while rows are processed.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, Signal, StopMode, TestCluster, TestDatabase, TestServer,
    TestSession, alive, eventually, model, signal,
};

/// Adds columns that count how often each fill of a row was written.
fn count_writes(session: &mut TestSession) {
    session.run(
        "ALTER TABLE products ADD alt_writes int NOT NULL DEFAULT 0, ADD seo_writes int NOT NULL \
         DEFAULT 0;
         CREATE FUNCTION count_writes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.alt IS DISTINCT FROM OLD.alt THEN NEW.alt_writes := OLD.alt_writes + 1; END IF;
           IF NEW.seo IS DISTINCT FROM OLD.seo THEN NEW.seo_writes := OLD.seo_writes + 1; END IF;
           RETURN NEW; END $$;
         CREATE TRIGGER count_writes BEFORE UPDATE ON products FOR EACH ROW \
         EXECUTE FUNCTION count_writes()",
    );
}

#[test]
fn a_killed_engine_costs_no_session() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let mut session = db.products(&web.half_gated_pictures(20, &gate));
    let (bystander, postmaster) = (session.pid(), cluster.postmaster());
    let engine_before = db.engine_pid();
    session.run("SELECT caption.watch('products')");
    eventually("half of the rows are filled", || gate.waiting() > 0);
    signal(engine_before, Signal::KILL);
    gate.open();
    db.eventually(FILLED);
    assert_eq!(session.pid(), bystander, "no session was lost");
    assert_eq!(cluster.postmaster(), postmaster);
    assert_ne!(db.engine_pid(), engine_before);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn a_waiting_call_outlives_the_engine() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let pid = db.engine_pid();
    let mut waiting = db.session();
    let call = std::thread::spawn(move || waiting.text(&format!("SELECT caption_image('{url}')")));
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    signal(pid, Signal::KILL);
    gate.open();
    assert!(!call.join().unwrap().is_empty());
}

#[test]
fn a_stopped_engine_delays_no_fast_stop() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    db.session().run(&format!("SELECT caption_image('{url}')"));
    signal(db.engine_pid(), Signal::STOP);
    // Waits for every process of the server, including the engine.
    cluster.restart(StopMode::Fast);
    db.session().run(&format!("SELECT caption_image('{url}')"));
}

#[test]
fn a_terminated_worker_is_replaced() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let mut session = db.products(&web.half_gated_pictures(20, &gate));
    session.run("SELECT caption.watch('products')");
    eventually("half of the rows are filled", || gate.waiting() > 0);
    let worker = cluster.process("pg_caption worker").expect("a worker");
    session.run(&format!("SELECT pg_terminate_backend({worker})"));
    gate.open();
    db.eventually(FILLED);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn a_terminated_launcher_is_replaced() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    let before = db.engine_pid();
    let launcher = cluster.process("pg_caption launcher").expect("a launcher");
    session.run(&format!("SELECT pg_terminate_backend({launcher})"));
    eventually("a new launcher runs", || {
        cluster.process("pg_caption launcher").is_some_and(|pid| pid != launcher)
    });
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert_ne!(db.engine_pid(), before);
    assert!(!alive(before as u32), "the old engine ended with its launcher");
}

fn restart_writes_each_row_once(how: StopMode) {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let mut session = db.products(&web.half_gated_pictures(40, &gate));
    count_writes(&mut session);
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM products WHERE alt <> '')");
    eventually("half of the rows are filled", || gate.waiting() > 0);
    drop(session);
    cluster.restart(how);
    gate.open();
    db.eventually(FILLED);
    let mut session = db.session();
    session.run("CALL caption.wait('products')");
    assert_eq!(
        session.rows("SELECT DISTINCT alt_writes, seo_writes FROM products"),
        [[Some("1".to_owned()), Some("1".to_owned())]]
    );
}

#[test]
fn a_fast_restart_writes_each_row_once() {
    restart_writes_each_row_once(StopMode::Fast);
}

#[test]
fn an_immediate_restart_writes_each_row_once() {
    restart_writes_each_row_once(StopMode::Immediate);
}

#[test]
fn a_killed_postmaster_writes_each_row_once() {
    restart_writes_each_row_once(StopMode::Kill);
}

/// A database with a half-filled table; the gate delays the other rows.
fn half_filled<'a>(
    cluster: &'a TestCluster,
    web: &TestServer,
    gate: &AnswerGate,
) -> TestDatabase<'a> {
    let db = cluster.database();
    db.products(&web.half_gated_pictures(20, gate)).run("SELECT caption.watch('products')");
    eventually("half of the rows are filled", || gate.waiting() > 0);
    db
}

/// Checks that the cluster serves a new database.
fn assert_serves(cluster: &TestCluster) {
    let (db, web) = (cluster.database(), TestServer::start());
    db.products_of(&web, 2).run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert!(
        !cluster.log().contains("PANIC")
            && !cluster.log().contains("terminating any other active server processes")
    );
}

#[test]
fn a_busy_database_can_be_dropped() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = half_filled(&cluster, &web, &gate);
    // Without FORCE: the worker must end by itself.
    cluster.session("postgres").run(&format!("DROP DATABASE {}", db.name));
    gate.open();
    assert_serves(&cluster);
}

#[test]
fn a_busy_extension_can_be_dropped() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = half_filled(&cluster, &web, &gate);
    db.session().run("DROP EXTENSION pg_caption CASCADE");
    gate.open();
    db.session().run("UPDATE products SET alt = NULL");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_caption worker'";
    db.eventually(&format!("({left}) = 0"));
    assert_serves(&cluster);
}

#[test]
fn a_busy_table_can_be_dropped() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = half_filled(&cluster, &web, &gate);
    let mut session = db.session();
    session.run("DROP TABLE products");
    gate.open();
    db.eventually("NOT EXISTS (SELECT FROM caption.progress)");
    db.products_of(&web, 2).run("SELECT caption.watch('products')");
    db.eventually(FILLED);
}

#[test]
fn a_worker_waiting_for_a_lock_can_end() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run("SELECT caption.watch('products')");
    session.run("BEGIN; LOCK TABLE products IN ACCESS EXCLUSIVE MODE");
    eventually("a worker runs", || cluster.process("pg_caption worker").is_some());
    let worker = cluster.process("pg_caption worker").expect("a worker");
    db.session().run(&format!("SELECT pg_terminate_backend({worker})"));
    db.eventually(&format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {worker})"));
    session.run("COMMIT");
    db.eventually(FILLED);
}

// The postmaster of a container is PID 1: it adopts orphaned processes and treats any exit code
// other than 0 or 1 as the crash of a backend.
#[test]
fn a_dead_engine_is_no_crashed_backend() {
    let (cluster, web) = (TestCluster::subreaper(&[]), TestServer::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let mut session = db.session();
    let bystander = session.pid();

    signal(db.engine_pid(), Signal::KILL);
    session.run(&format!("SELECT caption_image('{url}')"));

    let (old, launcher) =
        (db.engine_pid(), cluster.process("pg_caption launcher").expect("a launcher"));
    session.run(&format!("SELECT pg_terminate_backend({launcher})"));
    eventually("the engine ends with its launcher", || !alive(old as u32));
    session.run(&format!("SELECT caption_image('{url}')"));

    assert_eq!(session.pid(), bystander, "no session was lost");
    drop(session);
    cluster.restart(StopMode::Fast);
    db.session().run(&format!("SELECT caption_image('{url}')"));
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn a_reload_fixes_a_missing_model() {
    let web = TestServer::start();
    let model = model();
    let cluster = TestCluster::private(&[("pg_caption.model", "/nowhere/at/all")]);
    let db = cluster.database();
    let mut session = db.products_of(&web, 5);
    session.run("SET pg_caption.on_error = 'null'");
    let error = session.error("UPDATE products SET alt = coalesce(caption_image(image_url), alt)");
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(format!("{error:?}").contains("/nowhere/at/all"), "the folder is named: {error:?}");
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM caption.watch_state)");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt IS NOT NULL"), 0);
    cluster.set("pg_caption.model", &model.display().to_string());
    cluster.reload();
    db.eventually(FILLED);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0, "no attempt was charged");
}

#[test]
fn a_missing_new_model_keeps_the_old_engine() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    let before = db.engine_pid();
    db.session().run(&format!("SELECT caption_image('{url}')"));
    cluster.set("pg_caption.model", "/nowhere/at/all");
    cluster.reload();
    eventually("the log names the reason", || cluster.log().contains("cannot use its model"));
    db.session().run(&format!("SELECT caption_image('{url}')"));
    assert_eq!(db.engine_pid(), before);
}

#[test]
fn a_new_setting_replaces_the_engine() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", ServerAnswer::picture(0));
    for threads in ["1", "2", "1"] {
        let before = db.engine_pid();
        cluster.set("pg_caption.threads", threads);
        cluster.reload();
        let mut session = db.session();
        eventually("a new engine serves without a failed call", || {
            session.run(&format!("SELECT caption_image('{url}')"));
            db.engine_pid() != before
        });
    }
}
