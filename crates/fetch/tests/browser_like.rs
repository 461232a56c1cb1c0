//! Promises about hosts that bend HTTP: what browsers show is fetched, where it has one meaning.

mod test_server;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use pg_caption_fetch::RequestHeaders;
use std::io::Write;
use std::sync::Arc;
use test_server::*;

const PICTURE: &[u8] = b"a picture of some bytes";

/// Answers each connection's first request with these bytes, then closes it.
fn raw(answer: Vec<u8>) -> TestServer {
    TestServer::start(move |_, s| {
        s.write_all(&answer)?;
        Ok(Then::Close)
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n0\r\n\r\n"].concat()
}

#[test]
fn heads_are_read_as_browsers_read_them() {
    let length = format!("Content-Length: {}", PICTURE.len());
    for head in [
        format!("HTTP/1.1 200 OK\r\nX Powered By: PHP\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\n{length}\r\nX-Note: one\r\n two\r\n\tthree"),
        format!("HTTP/1.1 200 OK\r\nContent-Length : {}", PICTURE.len()),
        format!("HTTP/1.1 200 OK\r\nWarning 199\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\n: empty\r\n{length}"),
        "ICY 200 OK\r\nicy-name: shop".to_owned(),
        format!("HTTP/1.1 200 OK\nX Powered By: PHP\n{length}"),
        format!("HTTP/1.1 103 Early Hints\r\nX Y: z\r\n\r\nHTTP/1.1 200 OK\r\nA B: c\r\n{length}"),
        "HTTP/1.1 200 OK\r\nX Powered By: PHP".to_owned(),
    ] {
        let server = raw([head.as_bytes(), b"\r\n\r\n", PICTURE].concat());
        let fetcher = fetcher(|_| {});
        for n in 1..=2 {
            assert_eq!(bytes(get(&fetcher, &server.url("/"))), PICTURE, "{head:?}, fetch {n}");
        }
        // Once as usual and once leniently; the second fetch knows the host.
        assert_eq!(server.connections(), 3, "{head:?}");
    }
    let chunks = ["HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nA B: c\r\n\r\n".as_bytes()];
    let server = raw([chunks[0], &chunked(PICTURE)].concat());
    assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))), PICTURE);
}

#[test]
fn what_is_not_http_stays_refused() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "<html>hello</html>\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\nContent-Length: 6\r\n\r\n123456",
    ] {
        let server = raw(answer.into());
        assert_eq!(code(get(&fetcher(|_| {}), &server.url("/"))), "not_http", "{answer:?}");
        assert_eq!(server.connections(), 2, "{answer:?}");
    }
    let endless = TestServer::start(|_, s| {
        s.write_all(b"HTTP/1.1 200 OK\r\nA B: c\r\n")?;
        loop {
            s.write_all(&[b'x'; 1024])?;
        }
    });
    assert_eq!(code(get(&fetcher(|_| {}), &endless.url("/"))), "headers_too_large");
}

// The lines hide a second response in the first one, for a client that reads them differently.
#[test]
fn a_lenient_head_answers_one_request_only() {
    let hidden = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake";
    for line in ["Content-Length : 4", "Content Length: 4", "X: y\r\n Content-Length: 4"] {
        let server = TestServer::start(move |request, s| {
            write!(s, "HTTP/1.1 200 OK\r\nA B: c\r\n{line}\r\n\r\n")?;
            s.write_all(&request.path.as_bytes()[1..5])?;
            s.write_all(hidden)?;
            Ok(Then::Close)
        });
        let fetcher = fetcher(|_| {});
        for path in ["/one1", "/two2", "/six6"] {
            let got = bytes(get(&fetcher, &server.url(path)));
            assert!(got.starts_with(&path.as_bytes()[1..]), "{line}: {got:?}");
        }
        assert_eq!(server.connections(), 4, "{line}");
    }
}

#[test]
fn encodings_are_removed_as_by_browsers() {
    let twice = gzip(&zlib(PICTURE));
    for (headers, body) in [
        ("Transfer-Encoding: gzip, chunked", chunked(&gzip(PICTURE))),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", chunked(&gzip(PICTURE))),
        ("Transfer-Encoding: deflate, chunked", chunked(&zlib(PICTURE))),
        ("Content-Encoding: deflate", zlib(PICTURE)),
        ("Content-Encoding: deflate", deflate(PICTURE)),
        ("Content-Encoding: deflate, gzip", twice.clone()),
        ("Content-Encoding: deflate\r\nTransfer-Encoding: gzip, chunked", chunked(&twice)),
    ] {
        let server =
            raw([format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").as_bytes(), &body].concat());
        assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))), PICTURE, "{headers}");
    }
    let jpeg = b"\xff\xd8\xff\xe0 not encoded, whatever the header says";
    for headers in ["Content-Encoding: deflate", "Content-Encoding: gzip, gzip"] {
        let server =
            raw([format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").as_bytes(), jpeg].concat());
        assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))), jpeg, "{headers}");
    }
    for (headers, body) in [
        ("Content-Encoding: deflate", b"neither".to_vec()),
        ("Transfer-Encoding: br, chunked", chunked(PICTURE)),
        ("Content-Encoding: gzip, gzip, gzip, gzip", gzip(PICTURE)),
    ] {
        let server =
            raw([format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").as_bytes(), &body].concat());
        assert_eq!(code(get(&fetcher(|_| {}), &server.url("/"))), "bad_encoding", "{headers}");
    }
    let bomb = deflate(&vec![0; 20_000_000]);
    let server =
        TestServer::start(move |_, s| reply(s, "200 OK", "Content-Encoding: deflate\r\n", &bomb));
    assert_eq!(code(get(&fetcher(|_| {}), &server.url("/"))), "too_large");
}

#[test]
fn a_whole_picture_has_an_unusual_status() {
    let length = PICTURE.len();
    let range = |range: String| format!("Content-Range: {range}\r\n");
    for (status, headers) in [
        ("201 Created", String::new()),
        ("203 Non-Authoritative", String::new()),
        ("206 Partial Content", range(format!("bytes 0-{}/{length}", length - 1))),
    ] {
        let server = TestServer::start(move |_, s| reply(s, status, &headers, PICTURE));
        assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/"))), PICTURE, "{status}");
    }
    for (headers, body) in [
        (range(format!("bytes 0-{}/{}", length - 1, length + 1)), PICTURE),
        (range(format!("bytes 1-{length}/{}", length + 1)), PICTURE),
        (range(format!("bytes 0-{length}/{}", length + 1)), PICTURE),
        (range("bytes 0-1/*".into()), PICTURE),
        (String::new(), PICTURE),
    ] {
        let shown = headers.clone();
        let server = TestServer::start(move |_, s| reply(s, "206 Partial Content", &headers, body));
        assert_eq!(code(get(&fetcher(|_| {}), &server.url("/"))), "http_206", "{shown}");
    }
    let empty = TestServer::start(|_, s| reply(s, "201 Created", "", b""));
    assert_eq!(code(get(&fetcher(|_| {}), &empty.url("/"))), "http_201");
}

/// Redirects to the same URL and sets a cookie, until a request has it.
fn cookie_wall(wanted: &'static str) -> TestServer {
    TestServer::start(move |request, s| match request.header("Cookie") {
        Some(cookie) if cookie.contains(wanted) => reply(s, "200 OK", "", cookie.as_bytes()),
        _ => reply(
            s,
            "302 Found",
            &format!(
                "Location: {}\r\nSet-Cookie: old=1; Max-Age=0\r\nSet-Cookie: seen=yes; Path=/\r\n",
                request.path
            ),
            b"",
        ),
    })
}

#[test]
fn a_redirect_to_itself_gets_its_cookie_once() {
    let server = cookie_wall("seen=yes");
    assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/p.jpg"))), b"seen=yes");
    assert_eq!(server.requests().len(), 2);
    // The next fetch knows nothing of it.
    let again = fetcher(|_| {});
    get(&again, &server.url("/p.jpg")).unwrap();
    get(&again, &server.url("/p.jpg")).unwrap();
    assert_eq!(server.requests().len(), 6);

    let server = cookie_wall("another one");
    let error = get(&fetcher(|_| {}), &server.url("/p.jpg")).unwrap_err();
    let failure = error.failure();
    assert_eq!((failure.code.as_str(), server.requests().len()), ("redirect_loop", 2));
    let text = format!("{} {}", failure.detail.unwrap(), failure.hint.unwrap());
    assert!(text.contains("cookie") && text.contains("fetch_headers_file"), "{text}");

    let plain =
        TestServer::start(|r, s| reply(s, "302 Found", &format!("Location: {}\r\n", r.path), b""));
    let failure = get(&fetcher(|_| {}), &plain.url("/p.jpg")).unwrap_err().failure();
    assert_eq!(failure.code, "redirect_loop");
    assert!(!failure.hint.unwrap().contains("fetch_headers_file"), "it set no cookie");
    assert_eq!(plain.requests().len(), 1);
}

// A detour through another page, which sets the cookie, and one through another host, which must
// not get it.
#[test]
fn a_cookie_stays_at_its_origin() {
    let other = TestServer::start(|r, s| {
        if r.header("Cookie").is_some() {
            return reply(s, "200 OK", "", b"the cookie came along");
        }
        let back = r.path.trim_start_matches("/back?");
        reply(s, "302 Found", &format!("Location: {back}\r\n"), b"")
    });
    let away = other.url("/back");
    let server = TestServer::start(move |request, s| {
        let has_cookie = request.header("Cookie") == Some("a=b");
        let here = format!("http://{}{}", request.header("Host").unwrap(), request.path);
        match request.path.as_str() {
            "/p.jpg" if has_cookie => reply(s, "200 OK", "", PICTURE),
            "/p.jpg" => reply(s, "302 Found", "Location: /consent\r\n", b""),
            "/consent" => reply(s, "303 See Other", "Location: /p.jpg\r\nSet-Cookie: a=b\r\n", b""),
            _ => reply(
                s,
                "302 Found",
                &format!("Location: {away}?{here}\r\nSet-Cookie: a=b\r\n"),
                b"",
            ),
        }
    });
    assert_eq!(bytes(get(&fetcher(|_| {}), &server.url("/p.jpg"))), PICTURE);
    assert_eq!(code(get(&fetcher(|_| {}), &server.url("/elsewhere"))), "redirect_loop");
    assert_eq!(other.requests().len(), 1);
}

fn headers(entries: serde_json::Value) -> Arc<RequestHeaders> {
    Arc::new(RequestHeaders::parse(entries.to_string().as_bytes()).unwrap())
}

#[test]
fn chosen_headers_go_to_their_origin_only() {
    let echo = |r: &ServerRequest, s: &mut std::net::TcpStream| {
        reply(s, "200 OK", "", r.head.to_ascii_lowercase().as_bytes())
    };
    let other = TestServer::start(echo);
    let away = other.url("/a");
    let server = TestServer::start(move |r, s| match r.path.as_str() {
        "/p/away" => reply(s, "302 Found", &format!("Location: {away}\r\n"), b""),
        "/p/near" => reply(s, "302 Found", "Location: /p/a\r\n", b""),
        "/p/out" => reply(s, "302 Found", "Location: /a\r\n", b""),
        _ => echo(r, s),
    });
    let given = headers(serde_json::json!([{
        "url": server.url("/p/"),
        "headers": {
            "Referer": "https://shop.example/",
            "user-agent": "Mozilla/5.0",
            "Authorization": "Bearer s3cret",
            "Cookie": "session=s3cret"
        }
    }]));
    let fetcher = fetcher(|settings| settings.headers = given);
    let head = |url: &str| String::from_utf8(bytes(get(&fetcher, url))).unwrap();
    for path in ["/p/a", "/p/near", "/p/../p/a"] {
        let head = head(&server.url(path));
        for line in [
            "referer: https://shop.example/",
            "user-agent: mozilla/5.0",
            "authorization: bearer s3cret",
            "cookie: session=s3cret",
        ] {
            assert_eq!(head.matches(line).count(), 1, "{path}: {line} in {head}");
        }
        assert_eq!(head.matches("user-agent").count(), 1, "{path}: {head}");
    }
    for url in [
        server.url("/a"),
        server.url("/p/out"),
        server.url("/p/away"),
        server.url("/p/..%2fa"),
        other.url("/p/a"),
        server.url("/p/a").replace("127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        let Ok(got) = get(&fetcher, &url) else { continue };
        let head = String::from_utf8(bytes(Ok(got))).unwrap();
        for unwanted in ["referer", "mozilla", "authorization", "cookie", "s3cret"] {
            assert!(!head.contains(unwanted), "{url}: {head}");
        }
    }
    assert_eq!(other.requests().len(), 2, "the redirect and the other origin were asked");
}

#[test]
fn chosen_headers_reach_no_failure() {
    let server = TestServer::start(|r, s| match r.path.as_str() {
        "/loop" => reply(s, "302 Found", "Location: /loop\r\nSet-Cookie: a=b\r\n", b""),
        "/bad" => {
            s.write_all(b"no HTTP\r\n\r\n")?;
            Ok(Then::Close)
        }
        _ => reply(s, "403 Forbidden", "", b""),
    });
    let given = headers(serde_json::json!([
        {"url": server.url("/"), "headers": {"Cookie": "s3cret=1", "Authorization": "s3cret"}}
    ]));
    let fetcher = fetcher(|settings| settings.headers = given);
    for path in ["/loop", "/bad", "/403"] {
        let error = get(&fetcher, &server.url(path)).unwrap_err();
        let shown = format!("{error:?} {error} {:?} {fetcher:?}", error.failure());
        assert!(!shown.contains("s3cret"), "{path}: {shown}");
        assert!(path != "/403" || shown.contains("pg_caption.fetch_headers_file"), "{shown}");
    }
}

#[test]
fn a_refusal_names_what_is_odd_about_the_url() {
    let server = TestServer::start(|_, s| reply(s, "403 Forbidden", "", b""));
    for (path, terms) in [
        (
            "/a.jpg?X-Amz-Date=20240105T100000Z&X-Amz-Expires=60&X-Amz-Signature=s3cret",
            ["05 Jan 2024 10:01:00", "X-Amz-Expires"],
        ),
        ("/a.jpg?Expires=1704448800&Signature=s3cret", ["expired", "05 Jan 2024 10:00:00"]),
        ("/a.jpg?sv=1&se=2024-01-05T10%3A00%3A00Z&sig=s3cret", ["expired", "(\"se\")"]),
        ("/a?w=1&amp;h=2", ["&amp;", "replace("]),
        ("/a\u{200b}.jpg", ["U+200B", "invisible"]),
        ("/a.jpg,", ["list", "split_part"]),
    ] {
        let failure = get(&fetcher(|_| {}), &server.url(path)).unwrap_err().failure();
        let hint = failure.hint.unwrap();
        assert_eq!(failure.code, "http_403");
        assert!(terms.iter().all(|term| hint.contains(term)), "{path}: {hint}");
        assert!(!hint.contains("s3cret"), "{path}: {hint}");
    }
    let far = "/a.jpg?Expires=4000000000&Signature=s";
    let hint = get(&fetcher(|_| {}), &server.url(far)).unwrap_err().failure().hint.unwrap();
    assert!(hint.contains("signing in") && !hint.contains("expired"), "{hint}");
}
