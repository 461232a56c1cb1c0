//! Promises about connections that are used again: no answer is taken for another request's.

mod test_server;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use test_server::*;

/// A server that says `tail` behind each answer's announced end: when the next request on that
/// connection comes, not before.
fn late(tail: &'static [u8]) -> Server {
    Server::start(move |request, s| {
        if request.nth > 0 {
            s.write_all(tail)?;
        }
        reply(s, "200 OK", "", b"real")
    })
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake";

#[test]
fn bytes_behind_the_announced_end_that_come_late_cost_the_next_request_nothing() {
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
fn a_host_that_ever_sent_bytes_behind_an_announced_end_never_answers_one_request_with_the_next() {
    // Each way of being caught once; from then on a whole answer that waits for the next request
    // finds no connection.
    let at_once = [&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal"[..], ANSWER].concat();
    let bodiless =
        [&b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"[..], ANSWER].concat();
    for (path, caught) in [("/at-once", at_once), ("/moved", bodiless)] {
        let server = Server::start(move |request, s| match (request.path.as_str(), request.nth) {
            ("/", 0) => reply(s, "200 OK", "", b"real"),
            (path, 0) if path == "/at-once" || path == "/moved" => {
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
fn a_connection_on_which_bytes_lie_ready_is_not_used_again_and_neither_is_its_host_s_next() {
    let (ready, sent) = (Arc::new(Meeting::default()), Arc::new(Meeting::default()));
    let (go, done) = (ready.clone(), sent.clone());
    let server = Server::start(move |request, s| {
        if request.nth > 0 {
            return s.write_all(ANSWER).map(|()| Then::Keep);
        }
        reply(s, "200 OK", "", b"real")?;
        if request.path == "/lies" {
            go.wait_for(2);
            s.write_all(ANSWER)?;
            done.wait_for(2);
        }
        Ok(Then::Keep)
    });
    let fetcher = fetcher(|_| {});
    assert_eq!(bytes(get(&fetcher, &server.url("/lies"))), b"real");
    ready.wait_for(2);
    sent.wait_for(2);
    for _ in 0..3 {
        assert_eq!(bytes(get(&fetcher, &server.url("/"))), b"real");
    }
    assert_eq!(server.connections(), 4);
}

#[test]
fn a_kept_connection_that_the_server_closed_meanwhile_costs_nothing() {
    let server = Server::start(|request, s| match request.nth {
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
fn a_host_that_closes_a_kept_connection_is_not_taken_for_one_that_says_too_much() {
    let first = AtomicBool::new(true);
    let server = Server::start(move |_, s| {
        reply(s, "200 OK", "", b"whole")?;
        Ok(if first.swap(false, Ordering::SeqCst) { Then::Close } else { Then::Keep })
    });
    let fetcher = fetcher(|_| {});
    for _ in 1..=5 {
        assert_eq!(bytes(get(&fetcher, &server.url("/"))), b"whole");
    }
    assert_eq!(server.connections(), 2, "the second one is kept and used");
}
