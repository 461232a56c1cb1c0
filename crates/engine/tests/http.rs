//! `serve --http`: the engine as a model server, its limits, and the same captions over the network
//! as on this machine.

mod harness;

use harness::http_server::{HttpServer, far};
use harness::{PROGRAM, library, parity};
use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_pixels::{RgbPicture, encode_png};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

/// A response: status, head, body.
struct HttpReply {
    status: u16,
    head: String,
    body: String,
}

impl HttpReply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }
}

/// Sends the bytes of a request, and reads until the server closes.
fn raw(address: SocketAddr, request: &[u8]) -> HttpReply {
    let mut stream = TcpStream::connect(address).unwrap();
    // A server that refuses the head closes before it has read all.
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    HttpReply { status, head: head.to_ascii_lowercase(), body: body.into() }
}

fn send(address: SocketAddr, line: &str, headers: &str, body: &str) -> HttpReply {
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {headers}\r\n"
    );
    raw(address, [head.as_bytes(), body.as_bytes()].concat().as_slice())
}

fn chat(address: SocketAddr, body: &Value) -> HttpReply {
    send(address, "POST /v1/chat/completions", "", &body.to_string())
}

/// The body of a request for a picture that no other number has.
fn asking(number: u8) -> Value {
    let data = (0..32 * 24 * 3).map(|at: u32| (at * 7) as u8 ^ number).collect();
    let file = encode_png(&RgbPicture { width: 32, height: 24, data });
    asking_for(&format!("data:image/png;base64,{}", base64(&file)))
}

fn asking_for(address: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": [
        { "type": "image_url", "image_url": { "url": address } },
        { "type": "text", "text": "Say it." },
    ] }], "max_tokens": 20, "logprobs": true })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |part: &[u8]| {
        let number = part.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        let digit = |at: usize| match at <= part.len() {
            true => DIGITS[(number >> (18 - 6 * at)) as usize & 63] as char,
            false => '=',
        };
        [0, 1, 2, 3].map(digit).iter().collect::<String>()
    };
    bytes.chunks(3).map(three).collect()
}

fn key_file(dir: &Path, key: &str) -> String {
    let path = dir.join("key");
    std::fs::write(&path, key).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// What `caption --json` prints, without what differs by place: times and the model's name.
fn captions(model: &Path, library: &Path) -> Vec<Value> {
    let images = ["02_shapes.png", "05_3x500.png", "10_exif6.jpg", "12_photo.jpg", "13_large.png"];
    let output = Command::new(PROGRAM)
        .args(["caption", "--json", "--threads", "1", "--style", "concise", "--style", "seo"])
        .args(["--min-confidence", "0", "--max-tokens", "32", "--model"])
        .arg(model)
        .arg("--onnxruntime")
        .arg(library)
        .args(images.map(|name| parity().join("images").join(name)))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2 * images.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for name in ["ms", "model", "pixels_sha256"] {
            line.remove(name);
        }
    }
    lines
}

#[test]
fn a_fleet_writes_what_a_local_model_writes() {
    let Some(library) = library() else { return };
    for model in ["vit-gpt2", "florence2", "smolvlm"] {
        let folder = parity().join(model);
        let server = HttpServer::start(&folder, &["--onnxruntime", library.to_str().unwrap()]);
        // The pixels that the model needs are sent, whatever is set for other servers.
        let small = json!({ "model": model, "image": { "max_side": 64, "quality": 10 } });
        let models = far(&format!("http://{}/v1", server.address), small);
        let (local, fleet) =
            (captions(&folder, &library), captions(&models.path().join("far"), &library));
        for (local, fleet) in local.iter().zip(&fleet) {
            let (mut local, mut fleet) = (local.clone(), fleet.clone());
            let confidence = |line: &mut Value| line["confidence"].take().as_f64();
            // The pictures are in batches of other sizes, which round differently.
            match (confidence(&mut local), confidence(&mut fleet)) {
                (Some(one), Some(other)) => assert!((one - other).abs() < 1e-6, "{one} {other}"),
                (one, other) => assert_eq!(one, other),
            }
            assert_eq!(local, fleet, "{model}");
        }
        let has_ids = |line: &&Value| line["ids"].as_array().is_some_and(|ids| !ids.is_empty());
        assert!(local.iter().filter(has_ids).count() >= 6, "{local:?}");
        // Any other client gets the text, too.
        let body = chat(server.address, &asking(1)).json();
        assert!(body["choices"][0]["message"]["content"].is_string(), "{body}");
        assert!(body["pg_caption"].is_null(), "{body}");
    }
}

#[test]
fn the_server_speaks_the_protocol() {
    let asked = ScriptedServer::start(|_| ScriptedAnswer::text("A cat on a mat.", Some(0.5)));
    let models = far(&asked.url(), json!({ "model": "tiny" }));
    let key = key_file(models.path(), "sk-123");
    let server =
        HttpServer::start(&models.path().join("far"), &["--key-file", &key, "--max-body", "1"]);
    let (address, with_key) = (server.address, "Authorization: Bearer sk-123\r\n");
    // Load balancers have no key.
    assert_eq!(send(address, "GET /health", "", "").json(), json!({ "status": "ready" }));
    let body = asking(1).to_string();
    for headers in ["", "Authorization: Bearer sk-12\r\n", "Authorization: sk-123\r\n"] {
        for line in ["POST /v1/chat/completions", "GET /v1/models", "GET /metrics", "GET /x"] {
            let reply = send(address, line, headers, &body);
            assert_eq!(reply.status, 401, "{line} {headers}");
            assert!(!reply.body.contains("sk-1"));
        }
    }
    assert_eq!(asked.seen().len(), 0);
    let process = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    assert!(process.contains("NoNewPrivs:\t1"), "not confined: {process}");
    let models = send(address, "GET /v1/models", with_key, "").json();
    assert_eq!(models["data"][0]["id"], "far");
    let reply = send(address, "POST /v1/chat/completions", with_key, &body);
    let answer = reply.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "A cat on a mat.");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], 10);
    let logprob = answer["choices"][0]["logprobs"]["content"][0]["logprob"].as_f64().unwrap();
    assert!((logprob - 0.5f64.ln()).abs() < 1e-3, "{logprob}");
    assert!(reply.head.contains("x-pg-caption: 1024x1024"), "{}", reply.head);
    assert_eq!(asked.seen()[0].instruction(), "Say it.");
    for (line, body, status) in [
        ("POST /v1/chat/completions", "{", 400),
        ("POST /v1/chat/completions", &asking_for("http://127.0.0.1/a.png").to_string(), 400),
        ("POST /v1/chat/completions", &asking_for("file:///etc/passwd").to_string(), 400),
        ("POST /v1/chat/completions", &asking_for("data:image/png;base64,AAAA").to_string(), 400),
        ("POST /v1/chat/completions", &"x".repeat(1_300_000), 413),
        ("GET /v1/chat/completions", "", 404),
        ("DELETE /v1/models", "", 404),
        ("GET /../etc/passwd", "", 404),
    ] {
        let reply = send(address, line, with_key, body);
        assert_eq!(reply.status, status, "{line}: {}", reply.body);
        assert!(reply.json()["error"]["message"].is_string());
    }
    assert_eq!(asked.seen().len(), 1, "no refused request reaches the model");
    // Heads are bounded, and what is no HTTP ends its connection alone.
    let long = format!("X: {}\r\n", "x".repeat(100_000));
    assert!(matches!(send(address, "GET /health", &long, "").status, 0 | 431));
    let many: String = (0..200).map(|n| format!("X-{n}: x\r\n")).collect();
    assert!(matches!(send(address, "GET /health", &many, "").status, 0 | 431));
    assert!(matches!(raw(address, b"\x16\x03\x01\x00\r\n\r\n").status, 0 | 400));
    let metrics = send(address, "GET /metrics", with_key, "").body;
    assert!(metrics.contains("\npg_caption_engine_captions_total 1\n"), "{metrics}");
}

/// A gate that requests of a scripted server wait at.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let (open, changed) = &*self.0;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    /// A model server whose requests with these instructions wait here.
    fn server(&self, holds: fn(&str) -> bool) -> ScriptedServer {
        let gate = self.clone();
        ScriptedServer::start(move |request| {
            if holds(request.instruction()) {
                gate.wait();
            }
            ScriptedAnswer::text("A cat", Some(0.9))
        })
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

#[test]
fn a_full_server_sends_away_and_a_stopped_one_finishes() {
    let gate = Gate::default();
    let asked = gate.server(|_| true);
    let models = far(&asked.url(), json!({ "model": "tiny" }));
    let mut server = HttpServer::start(&models.path().join("far"), &["--queue", "2"]);
    let address = server.address;
    std::thread::scope(|scope| {
        let both = [1, 2].map(|number| scope.spawn(move || chat(address, &asking(number))));
        asked.wait_for(2);
        let full = chat(address, &asking(3));
        assert_eq!(full.status, 503);
        assert!(full.head.contains("retry-after: 1"), "{}", full.head);
        let metrics = send(address, "GET /metrics", "", "").body;
        assert!(metrics.contains("\npg_caption_http_refused_total 1\n"), "{metrics}");
        assert!(metrics.contains("\npg_caption_http_in_flight 2\n"), "{metrics}");
        // A connection from before sees that the server leaves.
        server.stop();
        server.next_line("stopping");
        // Between the last connection and the end of the listening socket.
        while TcpStream::connect(address).is_ok() {
            std::thread::yield_now();
        }
        gate.open();
        for reply in both.map(|thread| thread.join().unwrap()) {
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
    });
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait_for_requests() {
    let gate = Gate::default();
    let asked = gate.server(|_| true);
    let models = far(&asked.url(), json!({ "model": "tiny" }));
    let mut server = HttpServer::start(&models.path().join("far"), &[]);
    let address = server.address;
    let cut = std::thread::spawn(move || chat(address, &asking(1)));
    asked.wait_for(1);
    server.stop();
    server.next_line("stopping");
    server.stop();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!(cut.join().unwrap().status, 0, "no answer");
    gate.open();
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let models = far("http://127.0.0.1:9/v1", json!({ "model": "tiny" }));
    let server = HttpServer::start(&models.path().join("far"), &["--connections", "1"]);
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    };
    let mut first = TcpStream::connect(server.address).unwrap();
    ask(&mut first);
    let mut byte = [0];
    first.read_exact(&mut byte).unwrap();
    let mut second = TcpStream::connect(server.address).unwrap();
    ask(&mut second);
    second.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    assert!(second.read_exact(&mut byte).is_err(), "it is served before the first has left");
    drop(first);
    second.set_read_timeout(None).unwrap();
    second.read_exact(&mut byte).unwrap();
}

#[test]
fn requests_of_several_clients_share_batches() {
    let Some(library) = library() else { return };
    let options = ["--onnxruntime", library.to_str().unwrap()];
    let server = HttpServer::start(&parity().join("vit-gpt2"), &options);
    let address = server.address;
    let ask = |number| std::thread::spawn(move || chat(address, &asking(number)).status);
    for client in (0..24).map(ask).collect::<Vec<_>>() {
        assert_eq!(client.join().unwrap(), 200);
    }
    let metrics = send(address, "GET /metrics", "", "").body;
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).expect(name);
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(value("pg_caption_engine_pictures_total "), 24);
    assert!(value("pg_caption_engine_batches_total ") < 24, "{metrics}");
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let gate = Gate::default();
    let asked = gate.server(|instruction| instruction == "wait");
    let models = far(&asked.url(), json!({ "model": "tiny" }));
    let server = HttpServer::start(&models.path().join("far"), &["--queue", "1"]);
    let mut body = asking(1);
    body["messages"][0]["content"][1]["text"] = "wait".into();
    let body = body.to_string();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let length = body.len();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    asked.wait_for(1);
    drop(stream);
    let status = loop {
        match chat(server.address, &asking(2)).status {
            503 => std::thread::yield_now(),
            status => break status,
        }
    };
    assert_eq!(status, 200);
    gate.open();
}

#[test]
fn another_address_than_loopback_needs_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = key_file(dir.path(), "two words");
    for (arguments, cause) in [
        (&["--http", "0.0.0.0:0"][..], "give --key-file"),
        (&["--http", "[::]:0"], "give --key-file"),
        (&["--http", "0.0.0.0:0", "--key-file", "/nonexistent"], "No such file"),
        (&["--http", "127.0.0.1:0", "--key-file", &key], "one line"),
        (&["--http", "nowhere"], "invalid"),
        (&["--key-file", &key], "--http"),
    ] {
        let model = far("http://127.0.0.1:9/v1", json!({ "model": "tiny" }));
        let output = Command::new(PROGRAM)
            .args(["serve", "--model"])
            .arg(model.path().join("far"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(cause), "{arguments:?}: {error}");
        assert!(!error.contains("two words"));
    }
}
