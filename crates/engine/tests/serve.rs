//! `serve` without a model: start and end, the protocol, failures.

mod harness;

use harness::{Client, Engine, bytes, no_model, url};
use pg_caption_wire::{
    CaptionOutcome, ClientMessage, ClientRole, EngineConfig, EngineControl, EngineReport,
    FailureClass, PROTOCOL, ServerMessage,
};
use std::io::Write;
use std::os::unix::net::UnixStream;

fn failed(outcome: CaptionOutcome) -> pg_caption_wire::Failure {
    match outcome {
        CaptionOutcome::Failed(failure) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}

fn started(config: &EngineConfig) -> Engine {
    let mut engine = Engine::start(config);
    assert_eq!(engine.report(), EngineReport::Starting);
    engine
}

fn without_model() -> Engine {
    let mut engine = started(&no_model());
    assert!(matches!(engine.report(), EngineReport::Failed(_)));
    engine
}

#[test]
fn a_missing_model_is_an_answer() {
    let mut engine = started(&no_model());
    let EngineReport::Failed(failure) = engine.report() else { panic!("not failed") };
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Engine, "no_model"));
    let mut client = engine.connect().hello(ClientRole::Call);
    for id in 1..4 {
        let answer = failed(client.request(url(id, "http://127.0.0.1/x.jpg", &["concise"]), &[]));
        assert_eq!(answer, failure);
    }
    let status = client.status();
    assert_eq!(
        (status.state.as_str(), status.in_flight, status.answered, status.connections),
        ("failed", 0, 3, 1)
    );
    assert_eq!(status.failure, Some(failure));
    assert!(status.confinement.iter().any(|c| c == "no_new_privs"), "{:?}", status.confinement);
}

// `top` and messages of the kernel showed "6", the descriptor that was executed.
#[test]
fn the_kernel_shows_the_engine_by_name() {
    let engine = started(&no_model());
    let name = std::fs::read_to_string(format!("/proc/{}/comm", engine.child.id())).unwrap();
    assert_eq!(name.trim_end(), "pg_caption_engi");
}

#[test]
fn a_ping_is_answered_without_a_model() {
    let mut engine = without_model();
    for number in [7, 8] {
        engine.control(&EngineControl::Ping { number });
        assert_eq!(engine.report(), EngineReport::Pong { number, busy_ms: 0 });
    }
}

#[test]
fn the_socket_is_found_without_activation() {
    let engine = Engine::start_without_activation(&no_model());
    assert_eq!(engine.connect().hello(ClientRole::Call).status().pid, engine.child.id());
}

#[test]
fn the_engine_exits_at_the_end_of_input() {
    let mut engine = started(&no_model());
    drop(engine.stdin.take());
    assert_eq!(engine.ended().code(), Some(0));
}

#[test]
fn without_configuration_the_engine_exits() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_pg_caption_engine"))
        .arg("serve")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn sigterm_ends_the_engine_with_status_0() {
    let mut engine = without_model();
    let _client = engine.connect().hello(ClientRole::Call);
    let pid = rustix::process::Pid::from_child(&engine.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(engine.ended().code(), Some(0));
}

#[test]
fn a_drained_engine_keeps_its_socket_open() {
    let mut engine = without_model();
    let mut client = engine.connect().hello(ClientRole::Worker);
    let mut successor = engine.succeed(&no_model());
    assert_eq!(successor.report(), EngineReport::Starting);
    assert!(matches!(successor.report(), EngineReport::Failed(_)));
    engine.control(&EngineControl::Drain);
    assert_eq!(client.receive(), Some(ServerMessage::GoAway));
    assert_eq!(client.receive(), None);
    assert_eq!(engine.ended().code(), Some(0));
    let mut client = successor.connect().hello(ClientRole::Worker);
    assert_eq!(client.status().pid, successor.child.id());
}

#[test]
fn an_unready_successor_accepts_no_client() {
    let mut engine = without_model();
    let mut successor = engine.succeed(&EngineConfig { wait_until_ready: true, ..no_model() });
    assert_eq!(successor.report(), EngineReport::Starting);
    assert!(matches!(successor.report(), EngineReport::Failed(_)));
    for _ in 0..20 {
        assert_eq!(engine.connect().hello(ClientRole::Call).status().pid, engine.child.id());
    }
    drop(successor.stdin.take());
    assert_eq!(successor.ended().code(), Some(0));
    drop(engine.stdin.take());
    assert_eq!(engine.ended().code(), Some(0));
}

#[test]
fn an_unready_successor_exits_when_drained() {
    let engine = without_model();
    let mut successor = engine.succeed(&EngineConfig { wait_until_ready: true, ..no_model() });
    assert_eq!(successor.report(), EngineReport::Starting);
    assert!(matches!(successor.report(), EngineReport::Failed(_)));
    successor.control(&EngineControl::Drain);
    assert_eq!(successor.ended().code(), Some(0));
}

#[test]
fn a_version_mismatch_names_both_versions() {
    let engine = without_model();
    let mut client = engine.connect();
    client.send(
        &ClientMessage::Hello {
            version: PROTOCOL + 1,
            release: "9.9.9".into(),
            role: ClientRole::Call,
        },
        &[],
    );
    let Some(ServerMessage::Refused(failure)) = client.receive() else { panic!("not refused") };
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Engine, "version_mismatch"));
    let detail = failure.detail.unwrap();
    assert!(detail.contains("9.9.9") && detail.contains(env!("CARGO_PKG_VERSION")), "{detail}");
    assert!(failure.hint.unwrap().contains("ALTER EXTENSION"));
    assert_eq!(client.receive(), None);
}

#[test]
fn invalid_bytes_close_only_their_connection() {
    let engine = without_model();
    for invalid in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']]
    {
        let mut stream = UnixStream::connect(&engine.socket).unwrap();
        stream.write_all(invalid).unwrap();
        let mut client = Client::new(stream);
        assert!(matches!(client.receive(), Some(ServerMessage::Refused(_))));
        assert_eq!(client.receive(), None);
    }
    assert_eq!(engine.connect().hello(ClientRole::Call).status().state, "failed");
}

#[test]
fn too_large_pictures_fail_only_their_request() {
    let engine = started(&EngineConfig { max_image_size: 1000, ..no_model() });
    let mut client = engine.connect().hello(ClientRole::Call);
    let failure = failed(client.request(bytes(1, &["concise"]), &[0; 5000]));
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Reject, "too_large"));
    assert!(
        failure.message.contains("1000")
            && failure.hint.unwrap().contains("pg_caption.max_image_size")
    );
    assert_eq!(
        failed(client.request(bytes(2, &["concise"]), &[0; 500])).class,
        FailureClass::Engine
    );
}

#[test]
fn a_leaving_client_is_no_longer_counted() {
    let engine = without_model();
    let mut watcher = engine.connect().hello(ClientRole::Call);
    drop(engine.connect().hello(ClientRole::Call));
    let until = std::time::Instant::now() + harness::TIMEOUT;
    while watcher.status().connections != 1 {
        assert!(std::time::Instant::now() < until);
    }
}
