//! Promises about bytes and time: whatever a server sends, and however slowly.

mod test_server;

use pg_caption_fetch::{FetchError, FetchRequest, FetchResult, FetchStage};
use pg_caption_wire::{Failure, FailureClass};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use test_server::*;

fn gzip(bytes: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    bytes.for_each(|b| encoder.write_all(&b).unwrap());
    encoder.finish().unwrap()
}

#[test]
fn a_body_comes_whole_with_its_validators_over_one_connection() {
    let server = Server::start(|_, s| {
        reply(
            s,
            "200 OK",
            "ETag: \"v1\"\r\nLast-Modified: Mon, 05 Jan 2026 10:00:00 GMT\r\n",
            &[7; 300_000],
        )
    });
    let fetcher = fetcher(|_| {});
    for _ in 0..3 {
        let Ok(FetchResult::Body { bytes, etag, last_modified, url_final }) =
            get(&fetcher, &server.url("/p.jpg?key=secret"))
        else {
            panic!()
        };
        assert_eq!(bytes, vec![7; 300_000]);
        assert_eq!(
            (etag.as_deref(), last_modified.as_deref()),
            (Some("\"v1\""), Some("Mon, 05 Jan 2026 10:00:00 GMT"))
        );
        assert_eq!(url_final, server.url("/p.jpg?key=…"));
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_unchanged_picture_is_not_downloaded_again() {
    let server = Server::start(|request, s| match request.header("If-None-Match") {
        Some("\"v1\"") => {
            write!(s, "HTTP/1.1 304 Not Modified\r\n\r\n")?;
            Ok(Then::Keep)
        }
        _ => reply(s, "200 OK", "", b"new"),
    });
    let fetcher = fetcher(|_| {});
    let url = server.url("/p.jpg");
    let ask = |etag| {
        let get = FetchRequest {
            url: &url,
            etag,
            last_modified: None,
            deadline: Instant::now() + PATIENCE,
            cancelled: &Arc::default(),
        };
        fetcher.fetch(&get, &mut |_, _| Ok(()))
    };
    assert_eq!(ask(Some("\"v1\"")).unwrap(), FetchResult::NotModified);
    assert_eq!(bytes(ask(Some("\"v0\""))), b"new");
    assert_eq!(bytes(ask(Some("not\na header"))), b"new");
}

#[test]
fn a_304_that_nobody_asked_for_is_no_answer() {
    let server = Server::start(|_, s| {
        write!(s, "HTTP/1.1 304 Not Modified\r\n\r\n")?;
        Ok(Then::Keep)
    });
    assert_eq!(code(get(&fetcher(|_| {}), &server.url("/"))), "http_304");
}

#[test]
fn every_server_learns_who_asks_and_nothing_else() {
    let server = Server::start(|r, s| reply(s, "200 OK", "Set-Cookie: a=b\r\n", r.head.as_bytes()));
    let fetcher = fetcher(|_| {});
    get(&fetcher, &server.url("/")).unwrap();
    let head = String::from_utf8(bytes(get(&fetcher, &server.url("/p#fragment"))))
        .unwrap()
        .to_ascii_lowercase();
    assert!(
        head.contains("user-agent: pg_caption/") && head.starts_with("get /p http/1.1"),
        "{head}"
    );
    for unwanted in ["cookie", "authorization", "referer", "fragment"] {
        assert!(!head.contains(unwanted), "{head}");
    }
}

#[test]
fn a_gzipped_body_is_inflated() {
    let body = gzip((0..50).map(|n| vec![n; 1000]));
    for name in ["gzip", "GZIP", "x-gzip", "identity, gzip", "utf-8, gzip", "aws-chunked,gzip"] {
        let (body, header) = (body.clone(), format!("Content-Encoding: {name}\r\n"));
        let server = Server::start(move |_, s| reply(s, "200 OK", &header, &body));
        let got = bytes(get(&fetcher(|_| {}), &server.url("/")));
        assert_eq!((got.len(), got[49_999]), (50_000, 49), "{name}");
    }
}

#[test]
fn a_gzip_body_that_inflates_to_300_mb_is_cut_at_the_limit() {
    let bomb = gzip((0..300).map(|_| vec![0; 1 << 20]));
    assert!(bomb.len() < 5_000_000);
    let server = Server::start(move |_, s| reply(s, "200 OK", "Content-Encoding: gzip\r\n", &bomb));
    let fetcher = fetcher(|s| s.max_bytes = 10_000_000);
    let mut reserved = Vec::new();
    let error = get_with(&fetcher, &server.url("/"), &Arc::default(), &mut |_, n| {
        reserved.push(n);
        Ok(())
    });
    assert!(
        matches!(error, Err(FetchError::TooLarge { limit: 10_000_000, declared: None, .. })),
        "{error:?}"
    );
    assert_eq!(reserved, [10_000_000], "asked once, for the most that can come");
}

#[test]
fn gzip_without_end_and_without_content_ends_too() {
    let empty = gzip(std::iter::empty());
    let server = Server::start(move |_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")?;
        loop {
            s.write_all(&empty.repeat(1000))?;
        }
    });
    assert_eq!(code(get(&fetcher(|_| {}), &server.url("/"))), "too_large");
}

#[test]
fn broken_and_unwanted_encodings_are_refused() {
    for (encoding, body) in
        [("gzip", &b"no gzip at all"[..]), ("br", b"x"), ("gzip, gzip", b"x"), ("deflate", b"x")]
    {
        let header = format!("Content-Encoding: {encoding}\r\n");
        let server = Server::start(move |_, s| reply(s, "200 OK", &header, body));
        let error = get(&fetcher(|_| {}), &server.url("/")).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.class()),
            ("bad_encoding", FailureClass::Reject),
            "{encoding}: {error:?}"
        );
    }
}

#[test]
fn a_gzip_body_that_ends_early_is_truncated_for_good_where_all_that_was_announced_came() {
    let whole = gzip((0..50).map(|n| vec![n; 1000]));
    for (path, code, class) in [
        ("/announced", "image_truncated", FailureClass::Reject),
        ("/chunked", "image_truncated", FailureClass::Reject),
        ("/until-closed", "reset", FailureClass::Retry),
    ] {
        let cut = whole[..whole.len() / 2].to_vec();
        let server = Server::start(move |r, s| {
            let framing = match r.path.as_str() {
                "/announced" => return reply(s, "200 OK", "Content-Encoding: gzip\r\n", &cut),
                "/chunked" => "Transfer-Encoding: chunked\r\n",
                _ => "Connection: close\r\n",
            };
            write!(s, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n{framing}\r\n")?;
            match r.path.as_str() {
                "/chunked" => s.write_all(
                    &[format!("{:x}\r\n", cut.len()).as_bytes(), &cut, b"\r\n0\r\n\r\n"].concat(),
                )?,
                // whether that was all nobody can tell
                _ => s.write_all(&cut)?,
            }
            Ok(Then::Close)
        });
        let error = get(&fetcher(|_| {}), &server.url(path)).unwrap_err();
        assert_eq!((error.code().as_str(), error.class()), (code, class), "{path}: {error:?}");
    }
}

#[test]
fn a_plain_picture_is_taken_whatever_coding_the_server_claims() {
    let pictures = [
        &b"\xFF\xD8\xFF\xE0\0\x10JFIF"[..],
        b"\x89PNG\r\n\x1A\n\0\0\0\rIHDR",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"GIF89a",
        b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"\0\0\0\x1CftypavifAAAA",
    ];
    for picture in pictures {
        let picture = [picture, &[7; 100_000]].concat();
        for coding in [
            "8bit",
            "chunked",
            "image/jpeg",
            "base64",
            "br",
            "deflate",
            "zstd",
            "gzip",
            "gzip, gzip",
        ] {
            let (header, body) = (format!("Content-Encoding: {coding}\r\n"), picture.clone());
            let server = Server::start(move |_, s| reply(s, "200 OK", &header, &body));
            assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))), picture, "{coding}");
        }
    }
}

#[test]
fn a_body_larger_than_the_limit_is_cut_whether_announced_or_not() {
    let announced = Server::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n")?;
        Ok(Then::Keep)
    });
    let error = get_with(&fetcher(|_| {}), &announced.url("/"), &Arc::default(), &mut |_, _| {
        panic!("nothing is reserved for it")
    });
    assert!(
        matches!(
            error,
            Err(FetchError::TooLarge { limit: 1_000_000, declared: Some(1_000_001), .. })
        ),
        "{error:?}"
    );

    let endless = Server::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        loop {
            write!(s, "400\r\n{}\r\n", "x".repeat(1024))?;
        }
    });
    let error = get(&fetcher(|_| {}), &endless.url("/"));
    assert!(
        matches!(error, Err(FetchError::TooLarge { limit: 1_000_000, declared: None, .. })),
        "{error:?}"
    );

    let exact = Server::start(|_, s| reply(s, "200 OK", "", &vec![1; 1_000_000]));
    assert_eq!(bytes(get(&fetcher(|_| {}), &exact.url("/"))).len(), 1_000_000);
}

#[test]
fn a_content_length_that_lies_is_noticed_in_either_direction() {
    let long = Server::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")?;
        Ok(Then::Close)
    });
    let error = get(&fetcher(|_| {}), &long.url("/")).unwrap_err();
    assert_eq!((error.code().as_str(), error.class()), ("reset", FailureClass::Retry), "{error:?}");

    // what follows the announced end is no answer to the next request on that connection
    let short = Server::start(|_, s| {
        write!(
            s,
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrealHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake"
        )?;
        Ok(Then::Keep)
    });
    let fetcher = fetcher(|_| {});
    for _ in 0..3 {
        assert_eq!(bytes(get(&fetcher, &short.url("/"))), b"real");
    }

    for header in [
        "Content-Length: -5",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 1\r\nContent-Length: 2",
    ] {
        let server = Server::start(move |_, s| {
            write!(s, "HTTP/1.1 200 OK\r\n{header}\r\n\r\nxx")?;
            Ok(Then::Close)
        });
        assert_eq!(
            get(&fetcher, &server.url("/")).unwrap_err().class(),
            FailureClass::Reject,
            "{header}"
        );
    }
}

/// Drips `byte`s as long as anybody reads.
fn drip(s: &mut impl Write, byte: &[u8]) -> std::io::Result<Then> {
    loop {
        s.write_all(byte)?;
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_server_that_sends_a_byte_now_and_then_ends_at_the_total_limit() {
    for part in ["status", "headers", "body", "chunks", "nothing"] {
        let server = Server::start(move |_, s| {
            match part {
                "headers" => write!(s, "HTTP/1.1 200 OK\r\nX: ")?,
                "body" => write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")?,
                "chunks" => write!(s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?,
                "nothing" => {
                    read_head(s);
                    return Ok(Then::Close);
                }
                _ => {}
            }
            drip(s, if part == "chunks" { b"1\r\nx\r\n" } else { b"H" })
        });
        let fetcher = fetcher(|s| s.total_timeout = Duration::from_millis(500));
        let start = Instant::now();
        let error = get(&fetcher, &server.url("/")).unwrap_err();
        let took = start.elapsed();
        // a status line of H is no HTTP; that may be noticed before the time is over
        if !(part == "status" && error.code() == "not_http") {
            assert!(
                matches!(error, FetchError::Timeout { stage: FetchStage::Total, .. }),
                "{part}: {error:?}"
            );
            assert!(error.failure().hint.unwrap().contains("pg_caption.fetch_timeout"));
            assert!(took >= Duration::from_millis(500), "{part}: {took:?}");
        }
        assert!(took < Duration::from_secs(5), "{part}: {took:?}");
    }
}

#[test]
fn a_server_that_does_not_begin_to_answer_holds_its_place_no_longer_than_that_limit() {
    let server = Server::start(|r, s| {
        if r.path == "/silent" {
            read_head(s);
            return Ok(Then::Close);
        }
        write!(s, "HTTP/1.1 200 OK\r\nX: ")?;
        drip(s, b"x")
    });
    let fetcher = fetcher(|s| s.answer_timeout = Duration::from_millis(300));
    for path in ["/silent", "/headers"] {
        let error = get(&fetcher, &server.url(path)).unwrap_err();
        assert!(
            matches!(error, FetchError::Timeout { stage: FetchStage::Answer, .. }),
            "{path}: {error:?}"
        );
        assert_eq!((error.code().as_str(), error.class()), ("timeout", FailureClass::Retry));
    }
}

#[test]
fn validators_say_nothing_of_where_a_redirect_leads() {
    let server = Server::start(|r, s| {
        match (r.path.as_str(), r.header("If-None-Match"), r.header("If-Modified-Since")) {
            ("/moved.jpg", ..) => reply(s, "302 Found", "Location: /other.jpg\r\n", b""),
            // Whatever it is asked about, it has not changed since.
            (_, None, None) => reply(s, "200 OK", "ETag: \"1\"\r\n", b"another picture"),
            _ => {
                write!(s, "HTTP/1.1 304 Not Modified\r\n\r\n")?;
                Ok(Then::Keep)
            }
        }
    });
    let url = server.url("/moved.jpg");
    let get = FetchRequest {
        url: &url,
        etag: Some("\"1\""),
        last_modified: Some("Mon, 05 Jan 2026 10:00:00 GMT"),
        deadline: Instant::now() + PATIENCE,
        cancelled: &Arc::default(),
    };
    let Ok(FetchResult::Body { bytes, etag, .. }) = fetcher(|_| {}).fetch(&get, &mut |_, _| Ok(()))
    else {
        panic!("it was not fetched")
    };
    assert_eq!((bytes.as_slice(), etag), (&b"another picture"[..], None));
}

#[test]
fn what_follows_a_gzip_body_is_none_of_it() {
    let (first, second) = (gzip([vec![1; 1000]].into_iter()), gzip([vec![2; 1000]].into_iter()));
    for (trailer, length) in
        [(vec![0; 600], 1000), (b"<!-- cached -->".to_vec(), 1000), (second, 2000)]
    {
        let body = [first.clone(), trailer].concat();
        let server =
            Server::start(move |_, s| reply(s, "200 OK", "Content-Encoding: gzip\r\n", &body));
        assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))).len(), length);
    }
}

#[test]
fn a_body_of_unknown_length_reserves_no_more_than_there_can_be() {
    let server = Server::start(|r, s| {
        write!(s, "HTTP/1.1 200 OK\r\n\r\n")?;
        s.write_all(&vec![7; if r.path == "/small" { 900 } else { 1100 }])?;
        Ok(Then::Close)
    });
    let fetcher = fetcher(|s| s.room = 1000);
    let mut reserved = Vec::new();
    let mut ask = |path: &str| {
        get_with(&fetcher, &server.url(path), &Arc::default(), &mut |_, n| {
            reserved.push(n);
            Ok(())
        })
    };
    assert_eq!(bytes(ask("/small")).len(), 900);
    let failure = ask("/large").unwrap_err().failure();
    assert_eq!((failure.code.as_str(), failure.class), ("too_much_memory", FailureClass::Reject));
    assert_eq!(reserved, [1000, 1000]);
}

#[test]
fn a_caller_with_less_patience_than_the_server_s_setting_is_told_its_own_limit() {
    let server = Server::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\n\r\n")?;
        drip(s, b"x")
    });
    let get = FetchRequest {
        url: &server.url("/"),
        etag: None,
        last_modified: None,
        deadline: Instant::now() + Duration::from_millis(300),
        cancelled: &Arc::default(),
    };
    let error = fetcher(|_| {}).fetch(&get, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, FetchError::Timeout { stage: FetchStage::Caller, .. }), "{error:?}");
    assert!(error.failure().hint.unwrap().contains("pg_caption.timeout"));
}

#[test]
fn time_spent_waiting_for_memory_is_not_the_server_s() {
    let server = Server::start(|_, s| reply(s, "200 OK", "", b"late but whole"));
    let limit = Duration::from_millis(400);
    let fetcher = fetcher(|s| s.total_timeout = limit);
    let got = get_with(&fetcher, &server.url("/"), &Arc::default(), &mut |_, _| {
        // the engine's budget is full for longer than the whole fetch may take
        let until = Instant::now() + 2 * limit;
        while Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    });
    assert_eq!(bytes(got), b"late but whole");
}

#[test]
fn memory_that_is_refused_is_the_fetch_s_failure_as_it_stands() {
    let server = Server::start(|_, s| reply(s, "200 OK", "", &[0; 12_345]));
    let refusal =
        Failure::new(FailureClass::Reject, "too_large", "needs 12345 bytes, the budget is 1000")
            .hint("See \"pg_caption.memory\".");
    let mut reserved = 0;
    let error = get_with(&fetcher(|_| {}), &server.url("/"), &Arc::default(), &mut |_, n| {
        reserved = n;
        Err(Box::new(refusal.clone()))
    });
    assert_eq!(error.unwrap_err().failure(), refusal);
    assert_eq!(reserved, 12_345);
}

#[test]
fn a_caller_who_leaves_frees_its_thread_at_once() {
    for phase in ["headers", "body"] {
        let cancelled = Arc::new(AtomicBool::new(false));
        let leave = cancelled.clone();
        let server = Server::start(move |_, s| {
            if phase == "body" {
                write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")?;
            }
            leave.store(true, Ordering::SeqCst);
            read_head(s);
            Ok(Then::Close)
        });
        let start = Instant::now();
        assert_eq!(
            code(get_with(&fetcher(|_| {}), &server.url("/"), &cancelled, &mut |_, _| Ok(()))),
            "cancelled",
            "{phase}"
        );
        assert!(start.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn headers_without_end_are_cut() {
    let one = Server::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nX: ")?;
        loop {
            s.write_all(&[b'x'; 4096])?;
        }
    });
    assert_eq!(code(get(&fetcher(|_| {}), &one.url("/"))), "headers_too_large");
    let many = Server::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\n")?;
        loop {
            write!(s, "X: y\r\n")?;
        }
    });
    let numerous = Server::start(|_, s| reply(s, "200 OK", &"X: y\r\n".repeat(500), b"picture"));
    for server in [many, numerous] {
        let error = get(&fetcher(|_| {}), &server.url("/")).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.class()),
            ("headers_too_large", FailureClass::Reject),
            "{error:?}"
        );
    }
    let preliminary = Server::start(|_, s| {
        loop {
            write!(s, "HTTP/1.1 103 Early Hints\r\n\r\n")?;
        }
    });
    let error =
        get(&fetcher(|s| s.total_timeout = Duration::from_millis(500)), &preliminary.url("/"))
            .unwrap_err();
    assert!(matches!(error.class(), FailureClass::Reject | FailureClass::Retry), "{error:?}");
}

#[test]
fn a_preliminary_answer_in_front_of_a_large_picture_changes_nothing() {
    let picture = vec![7; 500_000];
    for preliminary in [
        "100 Continue\r\n\r\n",
        "102 Processing\r\n\r\n",
        "103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    ] {
        let body = picture.clone();
        let server = Server::start(move |_, s| {
            let head = format!(
                "HTTP/1.1 {preliminary}HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            s.write_all(&[head.as_bytes(), &body].concat())?;
            Ok(Then::Keep)
        });
        let fetcher = fetcher(|_| {});
        // how much of it is read at once differs
        for _ in 0..20 {
            assert_eq!(bytes(get(&fetcher, &server.url("/"))), picture, "{preliminary}");
        }
    }
}

#[test]
fn what_does_not_speak_http_is_refused() {
    let ssh = Server::start(|_, s| {
        write!(s, "SSH-2.0-OpenSSH_9.2\r\n")?;
        Ok(Then::Close)
    });
    let error = get(&fetcher(|_| {}), &ssh.url("/")).unwrap_err();
    assert_eq!(
        (error.code().as_str(), error.class()),
        ("not_http", FailureClass::Reject),
        "{error:?}"
    );
}

#[test]
fn a_connection_broken_off_is_tried_again_later() {
    let before = Server::start(|_, _| Ok(Then::Close));
    let during = Server::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")?;
        Ok(Then::Close)
    });
    for server in [before, during] {
        let error = get(&fetcher(|_| {}), &server.url("/")).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.class()),
            ("reset", FailureClass::Retry),
            "{error:?}"
        );
    }
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    assert_eq!(code(get(&fetcher(|_| {}), &format!("http://{nobody}/"))), "connect");
}
