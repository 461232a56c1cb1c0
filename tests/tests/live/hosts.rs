//! How hosts that want to be left alone are treated: visible, not charged to any row, holding up no
//! other host, across engines.

use pg_caption_tests::{Answer, Cluster, Gate, Session, Web, eventually};

const WANTS_PATIENCE: u16 = 429;

/// The row of `caption.host` of that server: what follows SELECT, as text; empty if it has none.
fn host(session: &mut Session, web: &Web, expression: &str) -> String {
    let key = web.url("").replace("http://", "");
    session.text(&format!(
        "SELECT coalesce((SELECT ({expression})::text FROM caption.host WHERE host = '{key}'), '')"
    ))
}

/// Rows of one host, and behind them `served` pictures of another.
fn crowd(session: &mut Session, cooling: &str, count: usize, web: &Web, served: usize) {
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
        (Cluster::private(&[]), Web::start(), Web::start(), Gate::new());
    let db = cluster.database();
    let mut session = db.session();
    assert_eq!(
        host(&mut session, &busy, "host"),
        "",
        "nothing is known of a host that was never asked"
    );
    let url = busy.serve("/a.jpg", Answer::status(WANTS_PATIENCE).header("Retry-After", "600"));
    session.error(&format!("SELECT caption_image('{url}')"));
    assert_eq!(host(&mut session, &busy, "in_flight || ' ' || last_answer"), "0 http_429");
    assert_eq!(
        host(
            &mut session,
            &busy,
            "cooling_until - now() BETWEEN interval '9 minutes' AND interval '10 minutes'"
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

    let url = slow.serve("/b.jpg", Answer::picture(0).behind(&gate));
    let mut waiting = db.session();
    let call = std::thread::spawn(move || waiting.text(&format!("SELECT caption_image('{url}')")));
    eventually("the picture is being fetched", || gate.waiting() >= 1);
    assert_eq!(host(&mut session, &slow, "in_flight"), "1");
    gate.open();
    call.join().unwrap();
    eventually("its answer is shown", || {
        host(&mut session, &slow, "in_flight || ' ' || last_answer") == "0 http_200"
    });
    assert_eq!(host(&mut session, &slow, "cooling_until"), "");
}

#[test]
fn the_host_view_needs_the_engine_grant() {
    let db = Cluster::shared().database();
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

#[test]
fn a_cooling_host_delays_no_other_rows() {
    for status in [WANTS_PATIENCE, 503] {
        let (db, busy, web) = (Cluster::shared().database(), Web::start(), Web::start());
        let url = busy.serve_all(Answer::status(status).header("Retry-After", "3600"));
        let mut session = db.products(&[]);
        // Once they are found by the walk over what exists, once by the queue.
        if status == WANTS_PATIENCE {
            crowd(&mut session, &url, 1000, &web, 10);
            session.run("SELECT caption.watch('products')");
        } else {
            session.run("SELECT caption.watch('products')");
            crowd(&mut session, &url, 1000, &web, 10);
        }
        db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 10");
        db.eventually("(SELECT count(*) FROM caption.deferred) = 1000");
        assert_eq!(
            session.number("SELECT count(*) FROM caption.deferred WHERE attempts > 0"),
            0,
            "{status}: nothing is charged"
        );
        assert_eq!(
            session.number(
                "SELECT count(*) FROM caption.deferred WHERE due < now() + interval '50 minutes'"
            ),
            0,
            "{status}"
        );
        assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0, "{status}");
        // What was under way when the host first asked, and no more.
        assert!(busy.total() <= 6, "{status}: asked {} times", busy.total());
        for number in 0..10 {
            assert_eq!(
                web.hits(&format!("/{number}.jpg")),
                1,
                "{status}: the other host's pictures were each fetched once"
            );
        }
    }
}

#[test]
fn a_slow_host_delays_no_other_host() {
    let (db, slow, web, gate) =
        (Cluster::shared().database(), Web::start(), Web::start(), Gate::new());
    let url = slow.serve_all(Answer::picture(9).behind(&gate));
    let mut session = db.products(&[]);
    crowd(&mut session, &url, 400, &web, 10);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 10");
    assert_eq!(
        session.number("SELECT count(*) FROM caption.deferred"),
        0,
        "nobody asked for patience"
    );
    gate.open();
    db.eventually(
        "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')",
    );
}

#[test]
fn excess_rows_of_a_slow_host_are_deferred() {
    let (db, slow, web, gate) =
        (Cluster::shared().database(), Web::start(), Web::start(), Gate::new());
    let url = slow.serve_all(Answer::picture(9).behind(&gate));
    let mut session = db.products(&[]);
    crowd(&mut session, &url, 3000, &web, 5);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 5");
    // The few that it was asked for in vain are charged as any.
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
    let (db, busy, web) = (Cluster::shared().database(), Web::start(), Web::start());
    let url = busy.serve_all(Answer::status(503).header("Retry-After", "1"));
    let mut session = db.products(&[]);
    crowd(&mut session, &url, 50, &web, 3);
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM caption.deferred) > 0");
    busy.serve_all(Answer::picture(4));
    db.eventually(
        "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')",
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0);
}

#[test]
fn a_cooldown_survives_an_engine_change() {
    let (cluster, busy) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let mut session = db.session();
    let url = busy.serve("/a.jpg", Answer::status(WANTS_PATIENCE).header("Retry-After", "600"));
    session.error(&format!("SELECT caption_image('{url}')"));
    for threads in ["1", "2"] {
        let before = session.number("SELECT pid FROM caption.engine_status()");
        cluster.set("pg_caption.threads", threads);
        cluster.reload();
        db.eventually(&format!(
            "(SELECT pid <> {before} AND state = 'ready' FROM caption.engine_status())"
        ));
        eventually("the successor knows", || {
            host(&mut session, &busy, "cooling_until > now() + interval '8 minutes'") == "true"
        });
        let error = session.error(&format!("SELECT caption_image('{url}')"));
        assert_eq!(error.code().code(), "53000", "{error:?}");
    }
    assert_eq!(busy.total(), 1, "it was asked once, by the first engine");
}
