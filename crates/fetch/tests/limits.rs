//! Promises about bytes and time, whatever a server sends and however slowly.

mod test_server;

use pg_caption_fetch::{FetchError, FetchRequest, FetchResult, FetchStage, RoomError};
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
fn a_body_arrives_whole_with_its_validators() {
    let server = TestServer::start(|_, s| {
        reply(
            s,
            "200 OK",
            "ETag: \"v1\"\r\nLast-Modified: Mon, 05 Jan 2026 10:00:00 GMT\r\n",
            &[7; 300_000],
        )
    });
    let fetcher = fetcher(|_| {});
    for _ in 0..3 {
        let Ok(FetchResult::Body { bytes, etag, last_modified, final_url, .. }) =
            get(&fetcher, &server.url("/p.jpg?key=secret"))
        else {
            panic!()
        };
        assert_eq!(bytes, vec![7; 300_000]);
        assert_eq!(
            (etag.as_deref(), last_modified.as_deref()),
            (Some("\"v1\""), Some("Mon, 05 Jan 2026 10:00:00 GMT"))
        );
        assert_eq!(final_url, server.url("/p.jpg?key=…"));
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_unchanged_picture_is_not_downloaded_again() {
    let server = TestServer::start(|request, s| match request.header("If-None-Match") {
        Some("\"v1\"") => {
            write!(s, "HTTP/1.1 304 Not Modified\r\n\r\n")?;
            Ok(Then::Keep)
        }
        _ => reply(s, "200 OK", "", b"new"),
    });
    let fetcher = fetcher(|_| {});
    let url = server.url("/p.jpg");
    let conditional = |etag| {
        let request = FetchRequest {
            url: &url,
            etag,
            last_modified: None,
            deadline: Instant::now() + TIMEOUT,
            cancelled: &Arc::default(),
            displaced: &Arc::default(),
            client: CLIENT,
        };
        fetch(&fetcher, &request, &mut |_, _| Ok(()))
    };
    assert_eq!(conditional(Some("\"v1\"")).unwrap(), FetchResult::NotModified);
    assert_eq!(bytes(conditional(Some("\"v0\""))), b"new");
    assert_eq!(bytes(conditional(Some("not\na header"))), b"new");
}

#[test]
fn an_unrequested_304_is_tried_again() {
    let server = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 304 Not Modified\r\n\r\n")?;
        Ok(Then::Keep)
    });
    let failure = get(&fetcher(|_| {}), &server.url("/")).unwrap_err().failure();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Retry, "unexpected_304"));
}

#[test]
fn requests_contain_the_user_agent_and_no_state() {
    let server =
        TestServer::start(|r, s| reply(s, "200 OK", "Set-Cookie: a=b\r\n", r.head.as_bytes()));
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
fn a_gzip_body_is_decompressed() {
    let body = gzip((0..50).map(|n| vec![n; 1000]));
    for name in ["gzip", "GZIP", "x-gzip", "identity, gzip", "utf-8, gzip", "aws-chunked,gzip"] {
        let (body, header) = (body.clone(), format!("Content-Encoding: {name}\r\n"));
        let server = TestServer::start(move |_, s| reply(s, "200 OK", &header, &body));
        let got = bytes(get(&fetcher(|_| {}), &server.url("/")));
        assert_eq!((got.len(), got[49_999]), (50_000, 49), "{name}");
    }
}

#[test]
fn a_gzip_bomb_ends_at_the_limit() {
    let bomb = gzip((0..300).map(|_| vec![0; 1 << 20]));
    assert!(bomb.len() < 5_000_000);
    let server =
        TestServer::start(move |_, s| reply(s, "200 OK", "Content-Encoding: gzip\r\n", &bomb));
    let fetcher = fetcher(|s| s.max_bytes = 10_000_000);
    let mut reserved = Vec::new();
    let error = get_with(&fetcher, &server.url("/"), &Arc::default(), &mut |_, room| {
        assert_eq!(room.most, 10_000_000);
        reserved.push(room.needed);
        Ok(())
    });
    assert!(
        matches!(error, Err(FetchError::TooLarge { limit: 10_000_000, declared: None, .. })),
        "{error:?}"
    );
    assert!(reserved.is_sorted() && reserved.len() > 10, "it grows with what arrives");
    assert!(reserved.iter().all(|needed| *needed <= 10_000_000), "{reserved:?}");
}

#[test]
fn endless_empty_gzip_ends_at_the_limit() {
    let empty = gzip(std::iter::empty());
    let server = TestServer::start(move |_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")?;
        loop {
            s.write_all(&empty.repeat(1000))?;
        }
    });
    assert_eq!(code(get(&fetcher(|_| {}), &server.url("/"))), "too_large");
}

#[test]
fn invalid_encodings_are_refused() {
    for (encoding, body) in
        [("gzip", &b"no gzip at all"[..]), ("br", b"x"), ("gzip, gzip", b"x"), ("deflate", b"x")]
    {
        let header = format!("Content-Encoding: {encoding}\r\n");
        let server = TestServer::start(move |_, s| reply(s, "200 OK", &header, body));
        let error = get(&fetcher(|_| {}), &server.url("/")).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.class()),
            ("bad_encoding", FailureClass::Reject),
            "{encoding}: {error:?}"
        );
    }
}

#[test]
fn a_complete_but_short_gzip_body_is_rejected() {
    let whole = gzip((0..50).map(|n| vec![n; 1000]));
    for (path, code, class) in [
        ("/announced", "image_truncated", FailureClass::Reject),
        ("/chunked", "image_truncated", FailureClass::Reject),
        ("/until-closed", "reset", FailureClass::Retry),
    ] {
        let cut = whole[..whole.len() / 2].to_vec();
        let server = TestServer::start(move |r, s| {
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
                // Whether that was everything is unknown.
                _ => s.write_all(&cut)?,
            }
            Ok(Then::Close)
        });
        let error = get(&fetcher(|_| {}), &server.url(path)).unwrap_err();
        assert_eq!((error.code().as_str(), error.class()), (code, class), "{path}: {error:?}");
    }
}

#[test]
fn a_plain_picture_is_accepted_under_any_coding() {
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
            let server = TestServer::start(move |_, s| reply(s, "200 OK", &header, &body));
            assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))), picture, "{coding}");
        }
    }
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let announced = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n")?;
        Ok(Then::Keep)
    });
    let error = get_with(&fetcher(|_| {}), &announced.url("/"), &Arc::default(), &mut |_, _| {
        panic!("nothing must be reserved")
    });
    assert!(
        matches!(
            error,
            Err(FetchError::TooLarge { limit: 1_000_000, declared: Some(1_000_001), .. })
        ),
        "{error:?}"
    );

    let endless = TestServer::start(|_, s| {
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

    let exact = TestServer::start(|_, s| reply(s, "200 OK", "", &vec![1; 1_000_000]));
    assert_eq!(bytes(get(&fetcher(|_| {}), &exact.url("/"))).len(), 1_000_000);
}

#[test]
fn wrong_content_lengths_are_detected() {
    let long = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")?;
        Ok(Then::Close)
    });
    let error = get(&fetcher(|_| {}), &long.url("/")).unwrap_err();
    assert_eq!((error.code().as_str(), error.class()), ("reset", FailureClass::Retry), "{error:?}");

    // Surplus bytes do not answer the next request on that connection.
    let short = TestServer::start(|_, s| {
        write!(
            s,
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal\
             HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake"
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
        let server = TestServer::start(move |_, s| {
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

/// Writes `byte`s slowly until the connection closes.
fn drip(s: &mut impl Write, byte: &[u8]) -> std::io::Result<Then> {
    loop {
        s.write_all(byte)?;
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_slow_server_ends_at_the_total_limit() {
    for part in ["status", "headers", "body", "chunks", "nothing"] {
        let server = TestServer::start(move |_, s| {
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
        // A status line of H is not HTTP, which may be detected before the limit.
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
fn a_dripping_body_ends_at_the_smallest_rate() {
    for part in ["body", "chunks", "stopped"] {
        let server = TestServer::start(move |_, s| {
            match part {
                "chunks" => write!(s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?,
                _ => write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx")?,
            }
            if part == "stopped" {
                read_head(s);
            }
            drip(s, if part == "chunks" { b"1\r\nx\r\n" } else { b"H" })
        });
        let fetcher = fetcher(|s| s.rate_window = Duration::from_millis(300));
        let error = get(&fetcher, &server.url("/")).unwrap_err();
        assert!(matches!(error, FetchError::TooSlow { .. }), "{part}: {error:?}");
        assert_eq!((error.code().as_str(), error.class()), ("timeout", FailureClass::Retry));
        let failure = error.failure();
        assert!(failure.detail.unwrap().contains("fewer than 40960 bytes"));
        assert!(failure.hint.unwrap().contains("pg_caption.fetch_timeout"));
    }
}

#[test]
fn a_slow_but_steady_body_arrives() {
    let server = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")?;
        for _ in 0..60 {
            s.write_all(&[7; 1000])?;
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(Then::Keep)
    });
    let fetcher = fetcher(|s| {
        (s.rate_window, s.window_bytes) = (Duration::from_millis(300), 1000);
    });
    assert_eq!(bytes(get(&fetcher, &server.url("/"))).len(), 60_000);
}

#[test]
fn waiting_for_memory_is_not_slowness() {
    let server = TestServer::start(|_, s| reply(s, "200 OK", "", &vec![1; 400_000]));
    let window = Duration::from_millis(200);
    let fetcher = fetcher(|s| s.rate_window = window);
    let got = get_with(&fetcher, &server.url("/"), &Arc::default(), &mut |_, _| {
        let until = Instant::now() + 2 * window;
        while Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    });
    assert_eq!(bytes(got).len(), 400_000);
}

#[test]
fn an_announced_length_reserves_nothing() {
    let server = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\nx")?;
        drip(s, b"x")
    });
    let fetcher = fetcher(|s| s.total_timeout = Duration::from_millis(500));
    let mut reserved = 0;
    let got = get_with(&fetcher, &server.url("/"), &Arc::default(), &mut |_, room| {
        reserved = room.needed;
        Ok(())
    });
    assert_eq!(code(got), "timeout");
    assert!(reserved < 300_000, "{reserved}");
}

#[test]
fn a_displaced_body_ends_soon() {
    let displaced = Arc::new(AtomicBool::new(false));
    let displace = displaced.clone();
    let server = TestServer::start(move |_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")?;
        displace.store(true, Ordering::SeqCst);
        read_head(s);
        Ok(Then::Close)
    });
    let url = server.url("/");
    let request = FetchRequest {
        url: &url,
        etag: None,
        last_modified: None,
        deadline: Instant::now() + TIMEOUT,
        cancelled: &Arc::default(),
        displaced: &displaced,
        client: CLIENT,
    };
    let error = fetch(&fetcher(|_| {}), &request, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, FetchError::Displaced { .. }), "{error:?}");
    assert_eq!(error.class(), FailureClass::Host);
}

#[test]
fn a_silent_server_ends_at_the_answer_limit() {
    let server = TestServer::start(|r, s| {
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
fn validators_are_not_sent_after_a_redirect() {
    let server = TestServer::start(|r, s| {
        match (r.path.as_str(), r.header("If-None-Match"), r.header("If-Modified-Since")) {
            ("/moved.jpg", ..) => reply(s, "302 Found", "Location: /other.jpg\r\n", b""),
            // Every conditional request gets 304.
            (_, None, None) => reply(s, "200 OK", "ETag: \"1\"\r\n", b"another picture"),
            _ => {
                write!(s, "HTTP/1.1 304 Not Modified\r\n\r\n")?;
                Ok(Then::Keep)
            }
        }
    });
    let url = server.url("/moved.jpg");
    let request = FetchRequest {
        url: &url,
        etag: Some("\"1\""),
        last_modified: Some("Mon, 05 Jan 2026 10:00:00 GMT"),
        deadline: Instant::now() + TIMEOUT,
        cancelled: &Arc::default(),
        displaced: &Arc::default(),
        client: CLIENT,
    };
    let Ok(FetchResult::Body { bytes, etag, .. }) =
        fetch(&fetcher(|_| {}), &request, &mut |_, _| Ok(()))
    else {
        panic!("it was not fetched")
    };
    assert_eq!((bytes.as_slice(), etag), (&b"another picture"[..], None));
}

#[test]
fn bytes_after_a_gzip_body_are_ignored() {
    let (first, second) = (gzip([vec![1; 1000]].into_iter()), gzip([vec![2; 1000]].into_iter()));
    for (trailer, length) in
        [(vec![0; 600], 1000), (b"<!-- cached -->".to_vec(), 1000), (second, 2000)]
    {
        let body = [first.clone(), trailer].concat();
        let server =
            TestServer::start(move |_, s| reply(s, "200 OK", "Content-Encoding: gzip\r\n", &body));
        assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))).len(), length);
    }
}

#[test]
fn unknown_lengths_reserve_at_most_the_budget() {
    let server = TestServer::start(|r, s| {
        write!(s, "HTTP/1.1 200 OK\r\n\r\n")?;
        s.write_all(&vec![7; if r.path == "/small" { 900 } else { 1100 }])?;
        Ok(Then::Close)
    });
    let fetcher = fetcher(|s| s.room = 1000);
    let mut reserved = Vec::new();
    let mut ask = |path: &str| {
        get_with(&fetcher, &server.url(path), &Arc::default(), &mut |_, room| {
            reserved.push((room.needed, room.most));
            Ok(())
        })
    };
    assert_eq!(bytes(ask("/small")).len(), 900);
    let failure = ask("/large").unwrap_err().failure();
    assert_eq!((failure.code.as_str(), failure.class), ("too_much_memory", FailureClass::Reject));
    assert_eq!(reserved, [(1000, 1000), (1000, 1000)]);
}

#[test]
fn a_short_deadline_is_reported_as_the_caller_s() {
    let server = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\n\r\n")?;
        drip(s, b"x")
    });
    let request = FetchRequest {
        url: &server.url("/"),
        etag: None,
        last_modified: None,
        deadline: Instant::now() + Duration::from_millis(300),
        cancelled: &Arc::default(),
        displaced: &Arc::default(),
        client: CLIENT,
    };
    let error = fetch(&fetcher(|_| {}), &request, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, FetchError::Timeout { stage: FetchStage::Caller, .. }), "{error:?}");
    assert!(error.failure().hint.unwrap().contains("pg_caption.timeout"));
}

#[test]
fn waiting_for_memory_extends_the_limit() {
    let server = TestServer::start(|_, s| reply(s, "200 OK", "", b"late but whole"));
    let limit = Duration::from_millis(400);
    let fetcher = fetcher(|s| s.total_timeout = limit);
    let got = get_with(&fetcher, &server.url("/"), &Arc::default(), &mut |_, _| {
        // The budget is full for longer than the total limit.
        let until = Instant::now() + 2 * limit;
        while Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    });
    assert_eq!(bytes(got), b"late but whole");
}

#[test]
fn a_refused_reservation_is_the_failure() {
    let server = TestServer::start(|_, s| reply(s, "200 OK", "", &[0; 12_345]));
    let refusal =
        Failure::new(FailureClass::Reject, "too_large", "needs 12345 bytes, the budget is 1000")
            .hint("See \"pg_caption.memory\".");
    let mut reserved = 0;
    let error = get_with(&fetcher(|_| {}), &server.url("/"), &Arc::default(), &mut |_, room| {
        reserved = room.needed;
        Err(RoomError::Refused(Box::new(refusal.clone())))
    });
    assert_eq!(error.unwrap_err().failure(), refusal);
    assert_eq!(reserved, 12_345);
}

#[test]
fn cancellation_frees_the_thread_soon() {
    for phase in ["headers", "body"] {
        let cancelled = Arc::new(AtomicBool::new(false));
        let cancel = cancelled.clone();
        let server = TestServer::start(move |_, s| {
            if phase == "body" {
                write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")?;
            }
            cancel.store(true, Ordering::SeqCst);
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
fn endless_headers_are_refused() {
    let one = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\nX: ")?;
        loop {
            s.write_all(&[b'x'; 4096])?;
        }
    });
    assert_eq!(code(get(&fetcher(|_| {}), &one.url("/"))), "headers_too_large");
    let many = TestServer::start(|_, s| {
        write!(s, "HTTP/1.1 200 OK\r\n")?;
        loop {
            write!(s, "X: y\r\n")?;
        }
    });
    let numerous =
        TestServer::start(|_, s| reply(s, "200 OK", &"X: y\r\n".repeat(500), b"picture"));
    for server in [many, numerous] {
        let error = get(&fetcher(|_| {}), &server.url("/")).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.class()),
            ("headers_too_large", FailureClass::Reject),
            "{error:?}"
        );
    }
    let preliminary = TestServer::start(|_, s| {
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
fn preliminary_responses_are_skipped() {
    let picture = vec![7; 500_000];
    for preliminary in [
        "100 Continue\r\n\r\n",
        "102 Processing\r\n\r\n",
        "103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    ] {
        let body = picture.clone();
        let server = TestServer::start(move |_, s| {
            let head = format!(
                "HTTP/1.1 {preliminary}HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            s.write_all(&[head.as_bytes(), &body].concat())?;
            Ok(Then::Keep)
        });
        let fetcher = fetcher(|_| {});
        // The amount of each read varies.
        for _ in 0..20 {
            assert_eq!(bytes(get(&fetcher, &server.url("/"))), picture, "{preliminary}");
        }
    }
}

#[test]
fn other_protocols_are_refused() {
    let ssh = TestServer::start(|_, s| {
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
fn a_broken_connection_is_retried_later() {
    let before = TestServer::start(|_, _| Ok(Then::Close));
    let during = TestServer::start(|_, s| {
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
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    assert_eq!(code(get(&fetcher(|_| {}), &format!("http://{closed}/"))), "connect");
}
