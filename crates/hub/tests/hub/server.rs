//! A hub on loopback: it speaks the protocol of the real one (listing, redirect to where large
//! files lie, ranges) and misbehaves on request.

#![allow(dead_code, reason = "each test program uses a part")]

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// The one commit there is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with the next answer for a file.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Drop(usize),
    /// A byte is wrong.
    Wrong,
    /// The range asked for is passed over: the whole file.
    NoRange,
    /// A status, and what the hub calls it in its own header.
    Status(u16, Option<&'static str>),
    /// More than the file has.
    Long,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub host: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    repo: String,
    files: BTreeMap<String, Vec<u8>>,
    /// Sizes told that are not those of the files.
    sizes: BTreeMap<String, u64>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    token: Option<String>,
    seen: Vec<Seen>,
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
                // A client that left early is its own affair.
                std::thread::spawn(move || answer(&shared, &at, stream).ok());
            }
        });
        Hub { address, state }
    }

    /// The files of a folder, and of `onnx/` in it.
    pub fn of_folder(repo: &str, folder: &Path) -> Hub {
        let mut files = BTreeMap::new();
        for prefix in ["", "onnx/"] {
            for entry in std::fs::read_dir(folder.join(prefix))
                .unwrap()
                .flatten()
                .filter(|e| e.path().is_file())
            {
                files.insert(
                    format!("{prefix}{}", entry.file_name().to_str().unwrap()),
                    std::fs::read(entry.path()).unwrap(),
                );
            }
        }
        Hub::start(repo, files)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What goes wrong with the next answers for a file.
    pub fn fail(&self, file: &str, faults: &[Fault]) {
        self.state().faults.insert(file.into(), faults.iter().cloned().collect());
    }

    /// Publishes another file.
    pub fn put(&self, file: &str, bytes: &[u8]) {
        self.state().files.insert(file.into(), bytes.into());
    }

    /// Tells this size of a file.
    pub fn tell_size(&self, file: &str, size: u64) {
        self.state().sizes.insert(file.into(), size);
    }

    /// Opens only to who has the token.
    pub fn gate(&self, token: &str) {
        self.state().token = Some(token.into());
    }

    /// A file's bytes.
    pub fn file(&self, file: &str) -> Vec<u8> {
        self.state().files[file].clone()
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Files whose bytes were asked for where large ones lie, with the range.
    pub fn fetched(&self) -> Vec<(String, Option<String>)> {
        self.seen()
            .into_iter()
            .filter_map(|s| Some((s.path.strip_prefix("/cdn/")?.to_string(), s.range)))
            .collect()
    }
}

/// Large files lie elsewhere and have a checksum, as at the hub.
fn is_large(file: &str) -> bool {
    file.starts_with("onnx/") || file == "tokenizer.json"
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn answer(state: &Mutex<State>, address: &str, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or("/").to_string();
    let path = target.split('?').next().unwrap_or("/").to_string();
    let mut seen =
        Seen { path: path.clone(), host: String::new(), range: None, authorization: None };
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
    let known = state
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
    if !known {
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
            // Another name of this machine: another host, as far as a token is concerned.
            let place = address.replace("127.0.0.1", "localhost");
            reply.head.push(format!("Location: http://{place}/cdn/{file}"));
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
