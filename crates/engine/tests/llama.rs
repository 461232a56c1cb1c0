//! A real model server: llama.cpp's, with a model of random weights. Skipped with a message where
//! `llama-server` (Debian's package llama.cpp-tools) or the model's files are not available.

mod harness;

use harness::{Engine, bytes, root};
use pg_caption_pixels::{RgbPicture, encode_png};
use pg_caption_wire::{CaptionOutcome, ClientRole, EngineConfig, EngineReport, FailureClass};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

struct LlamaServer(Child, u16);

impl LlamaServer {
    /// `LLAMA_SERVER` names another program or script than `llama-server`.
    fn start() -> Option<LlamaServer> {
        let program = std::env::var("LLAMA_SERVER").unwrap_or_else(|_| "llama-server".into());
        let files: PathBuf = root().join("../shared/remote");
        let (text, projector) = (files.join("text.gguf"), files.join("mmproj.gguf"));
        if !text.is_file() || !projector.is_file() {
            println!("skipped: no model at {}", files.display());
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let started = Command::new(&program)
            .args(["-np", "4", "--host", "127.0.0.1", "--port", &port.to_string(), "-m"])
            .arg(text)
            .arg("--mmproj")
            .arg(projector)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = started else {
            println!("skipped: no {program} (set LLAMA_SERVER to use another)");
            return None;
        };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if child.try_wait().unwrap().is_some() {
                println!("skipped: {program} does not run here");
                return None;
            }
            std::thread::yield_now();
        }
        Some(LlamaServer(child, port))
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn llama_cpp_captions_with_confidence() {
    let Some(server) = LlamaServer::start() else { return };
    let models = tempfile::tempdir().unwrap();
    let folder = models.path().join("llama");
    std::fs::create_dir(&folder).unwrap();
    let remote = format!(
        r#"{{"protocol": "openai", "base_url": "http://127.0.0.1:{}/v1", "model": "tiny"}}"#,
        server.1
    );
    std::fs::write(folder.join("remote.json"), remote).unwrap();
    let mut engine = Engine::start(&EngineConfig {
        model: folder,
        models_directory: models.path().into(),
        wait_until_ready: true,
        ..EngineConfig::default()
    });
    assert_eq!(engine.report(), EngineReport::Starting);
    let EngineReport::Ready { .. } = engine.report() else { panic!("llama.cpp is refused") };
    let mut client = engine.connect().hello(ClientRole::Call);
    let data = (0..64 * 48 * 3).map(|at: u32| (at * 11) as u8).collect();
    let picture = encode_png(&RgbPicture { width: 64, height: 48, data });
    // Random weights write nonsense, which the rules of a style may refuse.
    match client.request(bytes(1, &["concise"]), &picture) {
        CaptionOutcome::Done { .. } => {}
        CaptionOutcome::Failed(failure) => {
            assert_eq!(failure.class, FailureClass::Uncertain, "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    let remote = client.status().model.unwrap().remote.unwrap();
    let used = &remote.usage[0];
    assert!(used.images >= 1 && used.input_tokens > 0 && used.output_tokens > 0, "{used:?}");
    assert!(!remote.learned.iter().any(|what| what.contains("logprobs")), "{:?}", remote.learned);
}
