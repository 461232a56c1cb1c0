//! Crashes in the middle of a drain, again and again: at the end every row is filled exactly once.

use pg_caption_tests::{Answer, Cluster, Database, Session, Signal, Web, eventually, signal};

const FILLED: &str =
    "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

/// A watched table of `count` rows that notes every write of a fill.
fn watched<'a>(cluster: &'a Cluster, web: &Web, count: usize) -> Database<'a> {
    let db = cluster.database();
    let urls = web.pictures(10);
    let mut session = db.products(&[]);
    session.run(
        "CREATE TABLE writes (id int, alt text, seo text);
         CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.writes VALUES (NEW.id, NEW.alt, NEW.seo); RETURN NULL; END $$;
         CREATE TRIGGER count_write AFTER UPDATE ON products FOR EACH ROW \
         EXECUTE FUNCTION count_write()",
    );
    let list = urls.join("', '");
    session.run(&format!(
        "INSERT INTO products (image_url) SELECT (ARRAY['{list}'])[1 + n % 10] \
         FROM generate_series(1, {count}) n"
    ));
    session.run("SELECT caption.watch('products')");
    db
}

/// Waits until that many rows are filled; sessions may be lost meanwhile.
fn some_are_filled(db: &Database, count: i64) {
    eventually("some rows are filled", || {
        let Ok(mut session) = Session::open(&db.cluster.config(&db.name)) else { return false };
        let filled = session.try_rows("SELECT count(*) FROM products WHERE alt <> ''");
        filled
            .ok()
            .and_then(|rows| rows[0][0].clone())
            .is_some_and(|filled| filled.parse::<i64>().is_ok_and(|filled| filled >= count))
    });
}

/// Everything was filled, once, and nothing failed.
fn nothing_is_lost_or_doubled(db: &Database) {
    let mut session = db.session();
    // However long that takes.
    session.run("CALL caption.wait('products')");
    assert!(session.holds(FILLED));
    assert_eq!(
        session.number("SELECT max(n) FROM (SELECT count(*) AS n FROM writes GROUP BY id) w"),
        1,
        "written once"
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
    assert_eq!(
        session.number("SELECT count(*) FROM caption.queue")
            + session.number("SELECT count(*) FROM caption.deferred"),
        0
    );
}

#[test]
fn repeated_engine_kills_lose_no_row() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = watched(&cluster, &web, 2000);
    let mut session = db.session();
    for round in 1..=3 {
        some_are_filled(&db, round * 100);
        let engine = session.number("SELECT pid FROM caption.engine_status()");
        if engine > 0 {
            signal(engine, Signal::KILL);
        }
    }
    nothing_is_lost_or_doubled(&db);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

#[test]
fn repeated_worker_ends_lose_no_row() {
    let (cluster, web) = (Cluster::subreaper(&[]), Web::start());
    let db = watched(&cluster, &web, 200);
    let mut session = db.session();
    for round in 1..=3 {
        some_are_filled(&db, round * 30);
        session.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE backend_type = 'pg_caption worker'",
        );
    }
    nothing_is_lost_or_doubled(&db);
    assert!(!cluster.log().contains("terminating any other active server processes"));
}

/// PostgreSQL's rule for background workers: all sessions end, and the server recovers. The drain
/// goes on after it.
fn the_server_recovers_from_a_crash_of(process: &str) {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = watched(&cluster, &web, 200);
    some_are_filled(&db, 30);
    let engine = db.session().number("SELECT pid FROM caption.engine_status()");
    let pid = cluster.process(process).expect("it is there");
    signal(pid, Signal::SEGV);
    eventually("the server has noticed", || {
        cluster.log().contains("all server processes terminated; reinitializing")
    });
    eventually("the server lets people in again", || {
        Session::open(&cluster.config(&db.name)).is_ok()
    });
    nothing_is_lost_or_doubled(&db);
    assert!(!pg_caption_tests::alive(engine as u32), "the old engine went along");
}

#[test]
fn a_worker_crash_loses_no_row() {
    the_server_recovers_from_a_crash_of("pg_caption worker");
}

#[test]
fn a_launcher_crash_loses_no_row() {
    the_server_recovers_from_a_crash_of("pg_caption launcher");
}

#[test]
fn an_engine_killing_picture_is_identified() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let (poison, never) = ("/poison.jpg", pg_caption_tests::Gate::new());
    let mut urls = web.pictures(6);
    urls.insert(2, web.serve(poison, Answer::picture(7).behind(&never)));
    let mut session = db.products(&urls);
    session.run("SELECT caption.watch('products')");
    // Whoever asks for it dies.
    let mut deaths = 0;
    eventually("it is found out", || {
        if web.hits(poison) > deaths {
            deaths = web.hits(poison);
            let engine = session.number("SELECT pid FROM caption.engine_status()");
            if engine > 0 {
                signal(engine, Signal::KILL);
            }
        }
        session.holds(
            "EXISTS (SELECT FROM caption.failure WHERE code = 'engine_killer' AND key = '[\"3\"]')",
        )
    });
    assert!(deaths >= 3, "it was not blamed for the death of others: {deaths}");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> '' AND seo <> ''"), 6);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 1);
}
