//! `pg_caption.allowed_hosts` on a live server: which spellings of a host are the same host, in
//! URLs and in redirects, and what a reload changes.

use pg_caption_tests::{
    ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession, alive, eventually,
    quote_literal,
};

/// A cluster with these host patterns; all of loopback is an allowed network.
fn cluster(patterns: &str) -> TestCluster {
    TestCluster::private(&[
        ("pg_caption.allowed_networks", "127.0.0.0/8, ::1/128"),
        ("pg_caption.allowed_hosts", patterns),
    ])
}

/// Watches a table of these URLs until no work is left.
fn captioned(db: &TestDatabase, urls: &[String]) -> TestSession {
    let mut session = db.products(&[]);
    for url in urls {
        session.run(&format!("INSERT INTO products (image_url) VALUES ({})", quote_literal(url)));
    }
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    session
}

/// Each URL with the code of its failure; an empty code for a caption.
fn outcomes(session: &mut TestSession) -> Vec<(String, String)> {
    session
        .rows(
            "SELECT p.image_url, CASE WHEN p.alt <> '' THEN '' ELSE f.code END FROM products p \
             LEFT JOIN caption.failure f ON f.key->>'id' = p.id::text ORDER BY p.id",
        )
        .into_iter()
        .map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap_or("no failure".into())))
        .collect()
}

fn expected(urls: &[String], code: &str) -> Vec<(String, String)> {
    urls.iter().map(|url| (url.clone(), code.to_owned())).collect()
}

#[test]
fn every_spelling_of_an_allowed_host_is_served() {
    let web = TestServer::start();
    let port = web.port();
    web.pictures(1);
    let cluster = cluster(&format!("*.example, LocalHost.:{port}"));
    let db = cluster.database();
    let spellings = ["localhost", "LOCALHOST", "ｌｏｃａｌｈｏｓｔ", "%6Cocal%68ost"];
    let mut urls: Vec<_> =
        spellings.iter().map(|host| format!("http://{host}:{port}/0.jpg")).collect();
    urls.push(format!(r"HTTP:\\localhost:{port}\0.jpg"));
    let mut session = captioned(&db, &urls);
    assert_eq!(outcomes(&mut session), expected(&urls, ""));
    assert!(web.total() >= 1);
}

#[test]
fn a_host_that_looks_allowed_is_refused() {
    let (web, other) = (TestServer::start(), TestServer::start());
    let (port, other_port) = (web.port(), other.port());
    web.serve_all(ServerAnswer::picture(0));
    other.serve_all(ServerAnswer::picture(0));
    let cluster = cluster(&format!("localhost:{port}, *.localhost, *.bücher.example"));
    let db = cluster.database();
    let refused: Vec<String> = [
        // Other ports, and the address of the allowed name in any spelling.
        format!("localhost:{other_port}/"),
        "localhost/".into(),
        format!("127.0.0.1:{port}/"),
        format!("127.1:{port}/"),
        format!("0x7f.1:{port}/"),
        format!("2130706433:{port}/"),
        format!("[::1]:{port}/"),
        format!("[::ffff:127.0.0.1]:{port}/"),
        // Names around the allowed one.
        format!("localhost.evil.example:{port}/"),
        format!("evil-localhost:{port}/"),
        format!("evillocalhost:{port}/"),
        format!(".localhost:{other_port}/"),
        // With a Cyrillic letter, and without the dots of the umlaut.
        format!("l\u{43e}calhost:{port}/"),
        format!("img.bucher.example:{port}/"),
        "bücher.example/".into(),
        // The allowed name in another part of the URL.
        format!("127.0.0.1:{other_port}/@localhost:{port}/"),
        format!("127.0.0.1:{other_port}?@localhost:{port}/"),
        format!("127.0.0.1:{other_port}#@localhost:{port}/"),
        format!(r"127.0.0.1:{other_port}\@localhost:{port}/"),
    ]
    .map(|rest| format!("http://{rest}"))
    .into();
    let malformed: Vec<String> = [
        format!("localhost..:{port}/"),
        format!("localhost%00.evil.example:{port}/"),
        format!("localhost%2F.evil.example:{port}/"),
        format!("localhost:{port}:{other_port}/"),
    ]
    .map(|rest| format!("http://{rest}"))
    .into();
    let with_user = vec![format!("http://localhost:{port}@127.0.0.1:{other_port}/")];
    let urls = [refused.clone(), malformed.clone(), with_user.clone()].concat();
    let mut session = captioned(&db, &urls);
    let expected = [
        expected(&refused, "forbidden_host"),
        expected(&malformed, "bad_url"),
        expected(&with_user, "url_credentials"),
    ];
    assert_eq!(outcomes(&mut session), expected.concat());
    assert_eq!(web.total() + other.total(), 0, "no request was made");
}

#[test]
fn redirects_stay_within_the_allowed_hosts() {
    let (web, other) = (TestServer::start(), TestServer::start());
    let (port, other_port) = (web.port(), other.port());
    for server in [&web, &other] {
        server.pictures(1);
        server.serve("/secret.jpg", ServerAnswer::picture(1));
    }
    let cluster = cluster(&format!("localhost:{port}"));
    let db = cluster.database();
    let redirect = |path: &str, location: String| {
        web.serve(path, ServerAnswer::status(302).header("Location", &location));
        format!("http://localhost:{port}{path}")
    };
    let inside = [
        redirect("/a", "/0.jpg".into()),
        redirect("/b", format!("//LOCALHOST:{port}/0.jpg")),
        redirect("/c", format!("http://localhost:{port}/a")),
    ];
    let outside = [
        redirect("/d", format!("http://127.0.0.1:{port}/secret.jpg")),
        redirect("/e", format!("//127.0.0.1:{port}/secret.jpg")),
        redirect("/f", format!("http://localhost:{other_port}/secret.jpg")),
        redirect("/g", format!(r"\\127.0.0.1:{port}\secret.jpg")),
        redirect("/h", format!("http://localhost.evil.example:{port}/secret.jpg")),
        // The second hop leaves.
        redirect("/i", format!("http://localhost:{port}/d")),
    ];
    let mut session = captioned(&db, &[&inside[..], &outside[..]].concat());
    let expected = [expected(&inside, ""), expected(&outside, "forbidden_host")];
    assert_eq!(outcomes(&mut session), expected.concat());
    assert_eq!(web.hits("/secret.jpg") + other.total(), 0);
}

#[test]
fn a_reload_applies_valid_host_patterns_only() {
    let web = TestServer::start();
    let port = web.port();
    web.pictures(1);
    let cluster = cluster("localhost");
    let db = cluster.database();
    let urls = ["localhost", "127.0.0.1"].map(|host| format!("http://{host}:{port}/0.jpg"));
    let mut session = captioned(&db, &urls);
    let codes = |session: &mut TestSession| -> Vec<String> {
        session.run("UPDATE products SET alt = NULL, seo = NULL; SELECT caption.retry('products')");
        session.run("CALL caption.wait('products')");
        outcomes(session).into_iter().map(|(_, code)| code).collect()
    };
    assert_eq!(codes(&mut session), ["", "forbidden_host"]);
    // A pattern that is not a host never opens or closes anything.
    cluster.set("pg_caption.allowed_hosts", "*, http://127.0.0.1/");
    cluster.reload();
    eventually("the log names the pattern", || {
        cluster.log().contains("\"http://127.0.0.1/\" is not a host name")
    });
    assert_eq!(codes(&mut session), ["", "forbidden_host"]);
    let before = db.engine_pid();
    cluster.set("pg_caption.allowed_hosts", "127.0.0.1");
    cluster.reload();
    eventually("the engine with the old patterns has ended", || !alive(before as u32));
    assert_eq!(codes(&mut session), ["forbidden_host", ""]);
}
