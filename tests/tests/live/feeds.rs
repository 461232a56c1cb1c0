//! A feed as shops have it: some pictures are missing, slow, a web page, or refused with 429. Every
//! other row gets its caption, however the table is filled.
//!
//! `PG_CAPTION_FEED=2000` runs it with that many rows, 15 of each bad kind, at the default limits.

use pg_caption_tests::{ServerAnswer, TestCluster, TestServer, TestSession};
use std::time::Duration;

const KINDS: [&str; 4] = ["missing", "slow", "page", "refused"];

struct FeedSize {
    rows: usize,
    bad_of_each: usize,
    slow: Duration,
    settings: &'static [(&'static str, &'static str)],
}

fn size() -> FeedSize {
    match std::env::var("PG_CAPTION_FEED").ok().and_then(|rows| rows.parse().ok()) {
        Some(rows) => {
            FeedSize { rows, bad_of_each: 15, slow: Duration::from_secs(40), settings: &[] }
        }
        None => FeedSize {
            rows: 40,
            bad_of_each: 2,
            slow: Duration::from_secs(3),
            settings: &[("pg_caption.fetch_timeout", "1s")],
        },
    }
}

/// A table `name` with the rows of a feed of its own server. `kind` is NULL for good rows.
fn feed(session: &mut TestSession, web: &TestServer, name: &str, size: &FeedSize) {
    let bad = size.bad_of_each * KINDS.len();
    let every = size.rows / bad;
    let mut values = Vec::new();
    for n in 0..size.rows {
        let kind = (n % every == every / 2 && n / every < bad).then(|| KINDS[n / every % 4]);
        let answer = match kind {
            Some("missing") => ServerAnswer::status(404),
            Some("slow") => ServerAnswer::picture(n as u32).taking(size.slow),
            Some("page") => ServerAnswer::body(b"<html></html>".into(), "text/html"),
            Some(_) => ServerAnswer::status(429).header("Retry-After", "2"),
            None => ServerAnswer::picture((n % 50) as u32),
        };
        let url = web.serve(&format!("/{n}.jpg"), answer);
        let kind = kind.map_or("NULL".into(), |kind| format!("'{kind}'"));
        values.push(format!("({n}, '{url}', {kind})"));
    }
    session.run(&format!(
        "CREATE TABLE {name} (id int PRIMARY KEY, image_url text, kind text, \
         alt text NOT NULL DEFAULT ''); \
         INSERT INTO {name} (id, image_url, kind) VALUES {}",
        values.join(", ")
    ));
}

#[test]
fn a_feed_with_bad_rows_is_filled_in_every_way() {
    let size = size();
    let cluster = TestCluster::private(size.settings);
    let db = cluster.database();
    let fills = "fills => '{\"alt\": \"concise\"}'";
    std::thread::scope(|scope| {
        for (way, statement) in [
            ("backfilled", format!("CALL caption.backfill('backfilled', {fills})")),
            ("watched", format!("SELECT caption.watch('watched', {fills})")),
            (
                "updated",
                "UPDATE updated SET alt = coalesce(caption_image(image_url, on_error => 'null'), \
                 alt) WHERE coalesce(alt, '') = ''"
                    .into(),
            ),
        ] {
            let (db, size) = (&db, &size);
            scope.spawn(move || {
                let (web, mut session) = (TestServer::start(), db.session());
                feed(&mut session, &web, way, size);
                let began = std::time::Instant::now();
                session.run(&statement);
                if way == "watched" {
                    session.run("CALL caption.wait('watched')");
                }
                let took = began.elapsed();
                let good = format!("SELECT count(*) FROM {way} WHERE kind IS NULL AND alt = ''");
                assert_eq!(session.number(&good), 0, "{way}: every good row is filled");
                let filled = session.number(&format!("SELECT count(*) FROM {way} WHERE alt <> ''"));
                let notices = session.notices();
                let warnings = notices.iter().filter(|notice| notice.severity() == "WARNING");
                let warnings = warnings.count();
                println!("{way}: {filled} of {} rows, {warnings} warnings, {took:?}", size.rows);
                assert!(warnings <= 12, "{way}: {notices:?}");
                if way == "updated" {
                    assert_eq!(warnings, 4, "three warnings and their sum: {notices:?}");
                }
            });
        }
    });
}
