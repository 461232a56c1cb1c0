//! Promises about addresses: connections go to permitted addresses only, on every hop.

mod test_server;

use pg_caption_fetch::{
    FetchClient, FetchError, FetchResult, FetchStage, Fetcher, FetcherParts, NameResolver,
};
use pg_caption_wire::FailureClass;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use test_server::*;

fn fine() -> TestServer {
    TestServer::start(|_, s| reply(s, "200 OK", "", b"picture"))
}

#[test]
fn loopback_is_refused_in_every_spelling() {
    let server = fine();
    let fetcher = named(Arc::new(pg_caption_fetch::SystemResolver), |s| s.allowed_networks.clear());
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0.0.0.0",
        "0",
        "[::]",
        "127.0.0.2",
    ] {
        let error = get(&fetcher, &format!("http://{host}:{}/", server.port)).unwrap_err();
        assert!(matches!(error, FetchError::ForbiddenAddress { .. }), "{host}: {error:?}");
        let failure = error.failure();
        assert_eq!(
            (failure.code.as_str(), failure.class),
            ("forbidden_address", FailureClass::Reject)
        );
        assert!(failure.hint.unwrap().contains("pg_caption.allowed_networks"));
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn names_are_judged_by_their_addresses() {
    let server = fine();
    let names = TestNames::new(&[
        ("metadata.example", &[&["169.254.169.254"]]),
        ("mapped.example", &[&["::ffff:10.0.0.1"]]),
        ("nat64.example", &[&["64:ff9b::7f00:1"]]),
        ("xn--bcher-kva.example", &[&["127.0.0.2"]]),
        ("none.example", &[&[]]),
    ]);
    let fetcher = named(names, |_| {});
    for host in ["metadata.example", "mapped.example", "nat64.example", "bücher.example"] {
        assert_eq!(
            code(get(&fetcher, &format!("http://{host}:{}/", server.port))),
            "forbidden_address",
            "{host}"
        );
    }
    for host in ["none.example", "unknown.example"] {
        let error = get(&fetcher, &format!("http://{host}:{}/", server.port)).unwrap_err();
        assert_eq!((error.code().as_str(), error.class()), ("dns", FailureClass::Retry), "{host}");
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn only_permitted_addresses_of_a_name_are_tried() {
    let server = TestServer::raw(|mut s, _| {
        assert_eq!(s.local_addr().unwrap().ip(), IpAddr::from([127, 0, 0, 1]));
        read_head(&mut s);
        let _ = reply(&mut s, "200 OK", "Connection: close\r\n", b"picture");
    });
    let names =
        TestNames::new(&[("mixed.example", &[&["127.0.0.9", "10.0.0.1", "127.0.0.1", "::1"]])]);
    assert_eq!(
        bytes(get(&named(names, |_| {}), &format!("http://mixed.example:{}/", server.port))),
        b"picture"
    );
}

#[test]
fn a_rebound_name_is_judged_each_time() {
    let server = TestServer::start(|_, s| reply(s, "200 OK", "Connection: close\r\n", b"picture"));
    let names = TestNames::new(&[(
        "rebind.example",
        &[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.1", "127.0.0.2"], &["10.0.0.1"]],
    )]);
    let fetcher = named(names, |_| {});
    let url = format!("http://rebind.example:{}/", server.port);
    assert_eq!(bytes(get(&fetcher, &url)), b"picture");
    assert_eq!(code(get(&fetcher, &url)), "forbidden_address");
    assert_eq!(bytes(get(&fetcher, &url)), b"picture");
    assert_eq!(code(get(&fetcher, &url)), "forbidden_address");
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_rebound_name_loses_its_pooled_connection() {
    let server = fine();
    let names = TestNames::new(&[("rebind.example", &[&["127.0.0.1"], &["127.0.0.2"]])]);
    let fetcher = named(names, |_| {});
    let url = format!("http://rebind.example:{}/", server.port);
    assert_eq!(bytes(get(&fetcher, &url)), b"picture");
    assert_eq!(code(get(&fetcher, &url)), "forbidden_address");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn each_redirect_is_judged_again() {
    let target = fine();
    let port = target.port;
    for (to, expected) in [
        (format!("http://127.0.0.2:{port}/"), "forbidden_address"),
        (format!("http://inside.example:{port}/"), "forbidden_address"),
        (format!("//0x7f000002:{port}/"), "forbidden_address"),
        ("http://169.254.169.254/latest/meta-data/".into(), "forbidden_address"),
        ("file:///etc/passwd".into(), "bad_scheme"),
        ("gopher://127.0.0.1:6379/".into(), "bad_scheme"),
        (format!("http://ann:hunter2@127.0.0.1:{port}/"), "url_credentials"),
        ("http://".into(), "bad_url"),
    ] {
        let header = format!("Location: {to}\r\n");
        let server = TestServer::start(move |_, s| reply(s, "302 Found", &header, b""));
        let fetcher = named(TestNames::new(&[("inside.example", &[&["127.0.0.3"]])]), |_| {});
        let error = get(&fetcher, &server.url("/")).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.class()),
            (expected, FailureClass::Reject),
            "{to}: {error:?}"
        );
        assert!(!format!("{error:?}{:?}", error.failure()).contains("hunter2"));
    }
    assert_eq!(target.connections(), 0);
}

#[test]
fn redirects_are_parsed_as_by_browsers() {
    for (location, asked) in [
        (&b"/Bild 1 \xfc.jpg"[..], "/Bild%201%20%FC.jpg"),
        (b" /Bild 1 \xc3\xbc.jpg ", "/Bild%201%20%C3%BC.jpg"),
        (b"/\xe9/\xc3\xbc?n=\xfc b", "/%E9/%C3%BC?n=%FC%20b"),
        (b"pictures\\1.jpg", "/pictures/1.jpg"),
    ] {
        let server = TestServer::start(move |r, s| match r.path.as_str() {
            "/moved" => {
                s.write_all(
                    &[
                        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: ",
                        location,
                        b"\r\n\r\n",
                    ]
                    .concat(),
                )?;
                Ok(Then::Keep)
            }
            _ => reply(s, "200 OK", "", b"picture"),
        });
        assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/moved"))), b"picture");
        assert_eq!(server.requests()[1], format!("GET {asked} HTTP/1.1"));
    }
}

#[test]
fn a_redirect_without_location_is_reported() {
    for status in [301, 302, 303, 307, 308] {
        let server = TestServer::start(move |_, s| reply(s, &format!("{status} Moved"), "", b""));
        let failure = get(&fetcher(|_| {}), &server.url("/")).unwrap_err().failure();
        assert_eq!((failure.code, failure.class), (format!("http_{status}"), FailureClass::Reject));
        assert!(failure.detail.unwrap().contains("does not say where"), "{status}");
    }
}

#[test]
fn redirects_have_a_limit_and_no_loops() {
    let server = TestServer::start(|r, s| match r.path.as_str() {
        "/loop" => reply(s, "301 Moved", "Location: /loop2\r\n", b""),
        "/loop2" => reply(s, "307 Moved", "Location: /loop#x\r\n", b""),
        "/lost" => reply(s, "302 Found", "", b"no location"),
        "/0" => reply(s, "200 OK", "", b"picture"),
        path => {
            let n: u32 = path[1..].parse().unwrap();
            reply(
                s,
                ["301 A", "302 B", "303 C", "307 D", "308 E"][n as usize % 5],
                &format!("Location: {}\r\n", n - 1),
                b"elsewhere",
            )
        }
    });
    let fetcher = fetcher(|_| {});
    assert_eq!(bytes(get(&fetcher, &server.url("/5"))), b"picture");
    let error = get(&fetcher, &server.url("/6")).unwrap_err();
    assert!(matches!(error, FetchError::TooManyRedirects { limit: 5, .. }), "{error:?}");
    assert!(error.failure().hint.unwrap().contains("pg_caption.max_redirects"));
    assert_eq!(code(get(&fetcher, &server.url("/loop"))), "redirect_loop");
    assert_eq!(code(get(&fetcher, &server.url("/lost"))), "http_302");
    assert_eq!(
        code(get(&self::fetcher(|s| s.max_redirects = 0), &server.url("/1"))),
        "too_many_redirects"
    );
}

#[test]
fn allowed_hosts_restrict_every_hop() {
    let server = fine();
    let names = TestNames::new(&[
        ("cdn.example", &[&["127.0.0.1"]]),
        ("inside.example", &[&["127.0.0.2"]]),
        ("other.example", &[&["127.0.0.1"]]),
    ]);
    let port = server.port;
    let fetcher = named(names, |s| {
        s.allowed_hosts =
            vec!["*.inside.example".into(), "inside.example".into(), "cdn.example".into()]
    });
    assert_eq!(bytes(get(&fetcher, &format!("http://cdn.example:{port}/"))), b"picture");
    let error = get(&fetcher, &format!("http://other.example:{port}/")).unwrap_err();
    assert_eq!((error.code().as_str(), error.class()), ("forbidden_host", FailureClass::Reject));
    assert!(error.failure().hint.unwrap().contains("pg_caption.allowed_hosts"));
    assert_eq!(code(get(&fetcher, &format!("http://inside.example:{port}/"))), "forbidden_address");
    let header = format!("Location: http://other.example:{port}/\r\n");
    let away = TestServer::start(move |_, s| reply(s, "302 Found", &header, b""));
    assert_eq!(
        code(get(&fetcher, &format!("http://cdn.example:{}/", away.port))),
        "forbidden_host"
    );
}

/// A name server that does not answer until it is released.
#[derive(Debug, Default)]
struct Stuck {
    lookups: AtomicUsize,
    free: Mutex<bool>,
    freed: Condvar,
}

impl NameResolver for Stuck {
    fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let free = self.free.lock().unwrap();
        drop(self.freed.wait_timeout_while(free, TIMEOUT, |free| !*free).unwrap());
        Ok(vec![[127, 0, 0, 1].into()])
    }
}

#[test]
fn a_dead_name_server_costs_a_timeout_only() {
    let (server, stuck) = (fine(), Arc::new(Stuck::default()));
    let fetcher = named(stuck.clone(), |s| {
        s.connect_timeout = Duration::from_millis(200);
        s.concurrency = 2;
        s.host_concurrency = 100;
    });
    let url = format!("http://name.example:{}/", server.port);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let error = get(&fetcher, &url).unwrap_err();
                assert!(
                    matches!(error, FetchError::Timeout { stage: FetchStage::Resolve, .. }),
                    "{error:?}"
                );
                assert!(error.failure().hint.unwrap().contains("pg_caption.connect_timeout"));
            });
        }
    });
    assert!(stuck.lookups.load(Ordering::SeqCst) <= 2);
    *stuck.free.lock().unwrap() = true;
    stuck.freed.notify_all();
    assert_eq!(bytes(get_after_lookup(&fetcher, &url)), b"picture");
    assert!(
        stuck.lookups.load(Ordering::SeqCst) <= 3,
        "look-ups without waiting callers are skipped"
    );
}

/// The result after the overdue look-up has ended; until then each fetch fails immediately.
fn get_after_lookup(fetcher: &Fetcher, url: &str) -> Result<FetchResult, FetchError> {
    let end = Instant::now() + TIMEOUT;
    loop {
        match get(fetcher, url) {
            Err(FetchError::Timeout { stage: FetchStage::Resolve, .. }) if Instant::now() < end => {
                std::thread::yield_now()
            }
            result => return result,
        }
    }
}

/// A name server that knows every name, but answers for `dead.example` like [`Stuck`].
#[derive(Debug, Default)]
struct SilentAboutOne(Stuck);

impl NameResolver for SilentAboutOne {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if host == "dead.example" { self.0.resolve(host) } else { Ok(vec![[127, 0, 0, 1].into()]) }
    }
}

#[test]
fn an_unanswered_name_delays_no_other_name() {
    let (server, names) = (fine(), Arc::new(SilentAboutOne::default()));
    let fetcher = named(names.clone(), |s| {
        s.connect_timeout = Duration::from_secs(2);
        s.host_concurrency = 100;
    });
    let dead = format!("http://dead.example:{}/", server.port);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let error = get(&fetcher, &dead).unwrap_err();
                assert!(
                    matches!(error, FetchError::Timeout { stage: FetchStage::Resolve, .. }),
                    "{error:?}"
                );
                assert_eq!(
                    (error.code().as_str(), error.class()),
                    ("timeout", FailureClass::Retry)
                );
            });
        }
    });
    for n in 0..30 {
        assert_eq!(
            bytes(get(&fetcher, &format!("http://fine{n}.example:{}/", server.port))),
            b"picture"
        );
    }
    assert!(
        matches!(get(&fetcher, &dead), Err(FetchError::Timeout { stage: FetchStage::Resolve, .. })),
        "it is refused while its look-up is overdue"
    );
    assert_eq!(names.0.lookups.load(Ordering::SeqCst), 1, "all of its rows share one look-up");
    *names.0.free.lock().unwrap() = true;
    names.0.freed.notify_all();
    assert_eq!(bytes(get_after_lookup(&fetcher, &dead)), b"picture");
}

/// A name server that answers for `fine` names only.
#[derive(Debug, Default)]
struct DeadNames(Stuck);

impl NameResolver for DeadNames {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if host.starts_with("fine") {
            Ok(vec![[127, 0, 0, 1].into()])
        } else {
            self.0.resolve(host)
        }
    }
}

/// The request of a client that can be cancelled.
fn get_from(
    fetcher: &Fetcher,
    connection: u64,
    url: &str,
    cancelled: &Arc<AtomicBool>,
) -> Result<FetchResult, FetchError> {
    let client = FetchClient { connection, ..CLIENT };
    get_as(fetcher, client, url, cancelled, &mut |_, _| Ok(()))
}

#[test]
fn dead_names_of_one_client_delay_no_other() {
    let (server, names) = (fine(), Arc::new(DeadNames::default()));
    let fetcher = named(names.clone(), |s| s.concurrency = 8);
    let cancelled = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for n in 0..1000 {
            let (fetcher, cancelled) = (&fetcher, cancelled.clone());
            let url = format!("http://dead{n}.example:{}/", server.port);
            scope.spawn(move || get_from(fetcher, 1, &url, &cancelled).unwrap_err());
        }
        while names.0.lookups.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
        for n in 0..30 {
            let url = format!("http://fine{n}.example:{}/", server.port);
            assert_eq!(bytes(get_from(&fetcher, 2, &url, &Arc::default())), b"picture");
        }
        cancelled.store(true, Ordering::SeqCst);
        *names.0.free.lock().unwrap() = true;
        names.0.freed.notify_all();
    });
}

#[test]
fn time_in_line_is_not_charged() {
    let (server, names) = (fine(), Arc::new(DeadNames::default()));
    // One look-up thread, which the dead name keeps.
    let fetcher = named(names.clone(), |s| {
        (s.concurrency, s.connect_timeout) = (1, Duration::from_millis(200));
    });
    let dead = format!("http://dead.example:{}/", server.port);
    let error = get_from(&fetcher, 1, &dead, &Arc::default()).unwrap_err();
    assert!(matches!(error, FetchError::Timeout { stage: FetchStage::Resolve, .. }), "{error:?}");
    let live = format!("http://fine.example:{}/", server.port);
    let error = get_from(&fetcher, 2, &live, &Arc::default()).unwrap_err();
    assert_eq!((error.code().as_str(), error.class()), ("lookup_busy", FailureClass::Host));
    assert!(error.failure().retry_after_ms.is_some());
    *names.0.free.lock().unwrap() = true;
    names.0.freed.notify_all();
    let got = std::iter::repeat_with(|| get_from(&fetcher, 2, &live, &Arc::default()));
    assert_eq!(bytes(got.take(1000).find(Result::is_ok).unwrap()), b"picture");
}

/// A proxy that answers every CONNECT itself.
fn proxy() -> TestServer {
    TestServer::start(|r, s| match r.head.starts_with("CONNECT refused.example") {
        true => reply(s, "403 Forbidden", "", b""),
        false if r.head.starts_with("CONNECT ") => {
            write!(s, "HTTP/1.1 200 OK\r\n\r\n")?;
            Ok(Then::Keep)
        }
        false => reply(s, "200 OK", "", b"through the proxy"),
    })
}

#[test]
fn a_proxy_does_not_bypass_the_address_policy() {
    let proxy = proxy();
    let names = TestNames::new(&[
        ("proxy.example", &[&["127.0.0.1"]]),
        ("inside.example", &[&["10.0.0.1"]]),
        ("refused.example", &[&["8.8.8.8"]]),
    ]);
    let fetcher = named(names, |s| {
        // A superuser chose the proxy: its address needs no permission.
        s.allowed_networks.clear();
        s.proxy = Some(format!("http://proxy.example:{}", proxy.port));
    });
    assert_eq!(bytes(get(&fetcher, "http://unknown-here.example/p")), b"through the proxy");
    assert_eq!(proxy.requests(), ["CONNECT unknown-here.example:80 HTTP/1.1", "GET /p HTTP/1.1"]);
    for url in [
        "http://127.0.0.1/",
        "http://inside.example/",
        "http://[fd00::1]/",
        "http://proxy.example/",
    ] {
        assert_eq!(code(get(&fetcher, url)), "forbidden_address", "{url}");
    }
    let error = get(&fetcher, "http://refused.example/").unwrap_err();
    assert_eq!((error.code().as_str(), error.class()), ("proxy", FailureClass::Retry), "{error:?}");
    for gone in ["http://127.0.0.1:1", "http://no-such-proxy.example:3128"] {
        let error = get(
            &named(TestNames::new(&[]), |s| s.proxy = Some(gone.into())),
            "http://somewhere.example/",
        )
        .unwrap_err();
        assert_eq!(error.code(), "proxy", "{error:?}");
        assert!(error.failure().hint.unwrap().contains("pg_caption.proxy"));
    }
}

#[test]
fn an_invalid_proxy_is_refused_without_its_password() {
    for bad in ["socks5://ann:hunter2@proxy:1080", "ann:hunter2@:::", "ftp://ann:hunter2@proxy"] {
        let mut settings = settings();
        settings.proxy = Some(bad.into());
        let error = Fetcher::with_parts(settings, FetcherParts::default()).unwrap_err();
        assert!(
            matches!(error, FetchError::Setting { setting: "pg_caption.proxy", .. }),
            "{error:?}"
        );
        assert!(!format!("{error:?}{error}").contains("hunter2"));
    }
}

#[test]
fn an_invalid_network_is_named() {
    for bad in ["10.0.0.0/33", "ten", "10.0.0.0-10.0.0.9"] {
        let mut settings = settings();
        settings.allowed_networks = vec!["10.0.0.0/8".into(), bad.into()];
        let error = Fetcher::with_parts(settings, FetcherParts::default()).unwrap_err();
        assert!(
            matches!(
                &error,
                FetchError::Setting { setting: "pg_caption.allowed_networks", reason }
                    if reason.contains(bad)
            ),
            "{error:?}"
        );
    }
}

/// The variable with which the test below starts this program again.
const CHILD: &str = "PG_CAPTION_TEST_PROXY_CHILD";

#[test]
fn the_proxy_of_the_environment_is_ignored() {
    if std::env::var_os(CHILD).is_some() {
        let server = fine();
        assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))), b"picture");
        return;
    }
    let proxy = proxy();
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "the_proxy_of_the_environment_is_ignored"]).env(CHILD, "1");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    {
        again.env(name, &url);
    }
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(proxy.connections(), 0);
}
