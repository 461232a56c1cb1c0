//! No picture is looked at twice: what requests share, and what they do not. With the parity model
//! and the memo, which the other tests switch off.

mod harness;

use harness::web::{Web, image, until};
use harness::{Client, Engine, bytes, model, url};
use pg_caption_wire::{
    AnswerReuse, CaptionOutcome, CaptionOutput, CaptionRequest, ClientMessage, ClientRole,
    EarlierAnswer, EarlierCaption, EngineConfig, EngineReport, ImageSource, KnownPicture,
    WrittenCaption,
};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

const MEMO: u64 = 64 << 20;

fn ready(memo: u64) -> Option<Engine> {
    let config = EngineConfig { memo, allowed_networks: vec!["127.0.0.0/8".into()], ..model()? };
    let mut engine = Engine::start(&config);
    assert_eq!(engine.report(), EngineReport::Starting);
    assert!(matches!(engine.report(), EngineReport::Ready { .. }));
    Some(engine)
}

fn done(outcome: CaptionOutcome) -> (String, Option<String>, Vec<CaptionOutput>) {
    match outcome {
        CaptionOutcome::Done { image, outputs, .. } => (image.sha256, image.etag, outputs),
        other => panic!("not done: {other:?}"),
    }
}

fn written(output: &CaptionOutput) -> &WrittenCaption {
    match output {
        CaptionOutput::Written(written) => written,
        CaptionOutput::Failed(failure) => panic!("no caption: {failure:?}"),
    }
}

/// The next request and its head in lower case.
fn next_head(web: &Web) -> (TcpStream, String) {
    let (stream, head) = web.next_head();
    (stream, head.to_ascii_lowercase())
}

/// Sends an answer; `headers` end with a line break each.
fn answer(mut stream: &TcpStream, headers: &str, body: &[u8]) {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
}

fn send(client: &mut Client, request: CaptionRequest) {
    client.send(&ClientMessage::Request(request), &[]);
}

#[test]
fn equal_bytes_are_captioned_once_for_all_callers() {
    let Some(engine) = ready(MEMO) else { return };
    let picture = image("12_photo.jpg");
    let mut first = engine.connect().hello(ClientRole::Call);
    let (sha256, _, outputs) = done(first.request(bytes(1, &["concise"]), &picture));
    let caption = written(&outputs[0]).caption.clone();
    for role in [ClientRole::Call, ClientRole::Worker] {
        let mut other = engine.connect().hello(role);
        let (same, _, outputs) = done(other.request(bytes(1, &["concise"]), &picture));
        assert_eq!((same, &written(&outputs[0]).caption), (sha256.clone(), &caption));
    }
    let status = first.status();
    assert_eq!((status.encoded, status.generated), (1, 1));
    assert_eq!((status.saved.encodings, status.saved.from_memo, status.saved.captions), (2, 2, 2));
    assert!((1..=MEMO).contains(&status.saved.memo_bytes));
    // The threshold and the rules of the style are those of each request.
    let strict = CaptionRequest { min_confidence: Some(1.0), ..bytes(2, &["concise"]) };
    let (.., outputs) = done(first.request(strict, &picture));
    assert!(matches!(&outputs[0], CaptionOutput::Failed(f) if f.code == "low_confidence"));
    let mut short = bytes(3, &["concise"]);
    short.outputs[0].style.rules.max_chars = 12;
    let (.., outputs) = done(first.request(short, &picture));
    assert!(written(&outputs[0]).caption.chars().count() <= 12, "{outputs:?}");
    assert_eq!(first.status().generated, 1, "from the same raw answer");
    // Another file, limit or style is another question; so is a request for a new answer.
    let mut limit = bytes(4, &["concise"]);
    limit.outputs[0].max_tokens = 5;
    let again = CaptionRequest { reuse: AnswerReuse::Nothing, ..bytes(5, &["concise"]) };
    let other = [&picture[..], b"."].concat();
    for (generated, request, picture) in [
        (2, limit, &picture),
        (3, again, &picture),
        (4, bytes(6, &["seo"]), &picture),
        (5, bytes(7, &["concise"]), &other),
    ] {
        done(first.request(request, picture));
        assert_eq!(first.status().generated, generated);
    }
}

#[test]
fn each_url_of_a_file_keeps_its_own_validators() {
    let Some(engine) = ready(MEMO) else { return };
    let web = Web::start();
    let mut worker = engine.connect().hello(ClientRole::Worker);
    for (id, path) in [(1, "/a"), (2, "/b"), (3, "/c")] {
        send(&mut worker, url(id, &web.url(path), &["concise"]));
        answer(&web.next().0, &format!("ETag: \"{id}\"\r\n"), &image("02_shapes.png"));
        let (_, etag, _) = done(worker.reply().outcome);
        assert_eq!(etag, Some(format!("\"{id}\"")));
    }
    assert_eq!(worker.status().encoded, 1);
}

#[test]
fn without_a_memo_nothing_is_kept() {
    let Some(engine) = ready(0) else { return };
    let mut client = engine.connect().hello(ClientRole::Worker);
    for id in 1..=2 {
        done(client.request(bytes(id, &["concise"]), &image("02_shapes.png")));
    }
    let status = client.status();
    assert_eq!((status.encoded, status.generated, status.saved.memo_bytes), (2, 2, 0));
}

#[test]
fn workers_remember_a_url_as_its_server_permits() {
    let Some(engine) = ready(MEMO) else { return };
    let web = Web::start();
    let mut workers = [ClientRole::Worker; 2].map(|role| engine.connect().hello(role));
    let mut session = engine.connect().hello(ClientRole::Call);
    let picture = image("02_shapes.png");
    for (id, (headers, is_remembered)) in [
        ("", false),
        ("Cache-Control: max-age=60\r\n", true),
        ("Cache-Control: no-store\r\n", false),
        ("Cache-Control: private, max-age=60\r\n", false),
        ("Vary: Cookie\r\n", false),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, target) = (id as u64, web.url(&format!("/{id}")));
        for (at, worker) in workers.iter_mut().enumerate() {
            send(worker, url(id, &target, &["concise"]));
            if at == 0 || !is_remembered {
                answer(&web.next().0, headers, &picture);
            }
            done(worker.reply().outcome);
        }
        assert!(web.requests.try_recv().is_err(), "{headers}");
        // A request to look again, and a session, have it fetched.
        let look =
            CaptionRequest { reuse: AnswerReuse::Picture, ..url(100 + id, &target, &["concise"]) };
        send(&mut workers[0], look);
        answer(&web.next().0, headers, &picture);
        done(workers[0].reply().outcome);
        send(&mut session, url(id, &target, &["concise"]));
        answer(&web.next().0, headers, &picture);
        done(session.reply().outcome);
    }
    let status = session.status();
    assert_eq!((status.encoded, status.generated, status.saved.fetches), (1, 1, 1));
}

// What one session fetches says nothing to another: only the bytes that each has presented do.
#[test]
fn a_fetch_is_shared_by_those_who_may() {
    let Some(engine) = ready(0) else { return };
    let web = Web::start();
    let mut watcher = engine.connect().hello(ClientRole::Call);
    let mut workers = [ClientRole::Worker; 3].map(|role| engine.connect().hello(role));
    for worker in &mut workers {
        send(worker, url(1, &web.url("/a"), &["concise"]));
    }
    let (stream, _) = web.next();
    until(|| watcher.status().saved.fetches == 2);
    answer(&stream, "Cache-Control: no-store\r\n", &image("02_shapes.png"));
    for worker in &mut workers {
        done(worker.reply().outcome);
    }
    assert!(web.requests.try_recv().is_err(), "one fetch for all workers");
    assert_eq!((watcher.status().encoded, watcher.status().generated), (1, 1));
    let mut sessions = [ClientRole::Call; 2].map(|role| engine.connect().hello(role));
    for session in &mut sessions {
        for id in 1..=2 {
            send(session, url(id, &web.url("/b"), &["concise"]));
        }
    }
    let streams = [web.next().0, web.next().0];
    until(|| watcher.status().saved.fetches == 4);
    for stream in &streams {
        answer(stream, "", &image("12_photo.jpg"));
    }
    for session in &mut sessions {
        for _ in 0..2 {
            done(session.reply().outcome);
        }
    }
    assert!(web.requests.try_recv().is_err(), "one fetch for each session");
}

// A worker asks as soon as the engine listens, which is long before its model is loaded.
#[test]
fn a_fetch_is_shared_while_the_model_loads() {
    let Some(config) = model() else { return };
    let config = EngineConfig { allowed_networks: vec!["127.0.0.0/8".into()], ..config };
    let mut engine = Engine::start(&config);
    assert_eq!(engine.report(), EngineReport::Starting);
    let (web, mut worker) = (Web::start(), engine.connect().hello(ClientRole::Worker));
    for id in 1..=20 {
        send(&mut worker, url(id, &web.url("/a"), &["concise"]));
    }
    let (stream, _) = web.next();
    answer(&stream, "Cache-Control: no-store\r\n", &image("02_shapes.png"));
    // The model may have become ready between two requests: then there are two fetches.
    while let Ok((stream, _)) = web.requests.recv_timeout(Duration::from_secs(1)) {
        answer(&stream, "Cache-Control: no-store\r\n", &image("02_shapes.png"));
    }
    for _ in 1..=20 {
        done(worker.reply().outcome);
    }
    let status = worker.status();
    assert!(status.saved.fetches >= 18, "{} fetches saved", status.saved.fetches);
}

#[test]
fn the_ledgers_caption_answers_for_the_same_file() {
    let Some(engine) = ready(0) else { return };
    let web = Web::start();
    let mut worker = engine.connect().hello(ClientRole::Worker);
    let picture = image("02_shapes.png");
    let (sha256, ..) = done(worker.request(bytes(1, &["concise"]), &picture));
    let model = worker.status().model.unwrap().digest;
    let encoded = worker.status().encoded;
    let earlier = |sha256: &str, model: &str, confidence| {
        let caption = EarlierCaption { caption: "From the ledger".into(), confidence, model: None };
        let (sha256, model) = (sha256.to_owned(), model.to_owned());
        Some(Box::new(EarlierAnswer { sha256, model, captions: vec![caption] }))
    };
    let request =
        |earlier| CaptionRequest { earlier, min_confidence: Some(0.5), ..bytes(2, &["concise"]) };
    let known = request(earlier(&sha256, &model, Some(0.5)));
    let (.., outputs) = done(worker.request(known.clone(), &picture));
    assert_eq!(written(&outputs[0]).caption, "From the ledger");
    assert_eq!(worker.status().encoded, encoded);
    assert_eq!(worker.status().saved.from_ledger, 1);
    for (unlike, why) in [
        (earlier(&"0".repeat(64), &model, Some(0.9)), "another file"),
        (earlier(&sha256, "another model", Some(0.9)), "another model"),
        (earlier(&sha256, &model, Some(0.4)), "below the threshold of now"),
    ] {
        worker.request(request(unlike), &picture);
        assert_eq!(worker.status().saved.from_ledger, 1, "{why}");
    }
    let forced = CaptionRequest { reuse: AnswerReuse::Nothing, ..known.clone() };
    worker.request(forced, &picture);
    assert_eq!(worker.status().saved.from_ledger, 1, "forced");
    // Not modified: the caption is written without the file.
    let encoded = worker.status().encoded;
    let validators = KnownPicture { etag: Some("\"e1\"".into()), last_modified: None, model };
    let (target, shown) = (web.url("/a"), None);
    let source = ImageSource::Url { url: target, known: Some(validators), shown };
    let unlike =
        CaptionRequest { image: source.clone(), min_confidence: Some(0.6), ..known.clone() };
    send(&mut worker, CaptionRequest { image: source, ..known });
    let (stream, head) = next_head(&web);
    assert!(head.contains("if-none-match: \"e1\""), "{head}");
    write!(&stream, "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n").unwrap();
    let (same, etag, outputs) = done(worker.reply().outcome);
    assert_eq!((same, etag.as_deref()), (sha256, Some("\"e1\"")));
    assert_eq!(written(&outputs[0]).caption, "From the ledger");
    assert_eq!(worker.status().encoded, encoded);
    // Not modified, but below the threshold of now: the file itself is fetched.
    send(&mut worker, unlike);
    let (stream, head) = next_head(&web);
    assert!(head.contains("if-none-match"), "{head}");
    write!(&stream, "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n").unwrap();
    let (stream, head) = next_head(&web);
    assert!(!head.contains("if-none-match"), "{head}");
    answer(&stream, "", &picture);
    done(worker.reply().outcome);
    assert_eq!(worker.status().encoded, encoded + 1);
}
