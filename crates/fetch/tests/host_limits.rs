//! Promises about limits and pauses of hosts, and the meaning of each status.

mod test_server;

use pg_caption_fetch::{
    FetchError, FetchRequest, FetchResult, FetchStep, Fetcher, HostAdmission, host_key,
};
use pg_caption_wire::FailureClass;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use test_server::*;

#[test]
fn each_status_has_its_code_and_class() {
    let server = TestServer::start(|r, s| {
        reply(s, &format!("{} X", &r.path[1..]), "Connection: close\r\n", b"sorry")
    });
    // A new fetcher each time, because a pause would hide the next status.
    for (statuses, class) in [
        (&[400, 401, 403, 404, 410, 451, 204, 206][..], FailureClass::Reject),
        (&[408, 425, 500, 502, 503, 504], FailureClass::Retry),
        (&[429], FailureClass::Host),
    ] {
        for status in statuses {
            let error = get(&fetcher(|_| {}), &server.url(&format!("/{status}"))).unwrap_err();
            assert_eq!((error.code(), error.class()), (format!("http_{status}"), class));
            assert!(error.failure().detail.unwrap().contains(&server.url("/")));
        }
    }
}

/// Asks for a pause under `/busy` and `/down`.
fn strict(headers: &'static str) -> TestServer {
    TestServer::start(move |r, s| match r.path.as_str() {
        "/busy" => reply(s, "429 Slow down", headers, b""),
        "/down" => reply(s, "503 Later", headers, b""),
        _ => reply(s, "200 OK", "", b"picture"),
    })
}

#[test]
fn a_pause_affects_its_host_only() {
    for path in ["/busy", "/down"] {
        let (server, other) = (strict("Retry-After: 600\r\n"), strict(""));
        let fetcher = fetcher(|_| {});
        let failure = get(&fetcher, &server.url(path)).unwrap_err().failure();
        let key = host_key(&server.url("/")).unwrap();
        assert_eq!(
            (failure.class, failure.retry_after_ms, failure.host.as_deref()),
            (FailureClass::Host, Some(600_000), Some(key.as_str()))
        );

        let (detail, hint) = (failure.detail.as_deref().unwrap(), failure.hint.as_deref().unwrap());
        assert!(
            detail.contains("600 s") && detail.contains("GMT") && hint.contains("caption.host"),
            "{detail} {hint}"
        );

        let error = get(&fetcher, &server.url("/p.jpg")).unwrap_err();
        let cooling = error.failure();
        let (detail, hint) = (cooling.detail.as_deref().unwrap(), cooling.hint.as_deref().unwrap());
        assert!(
            detail.contains(&failure.code)
                && detail.contains("GMT")
                && hint.contains("caption.host"),
            "{detail} {hint}"
        );
        assert!(
            matches!(
                &error,
                FetchError::HostCooling { wait, .. } if *wait > Duration::from_secs(590)
            ),
            "{error:?}"
        );
        assert_eq!(
            (error.code().as_str(), error.class(), error.failure().host),
            ("host_cooling", FailureClass::Host, Some(key.clone()))
        );
        assert!(matches!(fetcher.admit(&key), HostAdmission::Cooling { .. }));
        assert_eq!(server.requests().len(), 1, "no further request was sent");

        assert_eq!(bytes(get(&fetcher, &other.url("/p.jpg"))), b"picture");
        let mut status = fetcher.hosts();
        status.sort_by_key(|host| host.cooling_ms.is_none());
        let seen: Vec<_> = status
            .iter()
            .map(|h| (h.host.as_str(), h.in_flight, h.cooling_ms.is_some(), h.last.as_deref()))
            .collect();
        let other = host_key(&other.url("/")).unwrap();
        assert_eq!(
            seen,
            [
                (key.as_str(), 0, true, Some(failure.code.as_str())),
                (other.as_str(), 0, false, Some("http_200"))
            ]
        );
    }
}

#[test]
fn pauses_last_at_most_an_hour_or_a_day() {
    let server = strict("Retry-After: 99999999\r\n");
    for (path, longest) in [("/down", 3600), ("/busy", 24 * 3600)] {
        let fetcher = fetcher(|_| {});
        assert_eq!(
            get(&fetcher, &server.url(path)).unwrap_err().failure().retry_after_ms,
            Some(longest * 1000),
            "{path}"
        );
        let resting = fetcher.cooldowns().remove(0).remaining_ms;
        assert!(
            (longest * 1000 - 60_000..=longest * 1000).contains(&resting),
            "{path}: {resting} ms"
        );
    }
}

#[test]
fn retry_after_may_be_a_date() {
    let server = strict(
        "Date: Mon, 05 Jan 2026 10:00:00 GMT\r\nRetry-After: Mon, 05 Jan 2026 10:02:00 GMT\r\n",
    );
    assert_eq!(
        get(&fetcher(|_| {}), &server.url("/busy")).unwrap_err().failure().retry_after_ms,
        Some(120_000)
    );
}

#[test]
fn a_429_without_a_time_states_the_chosen_pause() {
    let server = strict("");
    let fetcher = fetcher(|_| {});
    let failure = get(&fetcher, &server.url("/busy")).unwrap_err().failure();
    assert!(matches!(failure.retry_after_ms, Some(1..=1000)), "{failure:?}");
    assert_eq!(fetcher.cooldowns().len(), 1);
}

#[test]
fn a_zero_retry_after_still_pauses_the_host() {
    let fetcher = fetcher(|_| {});
    let busy = strict("Retry-After: 0\r\n");
    let failure = get(&fetcher, &busy.url("/busy")).unwrap_err().failure();
    assert!(
        failure.class == FailureClass::Host && failure.retry_after_ms.is_some_and(|ms| ms >= 400),
        "{failure:?}"
    );
    assert_eq!(code(get(&fetcher, &busy.url("/p.jpg"))), "host_cooling");
    // A permanent 503 of one URL does not defer its row forever.
    let down = strict("Retry-After: Mon, 05 Jan 2026 10:00:00 GMT\r\n");
    assert_eq!(get(&fetcher, &down.url("/down")).unwrap_err().class(), FailureClass::Retry);
}

#[test]
fn the_next_engine_knows_the_paused_hosts() {
    let server = strict("Retry-After: 600\r\n");
    let old = fetcher(|_| {});
    assert_eq!(code(get(&old, &server.url("/busy"))), "http_429");
    let new: Fetcher = fetcher(|_| {});
    new.restore(&old.cooldowns());
    assert_eq!(code(get(&new, &server.url("/p.jpg"))), "host_cooling");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn concurrent_requests_to_a_host_are_limited() {
    let (now, most, met) =
        (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)), Rendezvous::default());
    let seen = most.clone();
    let server = TestServer::start(move |_, s| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        met.wait_for(2);
        now.fetch_sub(1, Ordering::SeqCst);
        reply(s, "200 OK", "", b"picture")
    });
    let fetcher = fetcher(|s| s.host_concurrency = 2);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(bytes(get(&fetcher, &server.url("/"))), b"picture"));
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert!(server.connections() <= 2, "connections are reused");
    assert!(fetcher.hosts().iter().all(|host| host.in_flight == 0));
}

#[test]
fn a_permit_returns_however_its_request_ends() {
    let server = strict("");
    let fetcher = fetcher(|s| s.host_concurrency = 1);
    let key = host_key(&server.url("/")).unwrap();
    let cancelled = Arc::default();
    for path in ["/p.jpg", "/nothing-follows"] {
        let HostAdmission::Go(permit) = fetcher.admit(&key) else { panic!() };
        assert!(matches!(fetcher.admit(&key), HostAdmission::Busy));
        let get = pg_caption_fetch::FetchRequest {
            url: &server.url(path),
            etag: None,
            last_modified: None,
            deadline: std::time::Instant::now() + TIMEOUT,
            cancelled: &cancelled,
            displaced: &Arc::default(),
            client: CLIENT,
        };
        fetcher.fetch(permit, None, &get, &mut |_, _| Ok(())).unwrap();
    }
    let HostAdmission::Go(unused) = fetcher.admit(&key) else { panic!() };
    drop(unused);
    assert!(matches!(fetcher.admit(&key), HostAdmission::Go(_)));
}

#[test]
fn mutual_redirects_at_the_limit_do_not_deadlock() {
    // Each server redirects half of its requests to the other; both allow one concurrent request.
    let ports = Arc::new(Mutex::new([0; 2]));
    let servers = [0, 1].map(|me| {
        let ports = ports.clone();
        TestServer::start(move |r, s| match r.path.as_str() {
            "/away" => reply(
                s,
                "302 Found",
                &format!("Location: http://127.0.0.1:{}/here\r\n", ports.lock().unwrap()[1 - me]),
                b"",
            ),
            _ => reply(s, "200 OK", "", b"picture"),
        })
    });
    *ports.lock().unwrap() = [servers[0].port, servers[1].port];
    let fetcher = fetcher(|s| s.host_concurrency = 1);
    std::thread::scope(|scope| {
        for n in 0..12 {
            let url = servers[n % 2].url("/away");
            let fetcher = &fetcher;
            scope.spawn(move || assert_eq!(bytes(get(fetcher, &url)), b"picture"));
        }
    });
    assert!(fetcher.hosts().iter().all(|host| host.in_flight == 0));
}

#[test]
fn a_redirect_to_a_busy_host_resumes_later() {
    let picture = TestServer::start(|r, s| match (r.path.as_str(), r.header("If-None-Match")) {
        ("/back", _) => reply(s, "302 Found", "Location: /back\r\n", b""),
        (_, None) => reply(s, "200 OK", "ETag: \"2\"\r\n", b"picture"),
        _ => reply(s, "400 Not of me", "", b""),
    });
    let there = picture.url("");
    let origin = TestServer::start(move |r, s| {
        reply(s, "302 Found", &format!("Location: {there}{}\r\n", r.path), b"")
    });
    let fetcher = fetcher(|s| s.host_concurrency = 1);
    let go = |server: &TestServer| match fetcher.admit(&host_key(&server.url("/")).unwrap()) {
        HostAdmission::Go(permit) => permit,
        other => panic!("{other:?}"),
    };
    let cancelled = Arc::default();
    for path in ["/p.jpg", "/back"] {
        let url = origin.url(path);
        let get = FetchRequest {
            url: &url,
            etag: Some("\"1\""),
            last_modified: None,
            deadline: Instant::now() + TIMEOUT,
            cancelled: &cancelled,
            displaced: &Arc::default(),
            client: CLIENT,
        };
        let other_permit = go(&picture);
        let Ok(FetchStep::Redirected(redirected)) =
            fetcher.fetch(go(&origin), None, &get, &mut |_, _| Ok(()))
        else {
            panic!("the fetch did not return")
        };
        assert_eq!(redirected.host(), host_key(&picture.url("/")).unwrap());
        drop((other_permit, go(&origin)));
        let asked = origin.requests().len();
        match fetcher.fetch(go(&picture), Some(redirected), &get, &mut |_, _| Ok(())) {
            Ok(FetchStep::Done(FetchResult::Body { bytes, etag: None, final_url, .. }))
                if path == "/p.jpg" =>
            {
                assert_eq!((bytes.as_slice(), final_url), (&b"picture"[..], picture.url(path)));
            }
            Err(FetchError::RedirectLoop { .. }) if path == "/back" => {}
            other => panic!("{path}: {other:?}"),
        }
        assert_eq!(origin.requests().len(), asked, "no earlier request is repeated");
    }
}

#[test]
fn a_busy_host_is_reported_at_the_deadline() {
    let server = strict("");
    let fetcher = fetcher(|s| s.host_concurrency = 1);
    let key = host_key(&server.url("/")).unwrap();
    let HostAdmission::Go(_held) = fetcher.admit(&key) else { panic!() };
    let request = FetchRequest {
        url: &server.url("/"),
        etag: None,
        last_modified: None,
        deadline: Instant::now() + Duration::from_millis(200),
        cancelled: &Arc::default(),
        displaced: &Arc::default(),
        client: CLIENT,
    };
    let error = fetch(&fetcher, &request, &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(
        (error.code().as_str(), error.class(), error.failure().host),
        ("host_busy", FailureClass::Host, Some(key))
    );
    assert!(server.requests().is_empty());
}
