//! Many databases and few workers: all progress, in turns, and a view says how each of them is.

use pg_caption_tests::{Answer, Cluster, Database, Gate, Web, eventually};

const FILLED: &str =
    "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

/// State and reason of a database, as another one shows them.
fn state_of(name: &str, shown_in: &Database) -> (String, String) {
    let row = shown_in.session().rows(&format!(
        "SELECT state, coalesce(why, '') FROM caption.database WHERE database = '{name}'"
    ));
    row.first()
        .map(|row| (row[0].clone().unwrap_or_default(), row[1].clone().unwrap_or_default()))
        .unwrap_or_default()
}

#[test]
fn ten_databases_share_two_workers() {
    let (cluster, web, gate) =
        (Cluster::private(&[("pg_caption.max_workers", "2")]), Web::start(), Gate::new());
    let databases: Vec<Database> = (0..10).map(|_| cluster.database()).collect();
    // Two whose work does not end keep both workers busy.
    for (number, db) in databases.iter().enumerate().take(2) {
        let slow = web.serve(&format!("/slow-{number}.jpg"), Answer::picture(0).behind(&gate));
        db.products(&[slow]).run("SELECT caption.watch('products')");
    }
    eventually("both are being drained", || gate.waiting() >= 2);
    let quick = web.serve("/quick.jpg", Answer::picture(1));
    for db in &databases[2..] {
        db.products(&[quick.clone(), quick.clone()]).run("SELECT caption.watch('products')");
    }
    eventually("somebody waits for a turn", || {
        databases[2..].iter().any(|db| {
            state_of(&db.name, &databases[0])
                == (
                    "waiting".into(),
                    "all 2 workers serve other databases; it gets its turn (pg_caption.max_workers)"
                        .into(),
                )
        })
    });
    // They get their turns although the two never end.
    for db in &databases[2..] {
        db.eventually(FILLED);
        eventually("it is idle", || state_of(&db.name, &databases[0]).0 == "idle");
    }
    assert!(!databases[0].session().holds(FILLED));
    gate.open();
    for db in &databases[..2] {
        db.eventually(FILLED);
    }
}

#[test]
fn one_worker_slot_is_shared_in_turns() {
    // Three slots: one is PostgreSQL's own logical replication launcher's, one our launcher's.
    let (cluster, web, gate) = (
        Cluster::private(&[("max_worker_processes", "3"), ("pg_caption.max_workers", "4")]),
        Web::start(),
        Gate::new(),
    );
    let (busy, other) = (cluster.database(), cluster.database());
    busy.products(&[web.serve("/slow.jpg", Answer::picture(0).behind(&gate))])
        .run("SELECT caption.watch('products')");
    eventually("it is being drained", || gate.waiting() >= 1);
    other.products_of(&web, 2).run("SELECT caption.watch('products')");
    eventually("it says why it waits", || {
        state_of(&other.name, &busy).1.contains("max_worker_processes")
    });
    other.eventually(FILLED);
    gate.open();
    busy.eventually(FILLED);
}

#[test]
fn the_view_explains_unserved_databases() {
    let (cluster, web) = (Cluster::private(&[("pg_caption.enabled", "off")]), Web::start());
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
    eventually("it says so", || state_of(&db.name, &other).1.contains("ALLOW_CONNECTIONS"));
    // And goes on saying so when the databases have been listed anew, as another database's arrival
    // makes sure.
    let third = cluster.database();
    third.products_of(&web, 1).run("SELECT caption.watch('products')");
    third.eventually(FILLED);
    assert!(state_of(&db.name, &other).1.contains("ALLOW_CONNECTIONS"));
    admin.run(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", db.name));
    admin.run("SELECT pg_reload_conf()");
    db.eventually(FILLED);
    eventually("it is idle", || state_of(&db.name, &other).0 == "idle");
}

/// A database whose sessions become `bob` by themselves is drained all the same.
fn a_worker_stays_itself(setting: &str) {
    // Off until everything stands, so that the worker begins with it.
    let (cluster, web) = (Cluster::private(&[("pg_caption.enabled", "off")]), Web::start());
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
        "no worker died:\n{}",
        cluster.log_tail("ERROR")
    );
}

#[test]
fn a_database_role_setting_binds_no_worker() {
    a_worker_stays_itself("role");
}

#[test]
fn a_database_user_setting_binds_no_worker() {
    a_worker_stays_itself("session_authorization");
}

#[test]
fn the_view_requires_pg_monitor() {
    let db = Cluster::shared().database();
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
