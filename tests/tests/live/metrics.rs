//! `caption.metrics`, and the files of docs/monitoring that read it.

use pg_caption_tests::{TestServer, project, shared_database};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

fn document(name: &str) -> String {
    std::fs::read_to_string(project().join("docs/monitoring").join(name)).unwrap()
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    text.match_indices("pg_caption_")
        .map(|(at, _)| text[at..].chars().take_while(|c| is_part(*c)).collect())
        .collect()
}

/// An exporter, which is ended when this is dropped.
struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_query_file_and_dashboard_know_all_metrics() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    let metrics: BTreeSet<String> = session
        .rows("SELECT DISTINCT name FROM caption.metrics")
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .collect();
    let (queries, dashboard) = (document("queries.yaml"), names(&document("dashboard.json")));
    let in_file: BTreeSet<String> =
        queries.split('\'').skip(1).step_by(2).map(String::from).collect();
    assert!(metrics.is_subset(&in_file), "{:?}", metrics.difference(&in_file));
    assert!(dashboard.is_subset(&in_file), "{:?}", dashboard.difference(&in_file));
    // Columns of a query are the ends of its metrics' names.
    for part in queries.split("\n  query: |\n").skip(1) {
        let (query, columns) = part.split_once("  metrics:\n").unwrap();
        session.rows(query);
        let quoted = query.split('\'').skip(1).step_by(2);
        // Others are labels.
        for name in quoted.filter(|name| name.starts_with("pg_caption_")) {
            let is_column = |line: &str| {
                line.strip_prefix("    - ").is_some_and(|column| {
                    name.ends_with(&format!("_{}", column.trim_end_matches(':')))
                })
            };
            assert!(columns.lines().any(is_column), "{name} in\n{columns}");
        }
    }
    scrape(&mut session);
}

/// Has Debian's exporter read the metrics; skipped with a message where it is not installed.
fn scrape(session: &mut pg_caption_tests::TestSession) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let database = session.text("SELECT current_database()");
    let socket =
        session.text("SELECT split_part(current_setting('unix_socket_directories'), ',', 1)");
    let own = session.text("SELECT current_setting('port')");
    let source =
        format!("host={socket} port={own} dbname={database} user=postgres sslmode=disable");
    let started = Command::new("prometheus-postgres-exporter")
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--disable-default-metrics")
        .arg("--disable-settings-metrics")
        .arg("--extend.query-path")
        .arg(project().join("docs/monitoring/queries.yaml"))
        .env("DATA_SOURCE_NAME", source)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = started else {
        println!("skipped: no prometheus-postgres-exporter");
        return;
    };
    let mut exporter = Exporter(child);
    let mut stream = loop {
        assert!(exporter.0.try_wait().unwrap().is_none(), "the exporter has ended");
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = |start: &str| text.lines().any(|line| line.starts_with(start));
    assert!(line("pg_caption_engine_up{") || line("pg_caption_engine_up "), "{text}");
    assert!(line("pg_caption_watch_filled_total{"), "{text}");
    assert!(text.contains("relation=\"products\""), "{text}");
}
