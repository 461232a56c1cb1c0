//! A hub on loopback with the protocol of the real one (listing, redirects to another host for
//! large files, ranges), which fails on request.

#![allow(dead_code, reason = "each test program uses a part of it")]

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// The only commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A fault of the next response for a file.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after this many bytes of the body.
    Drop(usize),
    /// A byte is wrong.
    Wrong,
    /// The requested range is ignored: the whole file is sent.
    NoRange,
    /// A status, and the hub's code for it in a header.
    Status(u16, Option<&'static str>),
    /// One byte too many.
    Long,
}

/// A received request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    pub path: String,
    pub host: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    repo: String,
    files: BTreeMap<String, Vec<u8>>,
    /// Announced sizes that differ from those of the files.
    sizes: BTreeMap<String, u64>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    token: Option<String>,
    seen: Vec<SeenRequest>,
}

/// The files of a folder and of its `onnx/`.
pub fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for prefix in ["", "onnx/"] {
        for entry in
            std::fs::read_dir(folder.join(prefix)).unwrap().flatten().filter(|e| e.path().is_file())
        {
            files.insert(
                format!("{prefix}{}", entry.file_name().to_str().unwrap()),
                std::fs::read(entry.path()).unwrap(),
            );
        }
    }
    files
}

/// A hub with one repository.
pub struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Starts one that publishes these files.
    pub fn start(repo: &str, files: BTreeMap<String, Vec<u8>>) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { repo: repo.into(), files, ..State::default() }));
        let (shared, at) = (state.clone(), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, at) = (shared.clone(), at.clone());
                // A client may disconnect early.
                std::thread::spawn(move || respond(&shared, &at, stream).ok());
            }
        });
        Hub { address, state }
    }

    /// Starts one that publishes the files of a folder and of its `onnx/`.
    pub fn of_folder(repo: &str, folder: &Path) -> Hub {
        Hub::start(repo, files_of(folder))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The value for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the faults of the next responses for a file.
    pub fn fail(&self, file: &str, faults: &[Fault]) {
        self.state().faults.insert(file.into(), faults.iter().cloned().collect());
    }

    /// Publishes another file.
    pub fn put(&self, file: &str, bytes: &[u8]) {
        self.state().files.insert(file.into(), bytes.into());
    }

    /// Announces this size of a file.
    pub fn announce_size(&self, file: &str, size: u64) {
        self.state().sizes.insert(file.into(), size);
    }

    /// Requires this token.
    pub fn gate(&self, token: &str) {
        self.state().token = Some(token.into());
    }

    /// A file's bytes.
    pub fn file(&self, file: &str) -> Vec<u8> {
        self.state().files[file].clone()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<SeenRequest> {
        self.state().seen.clone()
    }

    /// Large files that were requested, with the range.
    pub fn fetched(&self) -> Vec<(String, Option<String>)> {
        self.seen()
            .into_iter()
            .filter_map(|s| Some((s.path.strip_prefix("/cdn/")?.to_string(), s.range)))
            .collect()
    }
}

/// Large files are on another host and have a checksum, as at the hub.
fn is_large(file: &str) -> bool {
    file.starts_with("onnx/") || file == "tokenizer.json"
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn respond(state: &Mutex<State>, address: &str, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or("/").to_string();
    let path = target.split('?').next().unwrap_or("/").to_string();
    let mut seen =
        SeenRequest { path: path.clone(), host: String::new(), range: None, authorization: None };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.into()),
            "authorization" => seen.authorization = Some(value.into()),
            "host" => seen.host = value.into(),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    state.seen.push(seen.clone());
    let repo = state.repo.clone();
    let authorized = state
        .token
        .as_ref()
        .is_none_or(|token| seen.authorization == Some(format!("Bearer {token}")));
    let mut reply = Reply { stream, head: Vec::new() };
    if let Some(file) = path.strip_prefix("/cdn/") {
        let (bytes, fault) = (
            state.files.get(file).cloned(),
            state.faults.get_mut(file).and_then(VecDeque::pop_front),
        );
        drop(state);
        return match bytes {
            Some(bytes) => reply.file(bytes, seen.range.as_deref(), fault),
            None => reply.status(404, None),
        };
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{repo}/revision/")) {
        return match revision {
            "main" | COMMIT | "refs%2Fpr%2F1" => reply.json(&listing(&state)),
            _ => reply.status(404, Some("RevisionNotFound")),
        };
    }
    let Some(file) = path.strip_prefix(&format!("/{repo}/resolve/{COMMIT}/")).map(str::to_owned)
    else {
        return reply
            .status(if seen.authorization.is_some() { 404 } else { 401 }, Some("RepoNotFound"));
    };
    if !authorized {
        return reply
            .status(if seen.authorization.is_some() { 403 } else { 401 }, Some("GatedRepo"));
    }
    match state.files.get(&file).cloned() {
        None => reply.status(404, Some("EntryNotFound")),
        Some(bytes) if is_large(&file) => {
            reply.head.push(format!(
                "X-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}",
                sha256(&bytes),
                bytes.len()
            ));
            // Another name of this machine counts as another host.
            let other = address.replace("127.0.0.1", "localhost");
            reply.head.push(format!("Location: http://{other}/cdn/{file}"));
            reply.status(302, None)
        }
        Some(bytes) => {
            let fault = state.faults.get_mut(&file).and_then(VecDeque::pop_front);
            drop(state);
            reply.file(bytes, seen.range.as_deref(), fault)
        }
    }
}

fn listing(state: &State) -> Value {
    let sibling = |(path, bytes): (&String, &Vec<u8>)| {
        let size = state.sizes.get(path).copied().unwrap_or(bytes.len() as u64);
        let mut sibling = json!({ "rfilename": path, "size": size, "blobId": "0" });
        if is_large(path) {
            sibling["lfs"] = json!({ "sha256": sha256(bytes), "size": size, "pointerSize": 134 });
        }
        sibling
    };
    let siblings: Vec<Value> = state.files.iter().map(sibling).collect();
    json!({ "id": state.repo, "sha": COMMIT, "gated": false, "siblings": siblings })
}

struct Reply {
    stream: TcpStream,
    head: Vec<String>,
}

impl Reply {
    fn send(&mut self, status: u16, body: &[u8], length: usize) -> std::io::Result<()> {
        let mut head =
            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n");
        self.head.iter().for_each(|line| head += &format!("{line}\r\n"));
        self.stream.write_all(format!("{head}\r\n").as_bytes())?;
        self.stream.write_all(body)
    }

    fn status(&mut self, status: u16, code: Option<&str>) -> std::io::Result<()> {
        self.head.extend(code.map(|code| format!("X-Error-Code: {code}")));
        self.send(status, b"", 0)
    }

    fn json(&mut self, value: &Value) -> std::io::Result<()> {
        let body = value.to_string();
        self.send(200, body.as_bytes(), body.len())
    }

    fn file(
        &mut self,
        mut bytes: Vec<u8>,
        range: Option<&str>,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let from =
            range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let mut status = 200;
        match (&fault, from) {
            (Some(Fault::Status(status, code)), _) => return self.status(*status, *code),
            (Some(Fault::NoRange), _) | (_, None) => {}
            (_, Some(from)) if from >= bytes.len() => return self.status(416, None),
            (_, Some(from)) => {
                self.head.push(format!(
                    "Content-Range: bytes {from}-{}/{}",
                    bytes.len() - 1,
                    bytes.len()
                ));
                bytes.drain(..from);
                status = 206;
            }
        }
        match fault {
            Some(Fault::Wrong) => bytes[0] ^= 1,
            Some(Fault::Long) => bytes.push(0),
            _ => {}
        }
        let sent =
            if let Some(Fault::Drop(sent)) = fault { sent.min(bytes.len()) } else { bytes.len() };
        self.send(status, &bytes[..sent], bytes.len())
    }
}
