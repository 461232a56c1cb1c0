//! Starts the engine as the launcher does (socket on descriptor 3, status pipe on 4, configuration
//! on standard input) and uses its protocol.

#![allow(dead_code)] // each test file uses a part of it

pub mod http_server;
pub mod web;

use command_fds::{CommandFdExt, FdMapping};
use pg_caption_pixels::{RgbPicture, encode_png};
use pg_caption_style::builtin;
use pg_caption_wire::{
    AnswerReuse, CaptionOutcome, CaptionOutput, CaptionReply, CaptionRequest, ClientMessage,
    ClientRole, EngineConfig, EngineControl, EngineReport, EngineStatus, Failure, ImageSource,
    OutputSpec, PROTOCOL, ServerMessage, WrittenCaption, frame,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Limit of every wait in a test.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pg_caption_engine");

/// A folder with a listening socket.
fn socket() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("engine");
    let listener = UnixListener::bind(&socket).unwrap();
    (folder, socket, listener)
}

/// A running engine.
pub struct Engine {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub reports: BufReader<std::io::PipeReader>,
    pub listener: UnixListener,
    pub socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Engine {
    pub fn start(config: &EngineConfig) -> Engine {
        let (folder, socket, listener) = self::socket();
        Engine::on(config, listener, socket, folder, true)
    }

    /// As [`Engine::start`], without `LISTEN_FDS`.
    pub fn start_without_activation(config: &EngineConfig) -> Engine {
        let (folder, socket, listener) = self::socket();
        Engine::on(config, listener, socket, folder, false)
    }

    /// As [`Engine::start`], with the given folder as `/etc`; `None` without the rights for that.
    pub fn start_with_etc(config: &EngineConfig, etc: &Path) -> Option<Engine> {
        let probe =
            Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            return None;
        }
        let (folder, socket, listener) = self::socket();
        let mut command = Command::new("unshare");
        let inside = format!("mount --bind '{}' /etc && exec '{PROGRAM}' serve", etc.display());
        command.args(["--mount", "sh", "-c", &inside]);
        Some(Engine::by(command, config, listener, socket, folder, true))
    }

    /// A successor on the same socket.
    pub fn succeed(&self, config: &EngineConfig) -> Engine {
        let listener = self.listener.try_clone().unwrap();
        Engine::on(config, listener, self.socket.clone(), tempfile::tempdir().unwrap(), true)
    }

    fn on(
        config: &EngineConfig,
        listener: UnixListener,
        socket: PathBuf,
        folder: tempfile::TempDir,
        activation: bool,
    ) -> Engine {
        let mut command = Command::new(PROGRAM);
        command.arg("serve");
        Engine::by(command, config, listener, socket, folder, activation)
    }

    fn by(
        mut command: Command,
        config: &EngineConfig,
        listener: UnixListener,
        socket: PathBuf,
        folder: tempfile::TempDir,
        activation: bool,
    ) -> Engine {
        let (reports, status) = std::io::pipe().unwrap();
        command.stdin(Stdio::piped());
        command.env("MALLOC_ARENA_MAX", "2").env("MALLOC_TRIM_THRESHOLD_", "1048576");
        if activation {
            command.env("LISTEN_FDS", "1");
        }
        command
            .fd_mappings(vec![
                FdMapping { parent_fd: OwnedFd::from(listener.try_clone().unwrap()), child_fd: 3 },
                FdMapping { parent_fd: OwnedFd::from(status), child_fd: 4 },
            ])
            .unwrap();
        let mut child = command.spawn().unwrap();
        drop(command); // closes its copy of the status pipe's writing end
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", serde_json::to_string(config).unwrap()).unwrap();
        Engine {
            child,
            stdin: Some(stdin),
            reports: BufReader::new(reports),
            listener,
            socket,
            _folder: folder,
        }
    }

    /// The next report but [`EngineReport::Answered`], which may come at any time.
    pub fn report(&mut self) -> EngineReport {
        loop {
            let report = self.any_report();
            if report != EngineReport::Answered {
                return report;
            }
        }
    }

    pub fn any_report(&mut self) -> EngineReport {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    pub fn connect(&self) -> Client {
        Client::new(UnixStream::connect(&self.socket).unwrap())
    }

    pub fn control(&mut self, control: &EngineControl) {
        writeln!(self.stdin.as_mut().unwrap(), "{}", serde_json::to_string(control).unwrap())
            .unwrap();
    }

    /// Waits until it has exited.
    pub fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + TIMEOUT;
        // The status pipe closes with the process: reading to its end waits without polling.
        let mut rest = Vec::new();
        self.reports.read_to_end(&mut rest).unwrap();
        assert!(Instant::now() < until);
        self.child.wait().unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection.
pub struct Client {
    pub stream: UnixStream,
    reader: frame::FrameReader,
    /// Requests whose pictures run, and whether alone, as reported.
    pub running: Vec<(u64, bool)>,
}

impl Client {
    pub fn new(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client { stream, reader: frame::FrameReader::default(), running: Vec::new() }
    }

    pub fn send(&mut self, message: &ClientMessage, body: &[u8]) {
        self.stream.write_all(&frame::encode_head(message, body.len()).unwrap()).unwrap();
        self.stream.write_all(body).unwrap();
    }

    /// The next message, or `None` at the end of the stream.
    pub fn receive(&mut self) -> Option<ServerMessage> {
        loop {
            if let Some((message, _)) = self.reader.next_frame().unwrap() {
                match message {
                    ServerMessage::Running { id, alone } => self.running.push((id, alone)),
                    message => return Some(message),
                }
                continue;
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(n) => self.reader.feed(&bytes[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub fn hello(mut self, role: ClientRole) -> Client {
        self.send(&ClientMessage::Hello { version: PROTOCOL, release: "test".into(), role }, &[]);
        let Some(ServerMessage::Hello { version, window, .. }) = self.receive() else {
            panic!("no hello")
        };
        assert_eq!(version, PROTOCOL);
        assert!(window >= 1);
        self
    }

    pub fn reply(&mut self) -> CaptionReply {
        match self.receive() {
            Some(ServerMessage::Reply(reply)) => reply,
            other => panic!("not a reply: {other:?}"),
        }
    }

    pub fn request(&mut self, request: CaptionRequest, body: &[u8]) -> CaptionOutcome {
        let id = request.id;
        self.send(&ClientMessage::Request(request), body);
        let reply = self.reply();
        assert_eq!(reply.id, id);
        reply.outcome
    }

    pub fn status(&mut self) -> EngineStatus {
        self.send(&ClientMessage::Status, &[]);
        match self.receive() {
            Some(ServerMessage::Status(status)) => *status,
            other => panic!("not a status: {other:?}"),
        }
    }
}

/// A request for the bytes in the body.
pub fn bytes(id: u64, styles: &[&str]) -> CaptionRequest {
    let outputs = styles
        .iter()
        .map(|s| OutputSpec {
            style: builtin(s).unwrap(),
            max_tokens: 64,
            context: None,
            min_confidence: None,
        })
        .collect();
    CaptionRequest {
        id,
        share: None,
        image: ImageSource::Bytes,
        outputs,
        remaining_ms: 60_000,
        from_turn: false,
        min_confidence: Some(0.0),
        isolated: false,
        rules: Vec::new(),
        earlier: None,
        reuse: AnswerReuse::Any,
    }
}

/// A request for a URL.
pub fn url(id: u64, url: &str, styles: &[&str]) -> CaptionRequest {
    let image = ImageSource::Url { url: url.into(), known: None, shown: None };
    CaptionRequest { image, ..bytes(id, styles) }
}

/// A configuration without a model.
pub fn no_model() -> EngineConfig {
    EngineConfig {
        model: "/nonexistent/model".into(),
        onnxruntime: "/nonexistent/libonnxruntime.so".into(),
        ..EngineConfig::default()
    }
}

/// The project's root.
pub fn root() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().into()
}

/// The parity model and its pictures.
pub fn parity() -> PathBuf {
    root().join("tests/parity")
}

/// The ONNX Runtime library; `None`, with a message, if it is not installed.
pub fn library() -> Option<PathBuf> {
    let path = std::env::var_os("PG_CAPTION_ORT")
        .map_or_else(|| root().join(".run/onnxruntime/libonnxruntime.so"), PathBuf::from);
    if !path.is_file() {
        println!(
            "skipped: no ONNX Runtime library at {} (set PG_CAPTION_ORT to use another)",
            path.display()
        );
        return None;
    }
    Some(path)
}

/// A configuration with the parity model.
pub fn model() -> Option<EngineConfig> {
    Some(EngineConfig {
        model: parity().join("vit-gpt2"),
        onnxruntime: library()?,
        threads: 1,
        // What is encoded is counted.
        memo: 0,
        ..EngineConfig::default()
    })
}

/// A picture that no other number has.
pub fn picture(number: usize) -> Vec<u8> {
    let (width, height) = (32, 24);
    let pixel = |at: usize| [(at * 5 + number) as u8, (number / 256) as u8, (at / 3) as u8];
    let data = (0..width * height).flat_map(pixel).collect();
    encode_png(&RgbPicture { width: width as u32, height: height as u32, data })
}

/// The failure of a request with one output.
pub fn failed(outcome: CaptionOutcome) -> Failure {
    match outcome {
        CaptionOutcome::Failed(failure) => failure,
        CaptionOutcome::Done { outputs, .. } => match outputs.into_iter().next() {
            Some(CaptionOutput::Failed(failure)) => failure,
            other => panic!("not a failure: {other:?}"),
        },
        other => panic!("not a failure: {other:?}"),
    }
}

/// The caption of a request with one output.
pub fn written(outcome: CaptionOutcome) -> WrittenCaption {
    match outcome {
        CaptionOutcome::Done { outputs, .. } => match outputs.into_iter().next() {
            Some(CaptionOutput::Written(written)) => written,
            other => panic!("not written: {other:?}"),
        },
        other => panic!("not done: {other:?}"),
    }
}
