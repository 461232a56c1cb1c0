//! A model server for tests, scripted: it answers as a function says, notes what it was sent, and
//! can be killed and started again on its address.

use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A request as the server received it.
#[derive(Debug, Clone)]
pub struct SeenRequest {
    /// Method, path and version.
    pub line: String,
    /// Headers by lower-case name.
    pub headers: HashMap<String, String>,
    /// The body, if it is JSON.
    pub body: Value,
    /// Number of the connection.
    pub connection: usize,
}

impl SeenRequest {
    /// The instruction of a chat request.
    pub fn instruction(&self) -> &str {
        self.body["messages"][0]["content"][1]["text"].as_str().unwrap_or_default()
    }

    /// The picture of a chat request, as its data URL.
    pub fn picture(&self) -> &str {
        self.body["messages"][0]["content"][0]["image_url"]["url"].as_str().unwrap_or_default()
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub enum ScriptedAnswer {
    /// Status, further header lines (each with its line end), body.
    Full(u16, String, String),
    /// These bytes, then the connection is closed.
    Cut(Vec<u8>),
}

impl ScriptedAnswer {
    /// A status and a body.
    pub fn status(status: u16, body: &str) -> ScriptedAnswer {
        ScriptedAnswer::Full(status, String::new(), body.into())
    }

    /// A chat answer with a text, and the same probability for each of two tokens, if stated.
    pub fn text(text: &str, probability: Option<f64>) -> ScriptedAnswer {
        let logprobs = probability.map(|probability| {
            let token = serde_json::json!({ "token": "x", "logprob": probability.ln() });
            serde_json::json!({ "content": [token, token] })
        });
        let body = serde_json::json!({
            "choices": [{ "message": { "role": "assistant", "content": text },
                          "finish_reason": "stop", "logprobs": logprobs }],
            "usage": { "prompt_tokens": 100, "completion_tokens": 10 },
        });
        ScriptedAnswer::status(200, &body.to_string())
    }
}

type Script = dyn Fn(&SeenRequest) -> ScriptedAnswer + Send + Sync;

/// The server. It ends when this is dropped.
pub struct ScriptedServer {
    /// Its address, which stays the same.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<SeenRequest>>,
    changed: Condvar,
    in_flight: AtomicUsize,
    /// Most requests at the same time so far.
    peak: AtomicUsize,
    life: Mutex<Life>,
}

/// One life of the server, from its start to its death.
#[derive(Default)]
struct Life {
    ended: Arc<AtomicBool>,
    streams: Vec<TcpStream>,
    connections: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptedServer {
    /// Starts a server on loopback that answers as `script` says.
    ///
    /// # Panics
    /// There is no free port.
    pub fn start(
        script: impl Fn(&SeenRequest) -> ScriptedAnswer + Send + Sync + 'static,
    ) -> ScriptedServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            changed: Condvar::new(),
            in_flight: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            life: Mutex::default(),
        });
        let address = listener.local_addr().expect("an address");
        let server = ScriptedServer { address, shared };
        server.listen(listener);
        server
    }

    /// Its address as a `base_url`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it was sent so far, but for questions who it is.
    pub fn seen(&self) -> Vec<SeenRequest> {
        locked(&self.shared.seen).clone()
    }

    /// Waits until it was sent so many requests.
    pub fn wait_for(&self, requests: usize) {
        let mut seen = locked(&self.shared.seen);
        while seen.len() < requests {
            seen = self.shared.changed.wait(seen).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Requests that are being answered now.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Most requests at the same time so far.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Ends all connections, whatever they are in the middle of, and listens no longer.
    pub fn kill(&self) {
        let life = {
            let mut life = locked(&self.shared.life);
            life.ended.store(true, Ordering::SeqCst);
            std::mem::take(&mut *life)
        };
        for stream in life.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the listening thread, which then drops its socket.
        while TcpStream::connect(self.address).is_ok() {
            thread::yield_now();
        }
    }

    /// Listens again, after [`ScriptedServer::kill`].
    ///
    /// # Panics
    /// The port is in use.
    pub fn restart(&self) {
        self.listen(TcpListener::bind(self.address).expect("the port of before"));
    }

    fn listen(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        let ended = locked(&shared.life).ended.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = {
                    let mut life = locked(&shared.life);
                    if ended.load(Ordering::SeqCst) {
                        break;
                    }
                    life.streams.extend(stream.try_clone());
                    life.connections += 1;
                    life.connections
                };
                let shared = shared.clone();
                // The end of the connection ends the thread.
                thread::spawn(move || drop(serve(&shared, &stream, connection)));
            }
        });
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Counts a request as in flight until dropped.
struct Counted<'a>(&'a Shared);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(shared: &Shared, stream: &TcpStream, connection: usize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = receive(&mut reader, connection)? {
        if request.line.starts_with("GET /v1/") {
            // Clients ask who the server is; scripts are about captions.
            let mut stream = stream;
            stream.write_all(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let counted = Counted(shared);
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak.fetch_max(now, Ordering::SeqCst);
        locked(&shared.seen).push(request.clone());
        shared.changed.notify_all();
        let answer = (shared.script)(&request);
        drop(counted);
        let mut stream = stream;
        match answer {
            ScriptedAnswer::Full(status, headers, body) => {
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n{headers}\r\n");
                stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
            }
            ScriptedAnswer::Cut(bytes) => {
                stream.write_all(&bytes)?;
                return stream.shutdown(Shutdown::Both);
            }
        }
    }
    Ok(())
}

fn receive(
    reader: &mut BufReader<&TcpStream>,
    connection: usize,
) -> std::io::Result<Option<SeenRequest>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: HashMap<String, String> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some(SeenRequest {
        line: lines.into_iter().next().unwrap_or_default(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        connection,
    }))
}
