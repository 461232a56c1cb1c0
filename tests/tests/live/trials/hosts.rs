//! What URLs and hosts do wrong.

use super::{Trial, Trials};
use pg_caption_tests::{ServerAnswer, TestServer, shared_database};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// The URL of a new server whose every path has this answer. Failures of one host pause it, and
/// must not concern another trial.
fn alone(servers: &mut Vec<TestServer>, answer: ServerAnswer) -> String {
    let server = TestServer::start();
    let url = server.serve("/picture.jpg", answer);
    servers.push(server);
    url
}

/// The URL of a server that sends these bytes to every client.
fn raw_server(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/picture.jpg", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).and_then(|_| stream.write_all(bytes));
        }
    });
    url
}

/// Tries URLs and hosts.
pub fn run(trials: &mut Trials) {
    let db = shared_database();
    let mut servers = Vec::new();
    let mut found: Vec<Trial> = Vec::new();
    for (code, status) in [
        ("http_202", 202),
        ("http_204", 204),
        ("http_401", 401),
        ("http_403", 403),
        ("http_404", 404),
        ("http_408", 408),
        ("http_410", 410),
        ("http_420", 420),
        ("http_423", 423),
        ("http_425", 425),
        ("http_451", 451),
        ("http_500", 500),
        ("http_502", 502),
        ("unexpected_304", 304),
    ] {
        found.push(Trial::new(code, alone(&mut servers, ServerAnswer::status(status))));
    }
    let pause = |status| ServerAnswer::status(status).header("Retry-After", "60");
    let picture = || ServerAnswer::picture(1);
    let not_gzip = ServerAnswer::body(
        b"\x1F\x8B\x08\0\0\0\0\0\0\x03\x07 no deflate block".to_vec(),
        "image/jpeg",
    );
    let loops = ServerAnswer::status(302).header("Location", "/picture.jpg");
    for (code, answer) in [
        ("bad_encoding", not_gzip.header("Content-Encoding", "gzip")),
        ("headers_too_large", picture().header("X-Large", &"x".repeat(1 << 20))),
        ("redirect_loop", loops),
        ("reset", ServerAnswer::hang_up()),
    ] {
        found.push(Trial::new(code, alone(&mut servers, answer)));
    }
    // After the first answer the host is paused.
    for (code, status) in [("http_429", 429), ("http_503", 503)] {
        let urls = [(); 2].map(|()| alone(&mut servers, pause(status)));
        found.push(Trial { code, urls });
    }
    let cooling = found.last().expect("the trial of 503").urls[0].replace("picture", "other");
    let chain = TestServer::start();
    for step in 0..20 {
        let next = ServerAnswer::status(302).header("Location", &format!("/{}.jpg", step + 1));
        chain.serve(&format!("/{step}.jpg"), next);
    }
    found.extend([
        Trial::new("host_cooling", cooling),
        Trial::new("too_many_redirects", chain.url("/0.jpg")),
        Trial::new("connect", "http://127.0.0.2:1/picture.jpg"),
        Trial::new(
            "tls",
            raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n").replace("http:", "https:"),
        ),
        Trial::new("not_http", raw_server(b"SSH-2.0-OpenSSH_9.6\r\n")),
        Trial::new("bad_url", "/picture.jpg"),
        Trial::new("bad_scheme", "ftp://127.0.0.1/picture.jpg"),
        Trial::new(
            "url_credentials",
            chain.url("/0.jpg").replace("http://", "http://user:password@"),
        ),
        Trial::new("forbidden_address", "http://169.254.169.254/latest"),
    ]);
    let mut session = db.session();
    session.run("SET pg_caption.timeout = '5s'");
    trials.run(&mut session, &found);
    let slow = alone(&mut servers, picture().taking(Duration::from_secs(10)));
    session.run("SET pg_caption.timeout = '1s'");
    trials.run(&mut session, &[Trial::new("timeout", slow)]);
}
