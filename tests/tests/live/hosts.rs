//! Cooling and slow hosts: they are visible, charge no attempts to rows, and delay no other host. A
//! cooldown outlasts the engine.

use pg_caption_tests::{
    AnswerGate, FILLED, ServerAnswer, TestCluster, TestServer, TestSession, eventually,
    shared_database,
};

const TOO_MANY_REQUESTS: u16 = 429;

/// An SQL expression over the server's row of `caption.host`, as text; empty without such a row.
fn host(session: &mut TestSession, web: &TestServer, expression: &str) -> String {
    let key = web.url("").replace("http://", "");
    session.text(&format!(
        "SELECT coalesce((SELECT ({expression})::text FROM caption.host WHERE host = '{key}'), '')"
    ))
}

/// Inserts `count` rows of one host and, behind them, rows for `served` pictures of another host.
fn insert_rows(
    session: &mut TestSession,
    cooling: &str,
    count: usize,
    web: &TestServer,
    served: usize,
) {
    let urls: Vec<_> = web.pictures(served).iter().map(|url| format!("('{url}')")).collect();
    session.run(&format!(
        "INSERT INTO products (image_url) SELECT '{cooling}?' || n \
         FROM generate_series(1, {count}) n;
         INSERT INTO products (image_url) VALUES {}",
        urls.join(", ")
    ));
}

#[test]
fn the_host_view_shows_requests_and_cooldowns() {
    let (cluster, busy, slow, gate) =
        (TestCluster::private(&[]), TestServer::start(), TestServer::start(), AnswerGate::new());
    let db = cluster.database();
    let mut session = db.session();
    assert_eq!(host(&mut session, &busy, "host"), "", "a host without requests has no row");
    let url =
        busy.serve("/a.jpg", ServerAnswer::status(TOO_MANY_REQUESTS).header("Retry-After", "600"));
    session.error(&format!("SELECT caption_image('{url}')"));
    assert_eq!(host(&mut session, &busy, "in_flight || ' ' || last_answer"), "0 http_429");
    assert_eq!(
        host(
            &mut session,
            &busy,
            "cooling_until - clock_timestamp() \
             BETWEEN interval '9 minutes' AND interval '10 minutes'"
        ),
        "true"
    );
    assert_eq!(
        host(
            &mut session,
            &busy,
            "last_answer_at BETWEEN now() - interval '1 minute' AND clock_timestamp()"
        ),
        "true"
    );

    let url = slow.serve("/b.jpg", ServerAnswer::picture(0).behind(&gate));
    let mut waiting = db.session();
    let call = std::thread::spawn(move || waiting.text(&format!("SELECT caption_image('{url}')")));
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    assert_eq!(host(&mut session, &slow, "in_flight"), "1");
    gate.open();
    call.join().unwrap();
    eventually("the view shows the answer", || {
        host(&mut session, &slow, "in_flight || ' ' || last_answer") == "0 http_200"
    });
    assert_eq!(host(&mut session, &slow, "cooling_until"), "");
}

#[test]
fn the_host_view_needs_the_engine_grant() {
    let db = shared_database();
    let mut session = db.session();
    let role = format!("watcher_{}", db.name);
    session.run(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA caption TO {role}"));
    let mut watcher = db.session_as(&role);
    assert_eq!(watcher.error("SELECT * FROM caption.host").code().code(), "42501");
    session.run(&format!(
        "GRANT SELECT ON caption.host TO {role}; \
         GRANT EXECUTE ON FUNCTION caption.engine_report() TO {role}"
    ));
    watcher.run("SELECT * FROM caption.host");
    drop(watcher);
    session.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

// A thousand rows of a cooling host at the head of the queue: they are deferred without charging an
// attempt, and rows of another host are filled.
#[test]
fn a_cooling_host_delays_no_other_rows() {
    for status in [TOO_MANY_REQUESTS, 503] {
        let (db, busy, web) = (shared_database(), TestServer::start(), TestServer::start());
        let url = busy.serve_all(ServerAnswer::status(status).header("Retry-After", "3600"));
        let mut session = db.products(&[]);
        // The backfill finds the rows in one case, the queue in the other.
        if status == TOO_MANY_REQUESTS {
            insert_rows(&mut session, &url, 1000, &web, 10);
            session.run("SELECT caption.watch('products')");
        } else {
            session.run("SELECT caption.watch('products')");
            insert_rows(&mut session, &url, 1000, &web, 10);
        }
        db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 10");
        db.eventually("(SELECT count(*) FROM caption.deferred) = 1000");
        assert_eq!(
            session.number("SELECT count(*) FROM caption.deferred WHERE attempts > 0"),
            0,
            "{status}: no attempt is charged"
        );
        assert_eq!(
            session.number(
                "SELECT count(*) FROM caption.deferred WHERE due < now() + interval '50 minutes'"
            ),
            0,
            "{status}"
        );
        assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0, "{status}");
        // Only the requests in flight at the first answer.
        assert!(busy.total() <= 6, "{status}: {} requests", busy.total());
        for number in 0..10 {
            assert_eq!(
                web.hits(&format!("/{number}.jpg")),
                1,
                "{status}: each picture of the other host is fetched once"
            );
        }
    }
}

#[test]
fn a_slow_host_delays_no_other_host() {
    let (db, slow, web, gate) =
        (shared_database(), TestServer::start(), TestServer::start(), AnswerGate::new());
    let url = slow.serve_all(ServerAnswer::picture(9).behind(&gate));
    let mut session = db.products(&[]);
    insert_rows(&mut session, &url, 400, &web, 10);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 10");
    assert_eq!(
        session.number("SELECT count(*) FROM caption.deferred"),
        0,
        "no host asked for a delay"
    );
    gate.open();
    db.eventually(FILLED);
}

#[test]
fn excess_rows_of_a_slow_host_are_deferred() {
    let (db, slow, web, gate) =
        (shared_database(), TestServer::start(), TestServer::start(), AnswerGate::new());
    let url = slow.serve_all(ServerAnswer::picture(9).behind(&gate));
    let mut session = db.products(&[]);
    insert_rows(&mut session, &url, 3000, &web, 5);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 5");
    // Requests that timed out are charged as usual.
    assert!(
        session.holds("(SELECT count(*) FROM caption.deferred WHERE code = 'host_busy') > 1000")
    );
    assert_eq!(
        session.number(
            "SELECT count(*) FROM caption.deferred WHERE attempts > 0 AND code = 'host_busy'"
        ),
        0
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn rows_of_a_recovered_host_are_filled() {
    let (db, busy, web) = (shared_database(), TestServer::start(), TestServer::start());
    let url = busy.serve_all(ServerAnswer::status(503).header("Retry-After", "1"));
    let mut session = db.products(&[]);
    insert_rows(&mut session, &url, 50, &web, 3);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM caption.deferred) > 0");
    busy.serve_all(ServerAnswer::picture(4));
    db.eventually(FILLED);
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn a_cooldown_survives_an_engine_change() {
    let (cluster, busy) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    let url =
        busy.serve("/a.jpg", ServerAnswer::status(TOO_MANY_REQUESTS).header("Retry-After", "600"));
    session.error(&format!("SELECT caption_image('{url}')"));
    for threads in ["1", "2"] {
        let before = session.number("SELECT pid FROM caption.engine_status()");
        cluster.set("pg_caption.threads", threads);
        cluster.reload();
        db.eventually(&format!(
            "(SELECT pid <> {before} AND state = 'ready' FROM caption.engine_status())"
        ));
        eventually("the new engine has the cooldown", || {
            host(&mut session, &busy, "cooling_until > now() + interval '8 minutes'") == "true"
        });
        let error = session.error(&format!("SELECT caption_image('{url}')"));
        assert_eq!(error.code().code(), "53000", "{error:?}");
    }
    assert_eq!(busy.total(), 1, "only the first engine made a request");
}

#[test]
fn a_picture_that_is_not_there_yet_is_tried_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let url = web.serve("/thumb.jpg", ServerAnswer::status(404));
    let mut session = db.products(&[url]);
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM caption.deferred WHERE code = 'http_404' AND attempts = 1)");
    assert!(session.holds(
        "(SELECT due BETWEEN clock_timestamp() + interval '1 s' \
         AND clock_timestamp() + interval '12 s' FROM caption.deferred)"
    ));
    web.serve("/thumb.jpg", ServerAnswer::picture(1));
    db.eventually(FILLED);
}

#[test]
fn setting_a_url_to_itself_tries_a_failed_row_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&[web.url("/late.jpg")]);
    session.run("SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM caption.failure WHERE code = 'http_410')");
    web.serve("/late.jpg", ServerAnswer::picture(1));
    session.run("UPDATE products SET title = 'x'; UPDATE products SET image_url = image_url");
    db.eventually(FILLED);
    db.eventually("NOT EXISTS (SELECT FROM caption.failure)");
    // A row with its texts is left alone.
    let hits = web.total();
    session.run("UPDATE products SET image_url = image_url");
    session.run("CALL caption.wait('products')");
    assert_eq!((web.total(), session.number("SELECT count(*) FROM caption.queue")), (hits, 0));
}
