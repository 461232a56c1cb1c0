//! The extension's processes and objects as PostgreSQL and the operating system show them.

use pg_caption_tests::{
    AnswerGate, ServerAnswer, TestCluster, TestServer, eventually, shared_database,
};

#[test]
fn the_launcher_is_visible() {
    assert_eq!(
        TestCluster::shared().session("postgres").number(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_caption launcher'"
        ),
        1
    );
}

#[test]
fn a_worker_is_visible_and_ends_when_idle() {
    let (db, web, gate) = (shared_database(), TestServer::start(), AnswerGate::new());
    let url = web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate));
    db.products(&[url]).run("SELECT caption.watch('products')");
    let workers = format!(
        "SELECT FROM pg_stat_activity WHERE backend_type = 'pg_caption worker' AND datname = '{}'",
        db.name
    );
    db.eventually(&format!("EXISTS ({workers})"));
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    // No transaction of a worker spans the network.
    db.eventually(&format!("EXISTS ({workers} AND xact_start IS NULL AND backend_xmin IS NULL)"));
    gate.open();
    db.eventually(&format!("NOT EXISTS ({workers})"));
}

#[test]
fn the_engine_reports_its_status() {
    let db = shared_database();
    let pid = db.engine_pid();
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    assert!(!db.session().text("SELECT digest FROM caption.engine_status()").is_empty());
}

#[test]
fn the_engine_opens_no_server_files() {
    let db = shared_database();
    let pid = db.engine_pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])),
        "{status}"
    );
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok()?.to_str().map(String::from))
        .filter(|target| target.contains("/data/"))
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_missing_preload_names_the_setting() {
    let cluster = TestCluster::private(&[("shared_preload_libraries", "")]);
    let db = cluster.database();
    for statement in [
        "SELECT caption_image('http://127.0.0.1:1/a.jpg')",
        "CALL caption.backfill('caption.style')",
    ] {
        let error = db.session().error(statement);
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("shared_preload_libraries")),
            "{error:?}"
        );
    }
}

#[test]
fn every_object_has_a_comment() {
    let db = shared_database();
    let undescribed = db.session().rows(
        "SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
          WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
            AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_caption')
            AND classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass)
            AND obj_description(objid, classid::regclass::text) IS NULL
            AND NOT EXISTS (SELECT FROM pg_class WHERE oid = objid \
            AND classid = 'pg_class'::regclass AND relkind IN ('S', 'i'))
          ORDER BY 1",
    );
    assert!(undescribed.is_empty(), "without COMMENT ON: {undescribed:?}");
}

#[test]
fn captioning_functions_are_volatile_and_private() {
    let db = shared_database();
    let open = db.session().rows(
        "SELECT p.oid::regprocedure FROM pg_proc AS p WHERE (p.proname LIKE 'caption_image%' \
         OR p.pronamespace = 'caption'::regnamespace
              AND p.proname IN ('watch', 'unwatch', 'pause', 'resume', 'retry', 'recaption'))
            AND (p.provolatile <> 'v' OR has_function_privilege('public', p.oid, 'EXECUTE'))",
    );
    assert!(open.is_empty(), "{open:?}");
}
