//! What dies costs nothing but itself. Each test has a cluster of its own, and stops, kills or
//! drops something in the middle of work.

use pg_caption_tests::{
    Answer, Cluster, Database, Gate, Session, Signal, Stop, Web, eventually, signal,
};

const FILLED: &str =
    "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

fn engine(db: &Database) -> i64 {
    db.eventually("(SELECT state = 'ready' FROM caption.engine_status())");
    db.session().number("SELECT pid FROM caption.engine_status()")
}

/// Counts, in the table itself, how often a fill of a row was given a text.
fn count_writes(session: &mut Session) {
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

/// Pictures of which the later ones wait for the gate: the drain stands still half-way, as long as
/// the test wants.
fn half_gated(web: &Web, gate: &Gate, count: usize) -> Vec<String> {
    let answer = |number: usize| {
        let picture = Answer::picture(number as u32 % 10);
        if number < count / 2 { picture } else { picture.behind(gate) }
    };
    (0..count).map(|number| web.serve(&format!("/{number}.jpg"), answer(number))).collect()
}

#[test]
fn a_killed_engine_costs_no_session() {
    let (cluster, web, gate) = (Cluster::private(&[]), Web::start(), Gate::new());
    let db = cluster.database();
    let mut session = db.products(&half_gated(&web, &gate, 20));
    let (bystander, postmaster) = (session.pid(), cluster.postmaster());
    let engine_before = engine(&db);
    session.run("SELECT caption.watch('products')");
    eventually("the drain is half-way", || gate.waiting() > 0);
    signal(engine_before, Signal::KILL);
    gate.open();
    db.eventually(FILLED);
    assert_eq!(session.pid(), bystander, "no session was lost");
    assert_eq!(cluster.postmaster(), postmaster);
    assert_ne!(engine(&db), engine_before);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn a_waiting_call_outlives_the_engine() {
    let (cluster, web, gate) = (Cluster::private(&[]), Web::start(), Gate::new());
    let db = cluster.database();
    let url = web.serve("/slow.jpg", Answer::picture(0).behind(&gate));
    let pid = engine(&db);
    let mut waiting = db.session();
    let call = std::thread::spawn(move || waiting.text(&format!("SELECT caption_image('{url}')")));
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    signal(pid, Signal::KILL);
    gate.open();
    assert!(!call.join().unwrap().is_empty());
}

#[test]
fn a_stopped_engine_delays_no_fast_stop() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", Answer::picture(0));
    db.session().run(&format!("SELECT caption_image('{url}')"));
    signal(engine(&db), Signal::STOP);
    // Waits for every process of the server, the engine included.
    cluster.restart(Stop::Fast);
    db.session().run(&format!("SELECT caption_image('{url}')"));
}

#[test]
fn a_terminated_worker_is_replaced() {
    let (cluster, web, gate) = (Cluster::private(&[]), Web::start(), Gate::new());
    let db = cluster.database();
    let mut session = db.products(&half_gated(&web, &gate, 20));
    session.run("SELECT caption.watch('products')");
    eventually("the drain is half-way", || gate.waiting() > 0);
    let worker = cluster.process("pg_caption worker").expect("a worker");
    session.run(&format!("SELECT pg_terminate_backend({worker})"));
    gate.open();
    db.eventually(FILLED);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn a_terminated_launcher_is_replaced() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    let before = engine(&db);
    let launcher = cluster.process("pg_caption launcher").expect("a launcher");
    session.run(&format!("SELECT pg_terminate_backend({launcher})"));
    eventually("another launcher is there", || {
        cluster.process("pg_caption launcher").is_some_and(|pid| pid != launcher)
    });
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert_ne!(engine(&db), before);
    assert!(!pg_caption_tests::alive(before as u32), "the old engine went with its launcher");
}

fn restart_in_mid_drain_loses_and_doubles_nothing(how: Stop) {
    let (cluster, web, gate) = (Cluster::private(&[]), Web::start(), Gate::new());
    let db = cluster.database();
    let mut session = db.products(&half_gated(&web, &gate, 40));
    count_writes(&mut session);
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM products WHERE alt <> '')");
    eventually("the drain is half-way", || gate.waiting() > 0);
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
    restart_in_mid_drain_loses_and_doubles_nothing(Stop::Fast);
}

#[test]
fn an_immediate_restart_writes_each_row_once() {
    restart_in_mid_drain_loses_and_doubles_nothing(Stop::Immediate);
}

#[test]
fn a_killed_postmaster_writes_each_row_once() {
    restart_in_mid_drain_loses_and_doubles_nothing(Stop::Kill);
}

/// A database in which a drain stands still half-way.
fn draining<'a>(cluster: &'a Cluster, web: &Web, gate: &Gate) -> Database<'a> {
    let db = cluster.database();
    db.products(&half_gated(web, gate, 20)).run("SELECT caption.watch('products')");
    eventually("the drain is half-way", || gate.waiting() > 0);
    db
}

/// The cluster still serves a database made now.
fn serves(cluster: &Cluster) {
    let (db, web) = (cluster.database(), Web::start());
    db.products_of(&web, 2).run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert!(
        !cluster.log().contains("PANIC")
            && !cluster.log().contains("terminating any other active server processes")
    );
}

#[test]
fn a_busy_database_can_be_dropped() {
    let (cluster, web, gate) = (Cluster::private(&[]), Web::start(), Gate::new());
    let db = draining(&cluster, &web, &gate);
    // Without FORCE: the worker must leave by itself.
    cluster.session("postgres").run(&format!("DROP DATABASE {}", db.name));
    gate.open();
    serves(&cluster);
}

#[test]
fn a_busy_extension_can_be_dropped() {
    let (cluster, web, gate) = (Cluster::private(&[]), Web::start(), Gate::new());
    let db = draining(&cluster, &web, &gate);
    db.session().run("DROP EXTENSION pg_caption CASCADE");
    gate.open();
    db.session().run("UPDATE products SET alt = NULL");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_caption worker'";
    db.eventually(&format!("({left}) = 0"));
    serves(&cluster);
}

#[test]
fn a_busy_table_can_be_dropped() {
    let (cluster, web, gate) = (Cluster::private(&[]), Web::start(), Gate::new());
    let db = draining(&cluster, &web, &gate);
    let mut session = db.session();
    session.run("DROP TABLE products");
    gate.open();
    db.eventually("NOT EXISTS (SELECT FROM caption.progress)");
    db.products_of(&web, 2).run("SELECT caption.watch('products')");
    db.eventually(FILLED);
}

#[test]
fn a_worker_waiting_for_a_lock_can_end() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run("SELECT caption.watch('products')");
    session.run("BEGIN; LOCK TABLE products IN ACCESS EXCLUSIVE MODE");
    eventually("a worker is there", || cluster.process("pg_caption worker").is_some());
    let worker = cluster.process("pg_caption worker").expect("a worker");
    db.session().run(&format!("SELECT pg_terminate_backend({worker})"));
    db.eventually(&format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {worker})"));
    session.run("COMMIT");
    db.eventually(FILLED);
}

/// A container's postmaster is PID 1: it adopts orphans, and takes any exit other than 0 or 1 for
/// the crash of a backend.
#[test]
fn a_dead_engine_is_no_crashed_backend() {
    let (cluster, web) = (Cluster::subreaper(&[]), Web::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", Answer::picture(0));
    let mut session = db.session();
    let bystander = session.pid();

    signal(engine(&db), Signal::KILL);
    session.run(&format!("SELECT caption_image('{url}')"));

    let (old, launcher) =
        (engine(&db), cluster.process("pg_caption launcher").expect("a launcher"));
    session.run(&format!("SELECT pg_terminate_backend({launcher})"));
    eventually("the engine went with its launcher", || !pg_caption_tests::alive(old as u32));
    session.run(&format!("SELECT caption_image('{url}')"));

    assert_eq!(session.pid(), bystander, "no session was lost");
    drop(session);
    cluster.restart(Stop::Fast);
    db.session().run(&format!("SELECT caption_image('{url}')"));
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn a_reload_fixes_a_missing_model() {
    let web = Web::start();
    let model = pg_caption_tests::model();
    let cluster = Cluster::private(&[("pg_caption.model", "/nowhere/at/all")]);
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
    assert_eq!(
        session.number("SELECT count(*) FROM caption.failure"),
        0,
        "nothing was charged to the rows"
    );
}

#[test]
fn a_missing_new_model_keeps_the_old_engine() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", Answer::picture(0));
    let before = engine(&db);
    db.session().run(&format!("SELECT caption_image('{url}')"));
    cluster.set("pg_caption.model", "/nowhere/at/all");
    cluster.reload();
    eventually("the log says why", || cluster.log().contains("cannot use its model"));
    db.session().run(&format!("SELECT caption_image('{url}')"));
    assert_eq!(engine(&db), before);
}

#[test]
fn a_new_setting_replaces_the_engine() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let url = web.serve("/a.jpg", Answer::picture(0));
    for threads in ["1", "2", "1"] {
        let before = engine(&db);
        cluster.set("pg_caption.threads", threads);
        cluster.reload();
        let mut session = db.session();
        eventually("another engine serves", || {
            session.run(&format!("SELECT caption_image('{url}')"));
            engine(&db) != before
        });
    }
}
