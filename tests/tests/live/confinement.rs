//! Confinement of the engine: an attacker who controls the decoder gains no access to the server's
//! files, processes or secrets.

use pg_caption_tests::{
    ServerAnswer, StopMode, TestCluster, TestServer, eventually, pictures, shared_database,
    test_program,
};
use serde_json::{Value, json};

// The decoder of the real, confined engine attempts to reach files, processes and the server's
// socket.
#[test]
fn a_compromised_decoder_stays_confined() {
    let engine = test_program("test_hook_engine").display().to_string();
    let (cluster, web) =
        (TestCluster::private(&[("pg_caption.engine", &engine)]), TestServer::start());
    let db = cluster.database();
    db.eventually("(SELECT state = 'ready' FROM caption.engine_status())");
    let mut session = db.session();
    let (data, socket) = (cluster.data(), cluster.socket());
    let in_force = session.text("SELECT confinement::text FROM caption.engine_status()");
    let attempts = [
        ("read a file", data.join("PG_VERSION").display().to_string(), "landlock"),
        ("read a file in /etc", "/etc/passwd".into(), "landlock"),
        ("list a folder", data.join("base").display().to_string(), "landlock"),
        ("write a file", data.join("planted").display().to_string(), "landlock"),
        ("make a folder", "/tmp/pg_caption_planted".into(), "landlock"),
        ("see another process's command line", cluster.postmaster().to_string(), "landlock"),
        ("see another process's environment", cluster.postmaster().to_string(), "landlock"),
        ("run a program", "/bin/true".into(), "seccomp"),
        ("connect to a socket", socket.display().to_string(), "seccomp"),
        ("signal another process", cluster.postmaster().to_string(), "seccomp"),
        ("limit another process", cluster.postmaster().to_string(), "seccomp"),
        ("change another process's priority", cluster.postmaster().to_string(), "seccomp"),
        ("bind another process to a processor", cluster.postmaster().to_string(), "seccomp"),
        ("change a file's mode", data.join("PG_VERSION").display().to_string(), "seccomp"),
        ("change a file's owner", data.join("PG_VERSION").display().to_string(), "seccomp"),
        ("change a file's times", data.join("PG_VERSION").display().to_string(), "seccomp"),
        ("set an attribute of a file", data.join("PG_VERSION").display().to_string(), "seccomp"),
    ];
    let commands: Value = attempts
        .iter()
        .map(|(action, target, _)| ((*action).to_owned(), json!(target)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut picture = pictures::jpeg(0);
    picture.extend_from_slice(format!("TEST_HOOK {commands}").as_bytes());
    let url = web.serve("/a.jpg", ServerAnswer::body(picture, "image/jpeg"));
    session.run(&format!("SELECT caption_image('{url}')"));
    let line = || {
        cluster.log().lines().find_map(|line| {
            line.split_once("test_hook: ").map(|(_, outcomes)| outcomes.to_owned())
        })
    };
    eventually("the decoder reports its attempts", || line().is_some());
    let outcomes: Value = serde_json::from_str(&line().expect("a line")).expect("JSON");
    for (action, _, mechanism) in attempts {
        if in_force.contains(mechanism) {
            assert_eq!(outcomes[action], "PermissionDenied", "{action} ({in_force}): {outcomes}");
        } else {
            eprintln!("skipped: {action}: this kernel has no {mechanism} ({in_force})");
        }
    }
}

#[test]
fn the_installed_engine_has_no_test_hook() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut picture = pictures::jpeg(0);
    picture.extend_from_slice(br#"TEST_HOOK {"read a file": "/etc/passwd"}"#);
    let url = web.serve("/a.jpg", ServerAnswer::body(picture, "image/jpeg"));
    db.session().run(&format!("SELECT caption_image('{url}')"));
    cluster.restart(StopMode::Fast);
    assert!(
        !cluster.log().contains("test_hook"),
        "after the restart the log contains all output of the engine"
    );
}

#[test]
fn the_engine_environment_is_minimal() {
    let db = shared_database();
    let pid = db.engine_pid();
    let environment =
        std::fs::read(format!("/proc/{pid}/environ")).expect("the engine's environment");
    let mut names: Vec<_> = environment
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .filter(|variable| !variable.is_empty())
        .collect();
    names.sort();
    for variable in ["MALLOC_ARENA_MAX=2", "MALLOC_TRIM_THRESHOLD_=1048576"] {
        assert!(names.iter().any(|name| name == variable), "{names:?}");
    }
    let allowed = ["LANG=", "LISTEN_FDS=", "MALLOC_", "SSL_CERT_", "TZ="];
    assert!(
        names.iter().all(|name| allowed.iter().any(|prefix| name.starts_with(prefix))),
        "{names:?}"
    );
}

#[test]
fn engine_status_shows_the_confinement() {
    let db = shared_database();
    db.eventually("(SELECT state = 'ready' FROM caption.engine_status())");
    let in_force = db.session().text("SELECT confinement::text FROM caption.engine_status()");
    assert!(in_force.contains("no_new_privs"), "{in_force}");
    let pid = db.session().number("SELECT pid FROM caption.engine_status()");
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the engine's status");
    let filtered = status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
    assert_eq!(in_force.contains("seccomp"), filtered, "{in_force}\n{status}");
}

#[test]
fn only_the_server_user_opens_the_socket() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    let (cluster, db) = (TestCluster::shared(), shared_database());
    db.eventually("(SELECT state = 'ready' FROM caption.engine_status())");
    let sockets: Vec<_> = std::fs::read_dir(cluster.data().join("pg_stat_tmp"))
        .expect("the folder of the socket")
        .flatten()
        .map(|entry| entry.metadata().expect("an entry"))
        .filter(|entry| entry.file_type().is_socket())
        .map(|socket| (socket.permissions().mode() & 0o777, socket.uid()))
        .collect();
    let owner = std::fs::metadata(cluster.data()).expect("the data directory").uid();
    assert_eq!(sockets, [(0o600, owner)]);
}

#[test]
fn url_signatures_are_never_shown_or_logged() {
    let (cluster, web) = (
        TestCluster::private(&[
            ("log_min_error_statement", "panic"),
            ("log_min_messages", "debug1"),
        ]),
        TestServer::start(),
    );
    let db = cluster.database();
    let secret = "s3cr3t-signature";
    let found = web.serve(&format!("/a.jpg?sig={secret}"), ServerAnswer::picture(0));
    let gone = web.url(&format!("/gone.jpg?sig={secret}"));
    let mut session = db.session();
    let error = session.error(&format!("SELECT caption_image('{gone}')"));
    let mut session = db.products(&[found, gone]);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 1);
    let relations =
        ["failed", "ledger", "deferred", "queue", "watch_state", "watch", "progress", "host"];
    let views = relations
        .map(|name| {
            session.text(&format!("SELECT coalesce(jsonb_agg(x), '[]') FROM caption.{name} x"))
        })
        .concat();
    let status = session.text("SELECT jsonb_agg(s) FROM caption.engine_status() s");
    for (source, text) in [
        ("error", format!("{error:?}")),
        ("views", views),
        ("status", status),
        ("log", cluster.log()),
    ] {
        assert!(!text.contains(secret), "{source}: {text}");
        assert!(source != "error" || text.contains("sig=…"), "{text}");
    }
}
