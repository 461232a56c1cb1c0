//! `pg_caption.fetch_headers_file`: headers of requests to chosen hosts, which may be secrets.

use pg_caption_tests::{
    ServerAnswer, StopMode, TestCluster, TestServer, TestSession, eventually, pictures,
};
use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// Writes a file of the server's user.
fn store(cluster: &TestCluster, file: &Path, text: &str) {
    write(file, text).unwrap();
    let owner = std::fs::metadata(cluster.data()).unwrap();
    chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

/// The cookie of the request that captions a picture of a server.
fn cookie(session: &mut TestSession, web: &TestServer, path: &str) -> Option<String> {
    let before = web.hits(path);
    session.run(&format!("SELECT caption_image('{}')", web.url(path)));
    let requests = web.requests(path);
    assert_eq!(requests.len(), before + 1);
    requests.last().unwrap().headers.get("cookie").cloned()
}

#[test]
fn headers_of_a_file_go_to_their_host_only() {
    let (cluster, web, other) =
        (TestCluster::private(&[]), TestServer::start(), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    for server in [&web, &other] {
        server.serve_all(ServerAnswer::picture(1));
    }
    let file = cluster.data().join("headers.json");
    let entry = |cookie: &str| {
        let url = web.url("/p/");
        let headers = format!(r#"{{"Cookie": "{cookie}", "Referer": "http://r"}}"#);
        format!(r#"[{{"url": "{url}", "headers": {headers}}}]"#)
    };
    assert_eq!(cookie(&mut session, &web, "/p/1.jpg"), None);

    // A relative path starts in the data directory.
    store(&cluster, &file, &entry("s3cret-one"));
    cluster.set("pg_caption.fetch_headers_file", "headers.json");
    cluster.reload();
    eventually("the engine has the file", || {
        cookie(&mut session, &web, "/p/1.jpg").as_deref() == Some("s3cret-one")
    });
    assert_eq!(web.requests("/p/1.jpg").last().unwrap().headers["referer"], "http://r");
    for (server, path) in [(&web, "/q/1.jpg"), (&other, "/p/1.jpg")] {
        assert_eq!(cookie(&mut session, server, path), None, "{path}");
    }
    let moved = ServerAnswer::status(302).header("Location", &other.url("/p/2.jpg"));
    web.serve("/p/moved", moved);
    assert_eq!(cookie(&mut session, &web, "/p/moved").as_deref(), Some("s3cret-one"));
    assert_eq!(other.requests("/p/2.jpg").last().unwrap().headers.get("cookie"), None);

    // Rows of a watch get them, too.
    session.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, image_url text, alt text, seo text); \
         INSERT INTO t VALUES (1, '{}'); SELECT caption.watch('t')",
        web.url("/p/row.jpg")
    ));
    session.run("CALL caption.wait('t')");
    assert_eq!(web.requests("/p/row.jpg").last().unwrap().headers["cookie"], "s3cret-one");

    // The kernel writes no core file of such a process: its files in /proc are root's.
    let engine = db.engine_pid();
    assert_eq!(std::fs::metadata(format!("/proc/{engine}/mem")).unwrap().uid(), 0);

    // A changed file is taken in by a reload.
    store(&cluster, &file, &entry("s3cret-two"));
    cluster.reload();
    eventually("the engine has the changed file", || {
        cookie(&mut session, &web, "/p/1.jpg").as_deref() == Some("s3cret-two")
    });

    let views = session.text(
        "SELECT (SELECT string_agg(s::text, ' ') FROM pg_settings s) || \
         (SELECT string_agg(e::text, ' ') FROM caption.engine_status() e) || \
         (SELECT string_agg(h::text, ' ') FROM caption.host h)",
    );
    assert!(!views.contains("s3cret"), "{views}");
    assert!(!cluster.log().contains("s3cret"));
    let role = format!("reader_{}", db.name);
    session.run(&format!("CREATE ROLE {role} LOGIN"));
    let error = db.session_as(&role).error("SHOW pg_caption.fetch_headers_file");
    assert_eq!(error.code().code(), "42501", "{error:?}");
}

#[test]
fn an_unusable_headers_file_fails_closed() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    web.serve_all(ServerAnswer::picture(1));
    let file = cluster.data().join("headers.json");
    let good = format!(r#"[{{"url": "{}", "headers": {{"Cookie": "s3cret"}}}}]"#, web.url("/"));
    store(&cluster, &file, &good);
    cluster.set("pg_caption.fetch_headers_file", &file.display().to_string());
    cluster.reload();
    eventually("the engine has the file", || {
        cookie(&mut session, &web, "/1.jpg").as_deref() == Some("s3cret")
    });

    // The engine that serves goes on with the last good file, and the log says why.
    let bad = ["the file must not be open to group or others", "it is not JSON"];
    let refused = |why: &str| cluster.log().contains(why);
    set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    cluster.reload();
    eventually("the log has the reason", || refused(bad[0]));
    assert_eq!(cookie(&mut session, &web, "/1.jpg").as_deref(), Some("s3cret"));
    store(&cluster, &file, &good[1..]);
    cluster.reload();
    eventually("the log has the reason", || refused(bad[1]));
    assert_eq!(cookie(&mut session, &web, "/1.jpg").as_deref(), Some("s3cret"));
    assert!(refused("pg_caption.fetch_headers_file cannot be used"));

    // A server that starts with it requests nothing without the headers. Bytes are captioned.
    cluster.restart(StopMode::Fast);
    let mut session = db.session();
    let requests = web.total();
    let error = session.error(&format!("SELECT caption_image('{}')", web.url("/1.jpg")));
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(error.message().contains("pg_caption.fetch_headers_file"), "{error:?}");
    let shown = format!("{error:?} {}", cluster.log());
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(web.total(), requests);
    let jpeg: String = pictures::jpeg(1).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_ne!(session.text(&format!("SELECT caption_image('\\x{jpeg}'::bytea)")), "");

    store(&cluster, &file, &good);
    cluster.reload();
    eventually("the engine has the repaired file", || {
        session.try_rows(&format!("SELECT caption_image('{}')", web.url("/2.jpg"))).is_ok()
    });
    assert_eq!(cookie(&mut session, &web, "/1.jpg").as_deref(), Some("s3cret"));
}
