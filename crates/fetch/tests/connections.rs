//! Promises about reused connections: no response answers another request.

mod test_server;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use test_server::*;

/// A server that sends `tail` after the announced end of each response, when the next request on
/// that connection arrives.
fn late(tail: &'static [u8]) -> TestServer {
    TestServer::start(move |request, s| {
        if request.nth > 0 {
            s.write_all(tail)?;
        }
        reply(s, "200 OK", "", b"real")
    })
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake";

#[test]
fn late_surplus_bytes_do_not_affect_a_request() {
    for tail in [
        &b"\r\n<html>tail</html>\n\n"[..],
        b"\0\0\0\0",
        b"HTTP/1.1 zzz\r\n\r\n",
        &[b"HTTP/1.1 200 OK\r\n", &b"X: y\r\n".repeat(200)[..]].concat(),
    ] {
        let server = late(tail.to_vec().leak());
        let fetcher = fetcher(|_| {});
        for n in 1..=4 {
            assert_eq!(bytes(get(&fetcher, &server.url("/"))), b"real");
            assert_eq!(server.connections(), n, "a connection to such a host is used once");
        }
    }
}

#[test]
fn surplus_bytes_never_answer_the_next_request() {
    // Each kind of surplus is detected once. From then on a whole surplus response has no
    // connection to wait on.
    let immediate = [&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal"[..], ANSWER].concat();
    let bodiless =
        [&b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"[..], ANSWER].concat();
    for (path, caught) in [("/immediate", immediate), ("/moved", bodiless)] {
        let server =
            TestServer::start(move |request, s| match (request.path.as_str(), request.nth) {
                ("/", 0) => reply(s, "200 OK", "", b"real"),
                (path, 0) if path == "/immediate" || path == "/moved" => {
                    s.write_all(&caught).map(|()| Then::Keep)
                }
                _ => s.write_all(ANSWER).map(|()| Then::Keep),
            });
        let fetcher = fetcher(|_| {});
        for path in [path, "/", "/", "/"] {
            assert_eq!(bytes(get(&fetcher, &server.url(path))), b"real", "{path}");
        }
        assert_eq!(
            server.connections(),
            server.requests().len(),
            "{path}: no connection was used again"
        );
    }
}

#[test]
fn a_connection_with_waiting_bytes_is_not_reused() {
    let (ready, sent) = (Arc::new(Rendezvous::default()), Arc::new(Rendezvous::default()));
    let (go, done) = (ready.clone(), sent.clone());
    let server = TestServer::start(move |request, s| {
        if request.nth > 0 {
            return s.write_all(ANSWER).map(|()| Then::Keep);
        }
        reply(s, "200 OK", "", b"real")?;
        if request.path == "/surplus" {
            go.wait_for(2);
            s.write_all(ANSWER)?;
            done.wait_for(2);
        }
        Ok(Then::Keep)
    });
    let fetcher = fetcher(|_| {});
    assert_eq!(bytes(get(&fetcher, &server.url("/surplus"))), b"real");
    ready.wait_for(2);
    sent.wait_for(2);
    for _ in 0..3 {
        assert_eq!(bytes(get(&fetcher, &server.url("/"))), b"real");
    }
    assert_eq!(server.connections(), 4);
}

#[test]
fn a_closed_pooled_connection_costs_nothing() {
    let server = TestServer::start(|request, s| match request.nth {
        0 => reply(s, "200 OK", "", b"whole"),
        _ => Ok(Then::Close),
    });
    let fetcher = fetcher(|_| {});
    for n in 1..=4 {
        assert_eq!(bytes(get(&fetcher, &server.url("/"))), b"whole");
        assert_eq!(server.connections(), n);
    }
}

#[test]
fn closing_a_connection_is_not_a_framing_offence() {
    let first = AtomicBool::new(true);
    let server = TestServer::start(move |_, s| {
        reply(s, "200 OK", "", b"whole")?;
        Ok(if first.swap(false, Ordering::SeqCst) { Then::Close } else { Then::Keep })
    });
    let fetcher = fetcher(|_| {});
    for _ in 1..=5 {
        assert_eq!(bytes(get(&fetcher, &server.url("/"))), b"whole");
    }
    assert_eq!(server.connections(), 2, "the second one is kept and used");
}
