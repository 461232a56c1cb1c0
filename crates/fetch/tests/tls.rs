//! Promises about https, with a temporary certificate authority.

mod test_server;

use pg_caption_fetch::{CertificateFault, FetchError, FetchSettings, Fetcher, FetcherParts};
use pg_caption_wire::FailureClass;
use rcgen::{CertificateParams, date_time_ymd};
use rustls::{ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use test_server::certificates::*;
use test_server::*;

/// A server with a certificate for `names`, modified by `change`, that responds with `answer`.
fn shop(
    authority: Option<&Authority>,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
    answer: impl Fn(&str, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
) -> TestServer {
    let config = Arc::new(identity(authority, names, change).server());
    TestServer::raw(move |stream, log| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        while let Some(head) = read_head(&mut tls) {
            log.requests.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
            if answer(&head, &mut tls).and_then(|()| tls.flush()).is_err() {
                return;
            }
        }
    })
}

fn picture(_: &str, s: &mut dyn Write) -> std::io::Result<()> {
    write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture")
}

fn redirect(location: String) -> impl Fn(&str, &mut dyn Write) -> std::io::Result<()> {
    move |_, s| write!(s, "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n")
}

fn trusting(authority: &Authority, change: impl FnOnce(&mut FetchSettings)) -> Fetcher {
    let names =
        TestNames::new(&[("shop.example", &[&["127.0.0.1"]]), ("evil.example", &[&["127.0.0.1"]])]);
    let mut settings = settings();
    change(&mut settings);
    Fetcher::with_parts(
        settings,
        FetcherParts { resolver: names, roots: Some(vec![authority.der.clone()]) },
    )
    .unwrap()
}

fn secure(server: &TestServer) -> String {
    format!("https://shop.example:{}/p.jpg", server.port)
}

#[test]
fn a_valid_certificate_is_accepted() {
    let authority = authority();
    let server = shop(Some(&authority), &["shop.example"], |_| {}, picture);
    let fetcher = trusting(&authority, |_| {});
    for _ in 0..3 {
        assert_eq!(bytes(get(&fetcher, &secure(&server))), b"picture");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn bad_certificates_are_refused_before_requests() {
    let (trusted, other) = (authority(), authority());
    let expired = |p: &mut CertificateParams| {
        (p.not_before, p.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1))
    };
    let future = |p: &mut CertificateParams| p.not_before = date_time_ymd(4000, 1, 1);
    for (why, server) in [
        ("expired", shop(Some(&trusted), &["shop.example"], expired, picture)),
        ("not yet valid", shop(Some(&trusted), &["shop.example"], future, picture)),
        ("another host's", shop(Some(&trusted), &["evil.example"], |_| {}, picture)),
        ("of an unknown authority", shop(Some(&other), &["shop.example"], |_| {}, picture)),
        ("self-signed", shop(None, &["shop.example"], |_| {}, picture)),
    ] {
        let error = get(&trusting(&trusted, |_| {}), &secure(&server)).unwrap_err();
        assert!(matches!(error, FetchError::Tls { no_roots: false, .. }), "{why}: {error:?}");
        assert_eq!((error.code().as_str(), error.class()), ("tls", FailureClass::Retry), "{why}");
        assert!(server.requests().is_empty(), "{why}");
    }
}

#[test]
fn a_refused_certificate_is_explained_by_its_hint() {
    use CertificateFault::*;
    let trusted = authority();
    let between = intermediate(&trusted, "intermediate");
    let private = intermediate(&authority(), "a private authority");
    let below_private = intermediate(&private, "below the private authority");
    let expired = |p: &mut CertificateParams| {
        (p.not_before, p.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1))
    };
    let future = |p: &mut CertificateParams| p.not_before = date_time_ymd(4000, 1, 1);
    let names = &["shop.example"][..];
    let authority_itself = |p: &mut CertificateParams| {
        p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
    };
    let named =
        |p: &mut CertificateParams| p.distinguished_name.push(rcgen::DnType::CommonName, "shop");
    for (fault, hint, server) in [
        (Incomplete, "whole chain", shop(Some(&between), names, named, picture)),
        (Incomplete, "private one", shop(Some(&private), names, named, picture)),
        (SelfSigned, "self-signed", shop(None, names, |_| {}, picture)),
        (SelfSigned, "self-signed", shop(None, names, authority_itself, picture)),
        (Expired, "renew", shop(Some(&trusted), names, expired, picture)),
        (NotYetValid, "clock", shop(Some(&trusted), names, future, picture)),
        (OtherName, "other names", shop(Some(&trusted), &["evil.example"], |_| {}, picture)),
    ] {
        let error = get(&trusting(&trusted, |_| {}), &secure(&server)).unwrap_err();
        let FetchError::Tls { fault: found, .. } = &error else { panic!("{fault:?}: {error:?}") };
        assert_eq!(*found, Some(fault), "{error:?}");
        let text = error.failure().hint.unwrap();
        assert!(text.contains(hint), "{fault:?}: {text}");
    }
    // With the intermediate certificate the chain is complete; of another authority it is not.
    for (issuer, fault) in [(&between, None), (&below_private, Some(UnknownAuthority))] {
        let provider = rustls::crypto::ring::default_provider();
        let more = vec![issuer.der.clone().into()];
        let identity = identity(Some(issuer), names, named);
        let config = Arc::new(identity.server_of(provider, rustls::DEFAULT_VERSIONS, more));
        let server = TestServer::raw(move |stream, _| {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            while read_head(&mut tls).is_some() {
                picture("", &mut tls).and_then(|()| tls.flush()).unwrap();
            }
        });
        let found = match get(&trusting(&trusted, |_| {}), &secure(&server)) {
            Ok(got) => {
                assert_eq!(bytes(Ok(got)), b"picture");
                None
            }
            Err(FetchError::Tls { fault, .. }) => fault,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(found, fault);
    }
}

#[test]
fn surplus_bytes_answer_no_request_under_tls() {
    let answer = |length: usize, byte: u8| {
        [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes(),
            vec![byte; length],
        ]
        .concat()
    };
    // A record holds 16384 bytes: the surplus starts in the last record of the response, or is in a
    // separate one that may be read in part.
    for real in [4, 4000, 16_384 - answer(16_300, 0).len() + 16_300, 60_000] {
        for fake in [4, 3000, 6000, 9000, 20_000, 200_000] {
            let (authority, sent) =
                (authority(), [answer(real, b'r'), answer(fake, b'f')].concat());
            let server =
                shop(Some(&authority), &["shop.example"], |_| {}, move |_, s| s.write_all(&sent));
            let fetcher = trusting(&authority, |_| {});
            for n in 1..=3 {
                let got = bytes(get(&fetcher, &secure(&server)));
                assert_eq!(
                    (got.len(), got[0]),
                    (real, b'r'),
                    "{fake} bytes behind {real}, request {n}"
                );
            }
        }
    }
}

#[test]
fn surplus_under_tls_ends_connection_reuse() {
    let authority = authority();
    let server = shop(
        Some(&authority),
        &["shop.example"],
        |_| {},
        |head, s| {
            picture(head, s)?;
            if head.starts_with("GET /surplus") { s.write_all(b"\r\n<html>") } else { Ok(()) }
        },
    );
    let fetcher = trusting(&authority, |_| {});
    for path in ["surplus", "p.jpg", "p.jpg", "p.jpg"] {
        assert_eq!(
            bytes(get(&fetcher, &format!("https://shop.example:{}/{path}", server.port))),
            b"picture"
        );
    }
    assert_eq!(server.connections(), 4);
}

#[test]
fn missing_authorities_are_reported_with_a_hint() {
    let authority = authority();
    let server = shop(Some(&authority), &["shop.example"], |_| {}, picture);
    let fetcher = named(TestNames::new(&[("shop.example", &[&["127.0.0.1"]])]), |_| {});
    let failure = get(&fetcher, &secure(&server)).unwrap_err().failure();
    assert!(failure.hint.unwrap().contains("ca-certificates"));
}

#[test]
fn a_server_without_tls_is_a_tls_failure() {
    let plain = TestServer::raw(|mut s, _| {
        let _ = s.read(&mut [0; 64]).and_then(|_| s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    });
    assert_eq!(code(get(&trusting(&authority(), |_| {}), &secure(&plain))), "tls");
}

#[test]
fn an_endless_handshake_ends_at_the_limit() {
    let silent = TestServer::raw(|mut s, _| while s.read(&mut [0; 64]).is_ok_and(|n| n > 0) {});
    let fetcher =
        trusting(&authority(), |s| s.connect_timeout = std::time::Duration::from_millis(300));
    let error = get(&fetcher, &secure(&silent)).unwrap_err();
    assert!(matches!(error, FetchError::Timeout { .. }), "{error:?}");
    assert!(error.failure().hint.unwrap().contains("pg_caption.connect_timeout"));
}

#[test]
fn https_never_redirects_to_http() {
    let authority = authority();
    let plain = TestServer::start(|_, s| reply(s, "200 OK", "", b"picture"));
    let middle = shop(Some(&authority), &["shop.example"], |_| {}, redirect(plain.url("/p.jpg")));
    let fetcher = trusting(&authority, |_| {});
    let error = get(&fetcher, &secure(&middle)).unwrap_err();
    assert_eq!(
        (error.code().as_str(), error.class()),
        ("insecure_redirect", FailureClass::Reject),
        "{error:?}"
    );
    assert_eq!(plain.connections(), 0);

    let header = format!("Location: {}\r\n", secure(&middle));
    let start = TestServer::start(move |_, s| reply(s, "302 Found", &header, b""));
    assert_eq!(bytes(get(&fetcher, &start.url("/"))), b"picture");
}

#[test]
fn a_proxy_does_not_bypass_certificate_checks() {
    let authority = authority();
    let server = shop(Some(&authority), &["shop.example"], |_| {}, picture);
    let port = server.port;
    let proxy = TestServer::raw(move |mut client, log| {
        let Some(head) = read_head(&mut client) else { return };
        log.requests.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
        let mut server = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
        let _ = std::io::copy(&mut client, &mut server);
    });
    let through =
        |s: &mut FetchSettings| s.proxy = Some(format!("http://127.0.0.1:{}", proxy.port));
    assert_eq!(bytes(get(&trusting(&authority, through), &secure(&server))), b"picture");
    assert_eq!(proxy.requests(), [format!("CONNECT shop.example:{port} HTTP/1.1")]);
    assert_eq!(code(get(&trusting(&self::authority(), through), &secure(&server))), "tls");
}

/// The variable with which the test below starts this program again.
const CHILD: &str = "PG_CAPTION_TEST_ROOTS_CHILD";

#[test]
fn the_system_s_certificate_store_is_used() {
    if let Ok(port) = std::env::var(CHILD) {
        let names = TestNames::new(&[("shop.example", &[&["127.0.0.1"]])]);
        let fetcher =
            Fetcher::with_parts(settings(), FetcherParts { resolver: names, roots: None }).unwrap();
        assert_eq!(bytes(get(&fetcher, &format!("https://shop.example:{port}/p.jpg"))), b"picture");
        return;
    }
    let (trusted, other) = (authority(), authority());
    let server = shop(Some(&trusted), &["shop.example"], |_| {}, picture);
    let file = std::env::temp_dir().join(format!("pg_caption-roots-{}.pem", std::process::id()));
    let trusts = |authority: &Authority| {
        std::fs::write(&file, &authority.pem).unwrap();
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "the_system_s_certificate_store_is_used"]);
        again
            .env(CHILD, server.port.to_string())
            .env("SSL_CERT_FILE", &file)
            .env_remove("SSL_CERT_DIR");
        again.output().unwrap().status.success()
    };
    assert!(trusts(&trusted));
    assert!(!trusts(&other));
    std::fs::remove_file(file).unwrap();
}
