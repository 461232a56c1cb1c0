//! The engine with a cascade of two models, both on scripted servers: which captions go to the
//! second, who wrote them, and what happens while the second is away.

mod harness;

use harness::{Engine, bytes, library, parity, picture, url};
use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_wire::{
    CaptionOutcome, CaptionOutput, CaptionRequest, ClientMessage, ClientRole, EngineConfig,
    EngineReport, FailureClass, WrittenCaption,
};
use std::collections::BTreeMap;
use std::path::Path;

/// A models directory with `small`, `large` and `both`.
struct Models {
    dir: tempfile::TempDir,
    small: ScriptedServer,
    large: ScriptedServer,
}

/// The small model is as sure as the instruction says; an empty text is refused by every style.
fn small() -> ScriptedServer {
    ScriptedServer::start(|request| match request.instruction() {
        "short" => ScriptedAnswer::text("A", Some(0.99)),
        instruction => ScriptedAnswer::text("A small cat", instruction.parse().ok()),
    })
}

impl Models {
    fn new(meanwhile: &str) -> Models {
        let large = ScriptedServer::start(|_| ScriptedAnswer::text("A large cat", Some(0.6)));
        let models = Models { dir: tempfile::tempdir().unwrap(), small: small(), large };
        for (name, server) in [("small", &models.small), ("large", &models.large)] {
            let remote = format!(
                r#"{{"protocol": "openai", "base_url": "{}", "model": "m",
                     "without_confidence": "write"}}"#,
                server.url()
            );
            put(&models.dir.path().join(name), "remote.json", &remote);
        }
        let both = format!(
            r#"{{"first": "small", "then": "large", "below": 0.8, "meanwhile": "{meanwhile}"}}"#
        );
        put(&models.dir.path().join("both"), "cascade.json", &both);
        models
    }

    fn engine(&self) -> Engine {
        let mut engine = Engine::start(&EngineConfig {
            model: self.dir.path().join("both"),
            models_directory: self.dir.path().into(),
            allowed_networks: vec!["127.0.0.0/8".into()],
            ..EngineConfig::default()
        });
        assert_eq!(engine.report(), EngineReport::Starting);
        match engine.report() {
            EngineReport::Ready { model } => assert_eq!(model.family, "cascade"),
            other => panic!("not ready: {other:?}"),
        }
        engine
    }
}

fn put(folder: &Path, name: &str, content: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), content).unwrap();
}

/// A request for one caption for each instruction.
fn asking(request: CaptionRequest, instructions: &[&str]) -> CaptionRequest {
    let outputs = instructions.iter().map(|instruction| {
        let mut output = request.outputs[0].clone();
        output.style.instruction = (*instruction).into();
        output
    });
    CaptionRequest { outputs: outputs.collect(), min_confidence: None, ..request }
}

fn written(outcome: CaptionOutcome) -> Vec<WrittenCaption> {
    let CaptionOutcome::Done { outputs, model, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(model.name, "both");
    let written = outputs.into_iter().map(|output| match output {
        CaptionOutput::Written(written) => written,
        CaptionOutput::Failed(failure) => panic!("{failure:?}"),
    });
    written.collect()
}

#[test]
fn unsure_and_refused_captions_go_to_the_second() {
    let models = Models::new("wait");
    let file = picture(1);
    let web = ScriptedServer::start(move |_| {
        let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", file.len());
        ScriptedAnswer::Cut([head.as_bytes(), &file].concat())
    });
    let mut engine = models.engine();
    let mut client = engine.connect().hello(ClientRole::Call);
    let address = format!("http://{}/a.png", web.address);
    let request = asking(url(1, &address, &["concise"]), &["0.9", "0.5", "short"]);
    let captions = written(client.request(request, &[]));
    let found: Vec<(&str, String)> = captions
        .iter()
        .map(|c| (c.caption.as_str(), c.model.as_ref().unwrap().name.clone()))
        .collect();
    assert_eq!(
        found,
        [
            ("A small cat", "small".into()),
            ("A large cat", "large".into()),
            ("A large cat", "large".into()),
        ]
    );
    assert_eq!(web.seen().len(), 1, "one fetch");
    assert_eq!((models.small.seen().len(), models.large.seen().len()), (3, 2));
    let sent = |server: &ScriptedServer| server.seen()[0].picture().to_owned();
    assert_eq!(sent(&models.small), sent(&models.large), "the same picture");
    // Each model has its own daily limits, which outlive this engine.
    let mut used = BTreeMap::new();
    while used.values().sum::<u64>() < 5 {
        let EngineReport::Used(report) = engine.report() else { panic!("not a use") };
        used.insert(report.digest, report.requests);
    }
    let mut requests: Vec<u64> = used.into_values().collect();
    requests.sort_unstable();
    assert_eq!(requests, [2, 3]);
    // A text without confidence stays.
    let plain = asking(bytes(2, &["concise"]), &["unknown"]);
    assert_eq!(written(client.request(plain, &picture(1)))[0].caption, "A small cat");
}

#[test]
fn an_absent_second_model_is_waited_for_or_not() {
    for (meanwhile, instruction, expected) in [
        ("write", "0.5", Some("A small cat")),
        ("write", "short", None),
        ("wait", "0.5", None),
        ("wait", "0.9", Some("A small cat")),
    ] {
        let models = Models::new(meanwhile);
        let engine = models.engine();
        models.large.kill();
        let mut client = engine.connect().hello(ClientRole::Call);
        let mut request = asking(bytes(1, &["concise"]), &[instruction]);
        request.remaining_ms = 2000;
        let outcome = client.request(request, &picture(1));
        match (expected, outcome) {
            (Some(text), outcome) => assert_eq!(written(outcome)[0].caption, text),
            (None, CaptionOutcome::Failed(failure)) => {
                assert_eq!(failure.code, "model_server_down", "{meanwhile} {instruction}");
                assert_eq!(failure.class, FailureClass::Host);
            }
            (None, outcome) => panic!("{meanwhile} {instruction}: {outcome:?}"),
        }
    }
}

#[test]
fn a_cascade_needs_both_models() {
    let models = Models::new("wait");
    std::fs::remove_file(models.dir.path().join("large/remote.json")).unwrap();
    let mut engine = Engine::start(&EngineConfig {
        model: models.dir.path().join("both"),
        models_directory: models.dir.path().into(),
        ..EngineConfig::default()
    });
    assert_eq!(engine.report(), EngineReport::Starting);
    let EngineReport::Failed(failure) = engine.report() else { panic!("not refused") };
    assert!(failure.detail.unwrap().contains("large"), "the missing model is named");
}

#[test]
fn two_local_models_work_together() {
    let Some(library) = library() else { return };
    let models = tempfile::tempdir().unwrap();
    for (name, model) in [("small", "vit-gpt2"), ("large", "florence2")] {
        std::os::unix::fs::symlink(parity().join(model), models.path().join(name)).unwrap();
    }
    let cascade = r#"{"first": "small", "then": "large", "below": 1.0}"#;
    put(&models.path().join("both"), "cascade.json", cascade);
    let mut engine = Engine::start(&EngineConfig {
        model: models.path().join("both"),
        models_directory: models.path().into(),
        onnxruntime: library,
        threads: 1,
        ..EngineConfig::default()
    });
    assert_eq!(engine.report(), EngineReport::Starting);
    let EngineReport::Ready { .. } = engine.report() else { panic!("not ready") };
    let mut client = engine.connect().hello(ClientRole::Call);
    for id in 0..24 {
        let request = CaptionRequest { min_confidence: Some(0.0), ..bytes(id, &["concise"]) };
        client.send(&ClientMessage::Request(request), &picture(id as usize));
    }
    // More than a batch of each: calls of both models take turns.
    for _ in 0..24 {
        let CaptionOutcome::Done { outputs, .. } = client.reply().outcome else { panic!() };
        let [CaptionOutput::Written(written)] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(written.model.as_ref().unwrap().name, "florence2");
    }
    let status = client.status();
    assert_eq!((status.encoded, status.generated), (48, 48));
}
