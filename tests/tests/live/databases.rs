//! Many databases and few workers: all databases make progress, and a view shows their states.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, TestCluster, TestDatabase, TestServer, eventually,
    shared_database,
};

/// State and reason of a database in `caption.database`, read in the database `shown_in`.
fn state_of(name: &str, shown_in: &TestDatabase) -> (String, String) {
    let row = shown_in.session().rows(&format!(
        "SELECT state, coalesce(why, '') FROM caption.database WHERE database = '{name}'"
    ));
    row.first()
        .map(|row| (row[0].clone().unwrap_or_default(), row[1].clone().unwrap_or_default()))
        .unwrap_or_default()
}

#[test]
fn ten_databases_share_two_workers() {
    let (cluster, web, gate) = (
        TestCluster::private(&[("pg_caption.max_workers", "2")]),
        TestServer::start(),
        AnswerGate::new(),
    );
    let databases: Vec<TestDatabase> = (0..10).map(|_| cluster.database()).collect();
    // Two databases with endless work keep both workers busy.
    for (number, db) in databases.iter().enumerate().take(2) {
        let slow =
            web.serve(&format!("/slow-{number}.jpg"), ServerAnswer::picture(0).behind(&gate));
        db.products(&[slow]).run("SELECT caption.watch('products')");
    }
    eventually("both workers are busy", || gate.waiting() >= 2);
    let quick = web.serve("/quick.jpg", ServerAnswer::picture(1));
    for db in &databases[2..] {
        db.products(&[quick.clone(), quick.clone()]).run("SELECT caption.watch('products')");
    }
    eventually("a database waits for its turn", || {
        databases[2..].iter().any(|db| {
            state_of(&db.name, &databases[0])
                == (
                    "waiting".into(),
                    "all 2 workers serve other databases; it waits for a turn \
                     (pg_caption.max_workers)"
                        .into(),
                )
        })
    });
    // They get their turns although the work of the first two does not end.
    for db in &databases[2..] {
        db.eventually(FILLED);
        eventually("the database is idle", || state_of(&db.name, &databases[0]).0 == "idle");
    }
    assert!(!databases[0].session().holds(FILLED));
    gate.open();
    for db in &databases[..2] {
        db.eventually(FILLED);
    }
}

#[test]
fn one_worker_slot_is_shared_in_turns() {
    // Three slots: PostgreSQL's logical replication launcher and the extension's launcher take one
    // each.
    let (cluster, web, gate) = (
        TestCluster::private(&[("max_worker_processes", "3"), ("pg_caption.max_workers", "4")]),
        TestServer::start(),
        AnswerGate::new(),
    );
    let (busy, other) = (cluster.database(), cluster.database());
    busy.products(&[web.serve("/slow.jpg", ServerAnswer::picture(0).behind(&gate))])
        .run("SELECT caption.watch('products')");
    eventually("the worker is busy", || gate.waiting() >= 1);
    other.products_of(&web, 2).run("SELECT caption.watch('products')");
    eventually("the view shows why the database waits", || {
        state_of(&other.name, &busy).1.contains("max_worker_processes")
    });
    other.eventually(FILLED);
    gate.open();
    busy.eventually(FILLED);
}

#[test]
fn the_view_explains_unserved_databases() {
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.enabled", "off")]), TestServer::start());
    let (db, other) = (cluster.database(), cluster.database());
    db.products_of(&web, 1).run("SELECT caption.watch('products')");
    assert_eq!(
        state_of(&db.name, &other),
        ("cannot be served".into(), "pg_caption.enabled is off".into())
    );
    let mut admin = cluster.session("postgres");
    admin.run(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", db.name));
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    eventually("the view shows the reason", || {
        state_of(&db.name, &other).1.contains("ALLOW_CONNECTIONS")
    });
    // The reason stays after the launcher has listed the databases again, as for a new database.
    let third = cluster.database();
    third.products_of(&web, 1).run("SELECT caption.watch('products')");
    third.eventually(FILLED);
    assert!(state_of(&db.name, &other).1.contains("ALLOW_CONNECTIONS"));
    admin.run(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", db.name));
    admin.run("SELECT pg_reload_conf()");
    db.eventually(FILLED);
    eventually("the database is idle", || state_of(&db.name, &other).0 == "idle");
}

/// Sets `setting` to the role `bob` for a database and checks that its rows are filled.
fn a_worker_keeps_its_role(setting: &str) {
    // Disabled at first, so that the worker starts with the database setting.
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.enabled", "off")]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 2);
    session.run(&format!(
        "CREATE ROLE bob; \
         SELECT caption.watch('products'); \
         ALTER DATABASE {} SET {setting} = 'bob'",
        db.name
    ));
    cluster.set("pg_caption.enabled", "on");
    cluster.reload();
    eventually(FILLED, || session.holds(FILLED));
    assert!(
        !cluster.log().contains("exited with exit code 1"),
        "no worker ended with an error:\n{}",
        cluster.log_tail("ERROR")
    );
}

#[test]
fn a_database_role_setting_binds_no_worker() {
    a_worker_keeps_its_role("role");
}

#[test]
fn a_database_user_setting_binds_no_worker() {
    a_worker_keeps_its_role("session_authorization");
}

#[test]
fn the_view_requires_pg_monitor() {
    let db = shared_database();
    let role = format!("viewer_{}", db.name);
    let mut session = db.session();
    session.run(&format!("CREATE ROLE {role}; SET ROLE {role}"));
    assert_eq!(session.error("SELECT * FROM caption.database").code().code(), "42501");
    session.run(&format!("RESET ROLE; GRANT pg_monitor TO {role}; SET ROLE {role}"));
    assert!(
        session.number(&format!(
            "SELECT count(*) FROM caption.database WHERE database = '{}'",
            db.name
        )) <= 1
    );
    session.run(&format!("RESET ROLE; DROP ROLE {role}"));
}
