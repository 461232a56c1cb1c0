//! Whole requests through server and pipeline, answered by a provider without ONNX.

use super::acceptor::ClientAcceptor;
use crate::engine::{Engine, EngineOptions};
use crate::provider::fake::{FakeProvider, raw};
use crate::provider::values::RawCaption;
use pg_caption_pixels::{RgbPicture, encode_png};
use pg_caption_style::{CaptionStyle, TextEnding, builtin, postprocess};
use pg_caption_wire::{
    CaptionOutcome, CaptionOutput, CaptionRequest, ClientMessage, ClientRole, EngineConfig,
    Failure, FailureClass, ImageSource, OutputSpec, PROTOCOL, ServerMessage, WrittenCaption, frame,
};
use rustix::net::{RecvFlags, recv};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const RAW: &str = " a red ball on the green grass of a park. ";

/// A client of a server with a fake provider.
struct Client {
    stream: UnixStream,
    reader: frame::FrameReader,
    prepared: Arc<AtomicUsize>,
    /// Requests whose pictures run, and whether alone, as reported.
    running: Vec<(u64, bool)>,
    _folder: tempfile::TempDir,
}

impl Client {
    fn of(
        answer: impl Fn(&OutputSpec) -> Result<RawCaption, Failure> + Send + Sync + 'static,
    ) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (provider, prepared) = FakeProvider::start(answer);
        let options = EngineOptions { provider, ..EngineOptions::new(EngineConfig::default()) };
        let engine = Engine::start(options).unwrap();
        let acceptor = Arc::new(ClientAcceptor::new(listener, engine).unwrap());
        thread::spawn(move || acceptor.run());
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let reader = frame::FrameReader::default();
        let mut client = Client { stream, reader, prepared, running: Vec::new(), _folder: folder };
        let role = ClientRole::Call;
        client.send(&ClientMessage::Hello { version: PROTOCOL, release: "test".into(), role }, &[]);
        assert!(matches!(client.receive(), ServerMessage::Hello { .. }));
        client
    }

    fn send(&mut self, message: &ClientMessage, body: &[u8]) {
        self.stream.write_all(&frame::encode_head(message, body.len()).unwrap()).unwrap();
        self.stream.write_all(body).unwrap();
    }

    fn receive(&mut self) -> ServerMessage {
        let mut bytes = [0; 4096];
        loop {
            if let Some((message, _)) = self.reader.next_frame().unwrap() {
                match message {
                    ServerMessage::Running { id, alone } => self.running.push((id, alone)),
                    message => return message,
                }
                continue;
            }
            let read = self.stream.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "the server closed the connection");
            self.reader.feed(&bytes[..read]);
        }
    }

    fn submit(&mut self, styles: &[CaptionStyle], min_confidence: Option<f32>) {
        let output = |style: &CaptionStyle| OutputSpec {
            style: style.clone(),
            max_tokens: 64,
            context: None,
            min_confidence: None,
        };
        let request = CaptionRequest {
            id: 1,
            share: Some(1),
            image: ImageSource::Bytes,
            outputs: styles.iter().map(output).collect(),
            remaining_ms: 60_000,
            from_turn: false,
            min_confidence,
            isolated: false,
        };
        self.send(&ClientMessage::Request(request), &picture());
    }

    fn request(&mut self, styles: &[CaptionStyle], min_confidence: Option<f32>) -> CaptionOutcome {
        self.submit(styles, min_confidence);
        match self.receive() {
            ServerMessage::Reply(reply) => reply.outcome,
            other => panic!("not a reply: {other:?}"),
        }
    }

    fn outputs(&mut self, styles: &[CaptionStyle]) -> Vec<CaptionOutput> {
        match self.request(styles, None) {
            CaptionOutcome::Done { outputs, model, .. } => {
                assert_eq!(model.name, "fake");
                outputs
            }
            other => panic!("no captions: {other:?}"),
        }
    }
}

fn picture() -> Vec<u8> {
    let data = (0..32 * 32 * 3).map(|i| (i * 7 % 251) as u8).collect();
    encode_png(&RgbPicture { width: 32, height: 32, data })
}

fn concise() -> CaptionStyle {
    builtin("concise").unwrap()
}

fn written(output: &CaptionOutput) -> &WrittenCaption {
    match output {
        CaptionOutput::Written(written) => written,
        CaptionOutput::Failed(failure) => panic!("no caption: {failure:?}"),
    }
}

#[test]
fn raw_text_is_postprocessed() {
    let mut client = Client::of(|_| Ok(raw(RAW, Some(0.75))));
    let outputs = client.outputs(&[concise()]);
    let caption = written(&outputs[0]);
    assert_eq!(caption.caption, postprocess(RAW, &concise(), TextEnding::Complete).unwrap());
    assert_eq!((caption.tokens, caption.confidence), (7, Some(0.75)));
}

#[test]
fn low_confidence_is_uncertain() {
    let mut client = Client::of(|_| Ok(raw(RAW, Some(0.25))));
    let outputs = client.outputs(&[concise()]);
    let CaptionOutput::Failed(failure) = &outputs[0] else { panic!("{outputs:?}") };
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Uncertain, "low_confidence"));
}

#[test]
fn without_confidence_no_threshold_applies() {
    let mut client = Client::of(|_| Ok(raw(RAW, None)));
    let CaptionOutcome::Done { outputs, .. } = client.request(&[concise()], Some(1.0)) else {
        panic!("no captions")
    };
    assert_eq!(written(&outputs[0]).confidence, None);
    let json = serde_json::to_value(written(&outputs[0])).unwrap();
    assert!(json["confidence"].is_null(), "{json}");
}

#[test]
fn a_providers_failure_fails_the_request() {
    let failure = Failure::new(FailureClass::Host, "http_429", "the model server is busy");
    let expected = failure.clone();
    let mut client = Client::of(move |_| Err(failure.clone()));
    assert_eq!(client.request(&[concise()], None), CaptionOutcome::Failed(expected));
}

#[test]
fn a_dropped_task_is_answered_as_lost() {
    let mut client = Client::of(|_| Ok(raw(RAW, None)));
    let dropped = CaptionStyle { name: "dropped".into(), ..concise() };
    let CaptionOutcome::Failed(failure) = client.request(&[dropped], None) else {
        panic!("captions of a dropped task")
    };
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Retry, "lost"));
}

// An engine that died did not say of what, and an innocent picture was blamed.
#[test]
fn a_picture_is_reported_before_it_runs() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let mut client = Client::of(move |_| {
        wait.lock().unwrap().recv().unwrap();
        Ok(raw(RAW, None))
    });
    client.send(&ClientMessage::Status, &[]);
    assert!(matches!(client.receive(), ServerMessage::Status(_)));
    assert_eq!(client.running, []);
    client.submit(&[concise()], None);
    // The report is there while the model works on the picture.
    let mut first = [0; 1];
    recv(&client.stream, &mut first, RecvFlags::PEEK).unwrap();
    release.send(()).unwrap();
    assert!(matches!(client.receive(), ServerMessage::Reply(_)));
    assert_eq!(client.running, [(1, true)]);
    // A further request for the encoded picture.
    release.send(()).unwrap();
    assert_eq!(client.outputs(&[concise()]).len(), 1);
    assert_eq!(client.running, [(1, true), (1, true)]);
}

#[test]
fn all_captions_share_one_prepared_picture() {
    let mut client = Client::of(|output| Ok(raw(&format!("{} {RAW}", output.style.name), None)));
    let styles = [concise(), builtin("detailed").unwrap()];
    assert_eq!(client.outputs(&styles).len(), 2);
    // A further request with the same share number.
    assert_eq!(client.outputs(&[concise()]).len(), 1);
    assert_eq!(client.prepared.load(Ordering::Relaxed), 1);
}
