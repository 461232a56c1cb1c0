//! Engines that die, hang, flood or lose their socket: only the picture that is the cause fails,
//! and all others go on.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, Signal, TestCluster, TestDatabase, TestServer, eventually,
    pictures, signal, test_program,
};

/// A cluster whose decoder does what a picture says.
fn with_hooks() -> TestCluster {
    let engine = test_program("test_hook_engine").display().to_string();
    TestCluster::private(&[("pg_caption.engine", &engine)])
}

/// A picture at which the decoder of [`with_hooks`] does something.
fn hooked(number: u32, action: &str, target: &str) -> ServerAnswer {
    let mut picture = pictures::jpeg(number);
    let hook = format!(r#"TEST_HOOK {{"{action}": "{target}"}}"#);
    picture.extend_from_slice(hook.as_bytes());
    ServerAnswer::body(picture, "image/jpeg")
}

/// Ends the engine as an administrator might, or the kernel, and waits for the next one.
fn kill_engine(db: &TestDatabase) {
    let engine = db.engine_pid();
    signal(engine, Signal::KILL);
    db.eventually(&format!(
        "(SELECT state = 'ready' AND pid <> {engine} FROM caption.engine_status())"
    ));
}

#[test]
fn only_killing_pictures_are_rejected() {
    let (cluster, web) = (with_hooks(), TestServer::start());
    let db = cluster.database();
    let mut urls = web.pictures(40);
    for at in [7, 23] {
        urls[at] = web.serve(&format!("/killer-{at}.jpg"), hooked(90, "end the process", "now"));
    }
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> '' AND seo <> ''"), 38);
    assert_eq!(
        session.rows("SELECT key, code FROM caption.failure ORDER BY key"),
        ["{\"id\": 8}", "{\"id\": 24}"]
            .map(|key| vec![Some(key.into()), Some("engine_killer".into())])
    );
}

#[test]
fn a_call_for_a_killing_picture_fails_alone() {
    let (cluster, web) = (with_hooks(), TestServer::start());
    let db = cluster.database();
    let mut urls = web.pictures(8);
    urls[3] = web.serve("/killer.jpg", hooked(90, "end the process", "now"));
    let list = urls.join("', '");
    let rows = db.session().rows(&format!(
        "SELECT ord, caption IS NULL, error_class FROM caption_images(ARRAY['{list}'])"
    ));
    for (at, row) in rows.iter().enumerate() {
        let expected = if at == 3 { ("t", Some("reject")) } else { ("f", None) };
        assert_eq!((row[1].as_deref(), row[2].as_deref()), (Some(expected.0), expected.1));
    }
}

// The row was recorded as the killer of three engines, although it was only being fetched.
#[test]
fn an_engine_killed_while_it_fetches_blames_no_row() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let path = "/slow.jpg";
    let url = web.serve(path, ServerAnswer::picture(0).behind(&gate));
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    for deaths in 1..=4 {
        eventually("the picture is being fetched", || web.hits(path) >= deaths);
        kill_engine(&db);
    }
    gate.open();
    db.eventually(FILLED);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

// A row of a fast host waited ten minutes for 43 rows of a slow host, which were sent singly.
#[test]
fn a_killed_engine_delays_no_row_of_another_host() {
    let (cluster, slow, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let (db, fast) = (cluster.database(), TestServer::start());
    let mut session = db.products(&slow.gated_pictures(43, &gate));
    session.run(
        "CREATE TABLE others (id int PRIMARY KEY, image_url text, alt text, seo text);
         SELECT caption.watch('products'), caption.watch('others')",
    );
    eventually("pictures are being fetched", || gate.waiting() > 1);
    kill_engine(&db);
    session.run(&format!("INSERT INTO others VALUES (1, '{}')", fast.pictures(1)[0]));
    db.eventually("EXISTS (SELECT FROM others WHERE alt <> '' AND seo <> '')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 0);
    gate.open();
    db.eventually(FILLED);
}

// After one death, all remaining pictures of the call were sent singly.
#[test]
fn a_call_stays_concurrent_after_a_death() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let list = web.gated_pictures(30, &gate).join("', '");
    let mut session = db.session();
    let call = std::thread::spawn(move || {
        session.number(&format!("SELECT count(caption) FROM caption_images(ARRAY['{list}'])"))
    });
    eventually("several pictures are being fetched", || web.total() >= 4);
    let before = web.total();
    kill_engine(&db);
    eventually("as many are being fetched again", || web.total() >= 2 * before);
    gate.open();
    assert_eq!(call.join().unwrap(), 30);
}

// A frozen engine was never replaced, and all calls waited for it.
#[test]
fn a_frozen_engine_is_replaced() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products(&web.pictures(3));
    let engine = db.engine_pid();
    signal(engine, Signal::STOP);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    assert_ne!(db.engine_pid(), engine);
    assert!(cluster.log().contains(&format!("engine {engine} did not respond for")));
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn a_call_outlives_a_frozen_engine() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let url = &web.pictures(1)[0];
    signal(db.engine_pid(), Signal::STOP);
    assert!(!db.session().text(&format!("SELECT caption_image('{url}')")).is_empty());
}

// After a changed setting calls worked, and a worker stayed with the frozen old engine.
#[test]
fn a_worker_leaves_a_frozen_old_engine() {
    let (cluster, web, gate) = (TestCluster::private(&[]), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    let engine = db.engine_pid();
    db.products(&[url]).run("SELECT caption.watch('products')");
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    signal(engine, Signal::STOP);
    cluster.set("pg_caption.max_batch", "3");
    cluster.reload();
    gate.open();
    db.eventually(FILLED);
    assert!(cluster.log().contains(&format!("engine {engine} did not respond for")));
}

// Without the file all calls failed until the launcher was restarted.
#[test]
fn a_removed_socket_is_replaced() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    db.engine_pid();
    let socket = cluster.data().join("pg_stat_tmp/pg_caption.sock");
    let url = &web.pictures(1)[0];
    std::fs::remove_file(&socket).unwrap();
    assert!(!db.session().text(&format!("SELECT caption_image('{url}')")).is_empty());
    std::fs::remove_file(&socket).unwrap();
    cluster.reload();
    eventually("the launcher listens again", || socket.exists());
    assert!(!db.session().text(&format!("SELECT caption_image('{url}')")).is_empty());
}

#[test]
fn without_an_engine_its_pid_is_null() {
    let cluster = TestCluster::private(&[("pg_caption.engine", "/nonexistent")]);
    let db = cluster.database();
    let status = db.session().rows("SELECT pid, state FROM caption.engine_status()");
    assert_eq!(status, [vec![None, Some("absent".into())]]);
}

// An engine that wrote without pause filled the server log and the launcher's memory.
#[test]
fn an_engine_that_floods_fills_neither_log_nor_memory() {
    let (cluster, web) = (with_hooks(), TestServer::start());
    let db = cluster.database();
    db.engine_pid();
    let launcher = cluster.process("pg_caption launcher").expect("a launcher");
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{launcher}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().to_owned();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap()
    };
    let (log, memory) = (cluster.log().len(), peak());
    for (at, action) in ["write lines of that size", "write a line of that size"].iter().enumerate()
    {
        let path = format!("/flood-{at}.jpg");
        let url = web.serve(&path, hooked(at as u32, action, "50000000"));
        assert!(!db.session().text(&format!("SELECT caption_image('{url}')")).is_empty());
    }
    assert!(cluster.log().len() - log < 1_000_000, "bytes: {}", cluster.log().len() - log);
    assert!(peak() - memory < 20_000, "kB: {}", peak() - memory);
}

#[test]
fn the_kernel_shows_the_installed_engine_by_name() {
    let cluster = TestCluster::private(&[]);
    let pid = cluster.database().engine_pid();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim_end(), "pg_caption_engi");
}
