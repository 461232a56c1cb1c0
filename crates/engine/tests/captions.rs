//! The engine with a model: the parity model (`tests/parity`), whose ids are known, and the ONNX
//! Runtime library.

mod harness;

use harness::web::{Web, image, until};
use harness::{Client, Engine, bytes, model, parity, url};
use pg_caption_wire::{
    CaptionOutcome, CaptionOutput, CaptionRequest, ClientMessage, ClientRole, EngineConfig,
    EngineControl, EngineReport, Failure, FailureClass, ImageSource, KnownPicture, ServerMessage,
};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A ready engine, if ONNX Runtime is installed.
fn ready(change: impl FnOnce(&mut EngineConfig)) -> Option<Engine> {
    let mut config = model()?;
    change(&mut config);
    let mut engine = Engine::start(&config);
    assert_eq!(engine.report(), EngineReport::Starting);
    match engine.report() {
        EngineReport::Ready { model } => assert_eq!(model.family, "vision-encoder-decoder"),
        other => panic!("not ready: {other:?}"),
    }
    Some(engine)
}

fn failed(outcome: CaptionOutcome) -> Failure {
    match outcome {
        CaptionOutcome::Failed(failure) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}

fn outputs(outcome: CaptionOutcome) -> Vec<CaptionOutput> {
    match outcome {
        CaptionOutcome::Done { outputs, .. } => outputs,
        other => panic!("not done: {other:?}"),
    }
}

fn answer(mut stream: &TcpStream, status: &str, body: &[u8]) {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"e1\"\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
}

fn loopback(config: &mut EngineConfig) {
    config.allowed_networks = vec!["127.0.0.0/8".into()];
}

#[test]
fn the_first_answer_is_reported_once() {
    let Some(mut engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    for id in 1..=2 {
        client.request(bytes(id, &["concise"]), &image("12_photo.jpg"));
        engine.control(&EngineControl::Ping { number: id });
        if id == 1 {
            assert_eq!(engine.any_report(), EngineReport::Answered);
        }
        let pong = engine.any_report();
        assert!(matches!(pong, EngineReport::Pong { number, .. } if number == id), "{pong:?}");
    }
    assert_eq!(client.running, [(1, true), (2, true)]);
}

#[test]
fn a_tokenizers_panic_costs_one_caption() {
    // Its decoder panics on an empty text, which no single token reveals.
    let folder = tempfile::tempdir().unwrap();
    for prefix in ["", "onnx"] {
        std::fs::create_dir_all(folder.path().join(prefix)).unwrap();
        for entry in std::fs::read_dir(parity().join("vit-gpt2").join(prefix))
            .unwrap()
            .flatten()
            .filter(|e| e.path().is_file())
        {
            std::fs::copy(entry.path(), folder.path().join(prefix).join(entry.file_name()))
                .unwrap();
        }
    }
    let edit = |file: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let path = folder.path().join(file);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    };
    edit("tokenizer.json", &|tokenizer| {
        let strip = serde_json::json!({ "type": "Strip", "content": "6", "start": 0, "stop": 3 });
        let decoders = [tokenizer["decoder"].clone(), strip];
        tokenizer["decoder"] = serde_json::json!({ "type": "Sequence", "decoders": decoders });
    });
    edit("generation_config.json", &|settings| {
        settings["forced_eos_token_id"] = settings["eos_token_id"].clone()
    });
    let Some(engine) = ready(|config| config.model = folder.path().into()) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    let mut empty = bytes(1, &["concise"]);
    empty.outputs[0].max_tokens = 1;
    let failure = failed(client.request(empty, &image("02_shapes.png")));
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Retry, "model_error"));
    // The panic of the library.
    assert!(failure.detail.unwrap().contains("overflow"));
    assert!(!outputs(client.request(bytes(2, &["concise"]), &image("02_shapes.png"))).is_empty());
    assert_eq!(client.status().state, "ready");
}

#[test]
fn styles_of_one_picture_share_one_encoding() {
    let Some(engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    let picture = image("12_photo.jpg");
    let CaptionOutcome::Done { image, outputs, model, timings } =
        client.request(bytes(1, &["concise", "seo", "detailed"]), &picture)
    else {
        panic!("not done")
    };
    assert_eq!((image.format.as_str(), image.bytes), ("jpeg", picture.len() as u64));
    assert_eq!(image.sha256.len(), 64);
    assert_eq!((outputs.len(), model.digest.len()), (3, 64));
    assert!(
        timings.total >= timings.decode + timings.encode + timings.generate
            && timings.generate > 0.0,
        "{timings:?}"
    );
    let status = client.status();
    assert_eq!((status.encoded, status.encode_calls, status.generated), (1, 1, 3));
    assert!(
        status.cpu_ms.generate > 0.0 && status.cpu_ms.decode > 0.0 && status.rss > 0,
        "{status:?}"
    );
}

#[test]
fn requests_of_one_statement_share_a_picture() {
    let Some(engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    let picture = image("12_photo.jpg");
    let mut request = |id, share| {
        drop(outputs(client.request(CaptionRequest { share, ..bytes(id, &["concise"]) }, &picture)))
    };
    request(1, Some(7));
    request(2, Some(7));
    request(3, Some(8));
    request(4, None);
    let status = client.status();
    assert_eq!((status.encoded, status.generated), (3, 4));
    let mut other = engine.connect().hello(ClientRole::Call);
    outputs(other.request(CaptionRequest { share: Some(7), ..bytes(1, &["concise"]) }, &picture));
    assert_eq!(other.status().encoded, 4, "never across connections");
}

#[test]
fn each_statement_has_its_url_fetched() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Call);
    let mut fetches = 0;
    let mut request = |client: &mut Client, id, share, is_fetched: bool| {
        let asked = CaptionRequest { share, ..url(id, &web.url("/a"), &["concise"]) };
        client.send(&ClientMessage::Request(asked), &[]);
        if is_fetched {
            fetches += 1;
            answer(&web.next().0, "200 OK", &image("12_photo.jpg"));
        }
        outputs(client.reply().outcome);
        assert!(web.requests.try_recv().is_err(), "request {id}");
    };
    request(&mut client, 1, Some(7), true);
    request(&mut client, 2, Some(7), false);
    request(&mut client, 3, Some(8), true);
    request(&mut client, 4, None, true);
    let mut other = engine.connect().hello(ClientRole::Call);
    request(&mut other, 1, Some(7), true);
    assert_eq!(fetches, 4, "never across connections");
}

#[test]
fn requests_in_flight_share_one_fetch() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Call);
    for id in 1..=3 {
        client.send(
            &ClientMessage::Request(CaptionRequest {
                share: Some(1),
                ..url(id, &web.url("/a.png"), &["concise"])
            }),
            &[],
        );
    }
    let (stream, _) = web.next();
    answer(&stream, "200 OK", &image("02_shapes.png"));
    let answered: HashSet<u64> =
        (0..3).map(|_| client.reply()).map(|r| (r.id, outputs(r.outcome)).0).collect();
    assert_eq!(answered, HashSet::from([1, 2, 3]));
    assert!(web.requests.try_recv().is_err(), "asked once");
    assert_eq!(client.status().encoded, 1);
}

#[test]
fn concurrent_requests_share_batches() {
    let Some(engine) = ready(|_| {}) else { return };
    let pictures = ["01_gradient.png", "02_shapes.png", "12_photo.jpg"].map(image);
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let (engine, pictures) = (&engine, &pictures);
            scope.spawn(move || {
                let role = [ClientRole::Call, ClientRole::Worker][usize::from(number) % 2];
                let mut client = engine.connect().hello(role);
                (0..40).for_each(|id: u64| {
                    // Equal files would be encoded once.
                    let picture = &pictures[id as usize % 3];
                    client.send(
                        &ClientMessage::Request(bytes(id, &["concise", "seo"])),
                        &[&picture[..], &[number, id as u8]].concat(),
                    )
                });
                let mut answered = HashSet::new();
                for _ in 0..40 {
                    let reply = client.reply();
                    assert!(answered.insert(reply.id), "{} twice", reply.id);
                    assert_eq!(outputs(reply.outcome).len(), 2);
                }
            });
        }
    });
    let mut client = engine.connect().hello(ClientRole::Call);
    // A client may receive an answer before the request is counted as finished.
    until(|| client.status().in_flight == 0);
    let status = client.status();
    assert_eq!((status.encoded, status.generated), (160, 320));
    assert!(status.encode_calls < 160, "{} calls for 160 pictures", status.encode_calls);
}

#[test]
fn exceeding_the_window_closes_the_connection() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Call);
    (0..65).for_each(|id| {
        client.send(&ClientMessage::Request(url(id, &web.url("/slow"), &["concise"])), &[])
    });
    match client.receive() {
        Some(ServerMessage::Refused(failure)) => assert_eq!(failure.code, "protocol"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cancelled_requests_fetch_stops_unanswered() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Call);
    client.send(&ClientMessage::Request(url(1, &web.url("/never"), &["concise"])), &[]);
    let (mut stream, _) = web.next();
    client.send(&ClientMessage::Cancel { id: 1 }, &[]);
    // The engine closes the connection.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(
        outputs(client.request(bytes(1, &["concise"]), &image("12_photo.jpg"))).len(),
        1,
        "its id is free again"
    );
    until(|| client.status().in_flight == 0);
}

#[test]
fn a_leaving_client_cancels_its_requests() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Worker);
    (0..10).for_each(|id| {
        let target = web.url(&format!("/never/{id}"));
        client.send(&ClientMessage::Request(url(id, &target, &["concise"])), &[])
    });
    let held = web.next();
    drop(client);
    let mut watcher = engine.connect().hello(ClientRole::Call);
    until(|| {
        watcher.status().in_flight == 0
            && watcher.status().hosts.iter().all(|host| host.in_flight == 0)
    });
    assert_eq!(watcher.status().answered, 0);
    drop(held);
}

#[test]
fn silent_servers_do_not_delay_deadlines() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Call);
    let began = Instant::now();
    let failure = failed(client.request(
        CaptionRequest { remaining_ms: 300, ..url(1, &web.url("/never"), &["concise"]) },
        &[],
    ));
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Retry, "timeout"));
    let took = began.elapsed().as_millis();
    assert!((300..5000).contains(&took), "{took} ms");
}

#[test]
fn a_busy_host_does_not_delay_other_hosts() {
    let Some(engine) = ready(|c| (loopback(c), c.host_concurrency = 1, c.fetch_concurrency = 4).0)
    else {
        return;
    };
    let (slow, quick) = (Web::start(), Web::start());
    let mut client = engine.connect().hello(ClientRole::Worker);
    for id in 0..8 {
        let remaining_ms = if id == 7 { 500 } else { 60_000 };
        client.send(
            &ClientMessage::Request(CaptionRequest {
                remaining_ms,
                ..url(id, &slow.url(&format!("/{id}")), &["concise"])
            }),
            &[],
        );
    }
    client.send(&ClientMessage::Request(url(100, &quick.url("/b"), &["concise"])), &[]);
    let held = slow.next();
    answer(&quick.next().0, "200 OK", &image("02_shapes.png"));
    let mut replies = [client.reply(), client.reply()];
    replies.sort_by_key(|r| r.id);
    let [busy, served] = replies;
    assert_eq!((busy.id, served.id), (7, 100));
    outputs(served.outcome);
    let failure = failed(busy.outcome);
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Host, "host_busy"));
    assert_eq!(failure.host.as_deref(), Some(slow.address.as_str()));
    drop(held);
}

#[test]
fn redirects_to_a_busy_host_wait_apart() {
    let Some(engine) = ready(|c| (loopback(c), c.host_concurrency = 1, c.fetch_concurrency = 4).0)
    else {
        return;
    };
    let (origin, slow, quick) = (Web::start(), Web::start(), Web::start());
    let mut client = engine.connect().hello(ClientRole::Worker);
    (0..8).for_each(|id| {
        client.send(
            &ClientMessage::Request(url(id, &origin.url(&format!("/{id}")), &["concise"])),
            &[],
        )
    });
    let redirect = || {
        let (mut stream, path) = origin.next();
        write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            slow.url(&path)
        )
        .unwrap();
    };
    // As many as there are threads.
    (0..4).for_each(|_| redirect());
    let mut held = slow.next();
    client.send(&ClientMessage::Request(url(100, &quick.url("/b"), &["concise"])), &[]);
    answer(&quick.next().0, "200 OK", &image("02_shapes.png"));
    let served = client.reply();
    assert_eq!(served.id, 100);
    outputs(served.outcome);
    (0..4).for_each(|_| redirect());
    let mut answered = HashSet::new();
    for left in (0..8).rev() {
        answer(&held.0, "200 OK", &image("02_shapes.png"));
        let reply = client.reply();
        outputs(reply.outcome);
        answered.insert(reply.id);
        if left > 0 {
            held = slow.next();
        }
    }
    assert_eq!(answered, (0..8).collect());
    assert!(origin.requests.try_recv().is_err(), "a redirect is not requested twice");
}

#[test]
fn endless_files_leave_room_for_other_hosts() {
    // 64 MB for files; a file of unknown length reserves 20 MB.
    let Some(engine) = ready(|c| {
        (
            loopback(c),
            c.memory = 256 << 20,
            c.max_image_size = 20 << 20,
            c.fetch_timeout_ms = 600_000,
        )
            .0
    }) else {
        return;
    };
    let (endless, quick) = (Web::start(), Web::start());
    let mut client = engine.connect().hello(ClientRole::Worker);
    let chunked = |mut stream: &TcpStream, bytes: &[u8]| {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n",
            bytes.len()
        )
        .unwrap();
        stream.write_all(bytes).unwrap();
        write!(stream, "\r\n").unwrap();
    };
    (0..6).for_each(|id| {
        let target = endless.url(&format!("/{id}"));
        client.send(&ClientMessage::Request(url(id, &target, &["concise"])), &[])
    });
    let picture = image("02_shapes.png");
    let held: Vec<_> =
        (0..6).map(|_| endless.next().0).inspect(|stream| chunked(stream, &picture)).collect();
    for id in 100..120 {
        let target = quick.url(&format!("/{id}"));
        client.send(&ClientMessage::Request(url(id, &target, &["concise"])), &[]);
        let (mut stream, _) = quick.next();
        chunked(&stream, &picture);
        write!(stream, "0\r\n\r\n").unwrap();
        let served = client.reply();
        assert_eq!(served.id, id);
        outputs(served.outcome);
    }
    // No request is lost: each gets its memory in turn.
    held.into_iter().for_each(|mut stream| write!(stream, "0\r\n\r\n").unwrap());
    let answered: HashSet<u64> =
        (0..6).map(|_| client.reply()).map(|r| (r.id, outputs(r.outcome)).0).collect();
    assert_eq!(answered, (0..6).collect());
}

#[test]
fn http_status_decides_the_failure_class() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Call);
    for (id, (status, class, code)) in [
        ("404 Not Found", FailureClass::Reject, "http_404"),
        ("500 Oops", FailureClass::Retry, "http_500"),
        ("429 Slow\r\nRetry-After: 600", FailureClass::Host, "http_429"),
    ]
    .into_iter()
    .enumerate()
    {
        client.send(&ClientMessage::Request(url(id as u64, &web.url("/x"), &["concise"])), &[]);
        answer(&web.next().0, status, b"");
        let failure = failed(client.reply().outcome);
        assert_eq!((failure.class, failure.code.as_str()), (class, code));
    }
    let cooling = failed(client.request(url(9, &web.url("/y"), &["concise"]), &[]));
    assert_eq!((cooling.class, cooling.code.as_str()), (FailureClass::Host, "host_cooling"));
    let (detail, hint) = (cooling.detail.as_deref().unwrap(), cooling.hint.as_deref().unwrap());
    assert!(
        detail.contains("http_429") && detail.contains("GMT") && hint.contains("caption.host"),
        "{detail} {hint}"
    );
    assert!(cooling.retry_after_ms.is_some_and(|ms| ms > 0));
}

#[test]
fn a_call_waits_for_a_paused_host() {
    let Some(engine) = ready(loopback) else { return };
    let (web, other) = (Web::start(), Web::start());
    let mut client = engine.connect().hello(ClientRole::Call);
    let send = |client: &mut Client, id, web: &Web| {
        let request = url(id, &web.url(&format!("/{id}")), &["concise"]);
        client.send(&ClientMessage::Request(request), &[]);
    };
    let slow_down = "429 Slow\r\nRetry-After: 2";
    send(&mut client, 1, &web);
    answer(&web.next().0, slow_down, b"");
    let paused = Instant::now();
    until(|| client.status().hosts.iter().any(|h| h.cooling_ms.is_some()));
    send(&mut client, 2, &web);
    // Other hosts go on.
    send(&mut client, 3, &other);
    answer(&other.next().0, "200 OK", &image("02_shapes.png"));
    let reply = client.reply();
    assert_eq!((reply.id, outputs(reply.outcome).len()), (3, 1));
    // Both are fetched after the pause, also the one whose answer it was.
    let mut ids = HashSet::new();
    for _ in 0..2 {
        let (stream, _) = web.next();
        assert!(paused.elapsed() > Duration::from_millis(1500), "{:?}", paused.elapsed());
        answer(&stream, "200 OK", &image("02_shapes.png"));
        let reply = client.reply();
        ids.insert(reply.id);
        assert_eq!(outputs(reply.outcome).len(), 1);
    }
    assert_eq!(ids, HashSet::from([1, 2]));
    // A second such answer fails.
    send(&mut client, 4, &web);
    (0..2).for_each(|_| answer(&web.next().0, slow_down, b""));
    let failure = failed(client.reply().outcome);
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Host, "http_429"));
    // The worker keeps such rows itself.
    let mut worker = engine.connect().hello(ClientRole::Worker);
    let failure = failed(worker.request(url(5, &web.url("/5"), &["concise"]), &[]));
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Host, "host_cooling"));
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    let Some(engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    for address in [
        "http://127.0.0.1:1/a.jpg",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "not a url",
    ] {
        assert_eq!(
            failed(client.request(url(1, address, &["concise"]), &[])).class,
            FailureClass::Reject,
            "{address}"
        );
    }
}

#[test]
fn unusable_pictures_fail_only_their_request() {
    let Some(engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    let rejected = failed(client.request(bytes(1, &["concise"]), b"<html>not a picture</html>"));
    assert_eq!(rejected.class, FailureClass::Reject);
    assert_eq!(failed(client.request(bytes(2, &["concise"]), b"")).class, FailureClass::Reject);
    let blank = failed(client.request(bytes(3, &["concise"]), &image("04_1x1.png")));
    assert_eq!((blank.class, blank.code.as_str()), (FailureClass::Uncertain, "blank"));
    assert_eq!(client.status().encoded, 0);
    assert_eq!(outputs(client.request(bytes(4, &["concise"]), &image("12_photo.jpg"))).len(), 1);
}

#[test]
fn below_the_threshold_every_style_is_uncertain() {
    let Some(engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    let request = CaptionRequest { min_confidence: Some(1.0), ..bytes(1, &["concise", "seo"]) };
    for output in outputs(client.request(request, &image("12_photo.jpg"))) {
        let CaptionOutput::Failed(failure) = output else { panic!("written") };
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (FailureClass::Uncertain, "low_confidence")
        );
    }
}

#[test]
fn invalid_requests_keep_the_connection() {
    let Some(engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    let picture = image("12_photo.jpg");
    let none = CaptionRequest { outputs: Vec::new(), ..bytes(1, &[]) };
    assert_eq!(failed(client.request(none, &picture)).code, "bad_request");
    let mut style = bytes(2, &["concise"]);
    style.outputs[0].style.rules.max_chars = 0;
    assert_eq!(failed(client.request(style, &picture)).code, "bad_style");
    let mut tokens = bytes(3, &["concise"]);
    tokens.outputs[0].max_tokens = 100_000;
    assert_eq!(failed(client.request(tokens, &picture)).code, "bad_request");
    assert_eq!(outputs(client.request(bytes(4, &["concise"]), &picture)).len(), 1);
}

#[test]
fn unchanged_pictures_are_not_captioned_again() {
    let Some(engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Worker);
    let digest = client.status().model.unwrap().digest;
    for (id, (model, conditional, status)) in [
        (&*digest, true, "304 Not Modified"),
        (&*digest, true, "200 OK"),
        ("another model", false, "200 OK"),
    ]
    .into_iter()
    .enumerate()
    {
        let known =
            KnownPicture { etag: Some("\"e1\"".into()), last_modified: None, model: model.into() };
        let image = ImageSource::Url { url: web.url("/a"), known: Some(known), shown: None };
        client.send(
            &ClientMessage::Request(CaptionRequest { image, ..bytes(id as u64, &["concise"]) }),
            &[],
        );
        let (stream, head) = web.next_head();
        assert_eq!(
            head.to_ascii_lowercase().contains("if-none-match: \"e1\""),
            conditional,
            "{head}"
        );
        if status.starts_with("304") {
            write!(&stream, "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n").unwrap();
            assert_eq!(client.reply().outcome, CaptionOutcome::Unchanged);
        } else {
            answer(&stream, status, &self::image("02_shapes.png"));
            assert_eq!(outputs(client.reply().outcome).len(), 1);
        }
    }
    assert_eq!(client.status().encoded, 2);
}

#[test]
fn a_drained_engine_finishes_requests_in_flight() {
    let Some(mut engine) = ready(loopback) else { return };
    let web = Web::start();
    let mut client = engine.connect().hello(ClientRole::Call);
    client.send(&ClientMessage::Request(url(1, &web.url("/a"), &["concise"])), &[]);
    let (stream, _) = web.next();
    let mut successor =
        engine.succeed(&EngineConfig { wait_until_ready: true, ..model().unwrap() });
    assert_eq!(successor.report(), EngineReport::Starting);
    assert!(matches!(successor.report(), EngineReport::Ready { .. }));
    engine.control(&EngineControl::Drain);
    assert_eq!(client.receive(), Some(ServerMessage::GoAway));
    answer(&stream, "200 OK", &image("02_shapes.png"));
    assert_eq!(outputs(client.reply().outcome).len(), 1);
    assert_eq!(client.receive(), None);
    assert_eq!(engine.ended().code(), Some(0));
    let mut client = Client::new(std::os::unix::net::UnixStream::connect(&engine.socket).unwrap())
        .hello(ClientRole::Call);
    assert_eq!(client.status().pid, successor.child.id());
    assert_eq!(outputs(client.request(bytes(1, &["concise"]), &image("12_photo.jpg"))).len(), 1);
}

#[test]
fn replaced_resolver_files_need_a_successor() {
    let Some(mut config) = model() else { return };
    loopback(&mut config);
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().join("etc");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg("/etc")
        .arg(&etc)
        .stderr(std::process::Stdio::null())
        .status();
    if !copied.is_ok_and(|status| status.success()) {
        return println!("skipped: this user may not copy /etc");
    }
    let Some(mut engine) = Engine::start_with_etc(&config, &etc) else {
        return println!("skipped: this user may not mount");
    };
    assert_eq!(engine.report(), EngineReport::Starting);
    assert!(matches!(engine.report(), EngineReport::Ready { .. }));
    let mut client = engine.connect().hello(ClientRole::Call);
    if !client.status().confinement.iter().any(|name| name.starts_with("landlock")) {
        return println!("skipped: this kernel has no Landlock");
    }
    let web = Web::start();
    let mut caption = |id: u64, host: &str| {
        let address = web.address.replace("127.0.0.1", host);
        client.send(
            &ClientMessage::Request(url(id, &format!("http://{address}/{id}"), &["concise"])),
            &[],
        );
        answer(&web.next().0, "200 OK", &image("02_shapes.png"));
        assert_eq!(outputs(client.reply().outcome).len(), 1);
    };
    caption(1, "localhost");
    // As resolvconf, NetworkManager and DHCP clients replace them.
    for file in ["resolv.conf", "hosts"] {
        let new = etc.join("new");
        std::fs::write(&new, "127.0.0.1 localhost\n").unwrap();
        std::fs::rename(new, etc.join(file)).unwrap();
    }
    caption(2, "127.0.0.1");
    caption(3, "127.0.0.1");
    assert_eq!(engine.report(), EngineReport::Outdated);
    engine.control(&EngineControl::Drain);
    assert!(matches!(engine.report(), EngineReport::Cooling { .. }), "reported once");
}

#[test]
fn cooldowns_are_handed_to_the_successor() {
    let Some(mut engine) = ready(loopback) else { return };
    let (early, late) = (Web::start(), Web::start());
    let mut client = engine.connect().hello(ClientRole::Worker);
    let slow_down = |stream: &TcpStream| {
        write!(&*stream, "HTTP/1.1 429 Slow\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n")
            .unwrap()
    };
    client.send(&ClientMessage::Request(url(1, &early.url("/a"), &["concise"])), &[]);
    slow_down(&early.next().0);
    assert_eq!(failed(client.reply().outcome).code, "http_429");
    client.send(&ClientMessage::Request(url(2, &late.url("/b"), &["concise"])), &[]);
    let in_flight = late.next().0;

    let mut config = model().unwrap();
    loopback(&mut config);
    let mut successor = engine.succeed(&EngineConfig { wait_until_ready: true, ..config });
    assert_eq!(successor.report(), EngineReport::Starting);
    assert!(matches!(successor.report(), EngineReport::Ready { .. }));
    engine.control(&EngineControl::Drain);
    let EngineReport::Cooling { hosts: first } = engine.report() else { panic!("no cooldowns") };
    assert_eq!(first.iter().map(|c| c.host.as_str()).collect::<Vec<_>>(), [early.address.as_str()]);
    assert!((590_000..=600_000).contains(&first[0].remaining_ms), "{first:?}");
    // Cooldowns that arise while it finishes are handed over as well.
    assert_eq!(client.receive(), Some(ServerMessage::GoAway));
    slow_down(&in_flight);
    assert_eq!(failed(client.reply().outcome).code, "http_429");
    let EngineReport::Cooling { hosts: last } = engine.report() else { panic!("no cooldowns") };
    assert_eq!(last.len(), 2, "{last:?}");
    assert_eq!(engine.ended().code(), Some(0));

    for hosts in [first, last] {
        successor.control(&EngineControl::Cooling { hosts });
    }
    let mut client = Client::new(std::os::unix::net::UnixStream::connect(&engine.socket).unwrap())
        .hello(ClientRole::Worker);
    until(|| {
        client
            .status()
            .hosts
            .iter()
            .filter(|h| h.cooling_ms.is_some() && h.last.as_deref() == Some("http_429"))
            .count()
            == 2
    });
    for (id, web) in [&early, &late].into_iter().enumerate() {
        let failure = failed(client.request(url(id as u64, &web.url("/c"), &["concise"]), &[]));
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Host, "host_cooling"));
        assert!(failure.retry_after_ms.is_some_and(|ms| ms > 500_000), "{failure:?}");
        assert!(web.requests.try_recv().is_err(), "the host received no request");
    }
}

#[test]
fn an_engine_stopped_at_work_exits_with_0() {
    let Some(mut engine) = ready(|_| {}) else { return };
    let mut client = engine.connect().hello(ClientRole::Worker);
    let picture = image("13_large.png");
    (0..40).for_each(|id| {
        client.send(&ClientMessage::Request(bytes(id, &["concise", "seo", "detailed"])), &picture)
    });
    client.reply();
    drop(engine.stdin.take());
    assert_eq!(engine.ended().code(), Some(0));
}
