//! A web server on loopback that does as a test tells it, and remembers what it was asked.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::pictures;

/// What a path is answered with.
#[derive(Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    gate: Option<Gate>,
    hang_up: bool,
}

impl Answer {
    /// Only a status.
    pub fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Arc::default(), gate: None, hang_up: false }
    }

    /// A file.
    pub fn body(bytes: Vec<u8>, content_type: &str) -> Answer {
        Answer { body: Arc::new(bytes), ..Answer::status(200) }.header("Content-Type", content_type)
    }

    /// A JPEG picture; different numbers are different pictures.
    pub fn picture(number: u32) -> Answer {
        Answer::body(pictures::jpeg(number), "image/jpeg")
    }

    /// The connection ends without an answer.
    pub fn hang_up() -> Answer {
        Answer { hang_up: true, ..Answer::status(200) }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The answer waits until the gate is opened.
    pub fn behind(mut self, gate: &Gate) -> Answer {
        self.gate = Some(gate.clone());
        self
    }
}

/// Holds answers back until a test has seen what it wanted to see.
#[derive(Clone, Default)]
pub struct Gate {
    inner: Arc<(Mutex<GateState>, Condvar)>,
}

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// A closed one.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets everybody pass, for good.
    pub fn open(&self) {
        self.inner.0.lock().unwrap().open = true;
        self.inner.1.notify_all();
    }

    /// How many requests stand before it now.
    pub fn waiting(&self) -> usize {
        self.inner.0.lock().unwrap().waiting
    }

    fn pass(&self) {
        let mut state = self.inner.0.lock().unwrap();
        state.waiting += 1;
        state = self.inner.1.wait_while(state, |state| !state.open).unwrap();
        state.waiting -= 1;
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// With the query, if any.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    routes: Mutex<HashMap<String, Answer>>,
    everywhere: Mutex<Option<Answer>>,
    requests: Mutex<Vec<Request>>,
    closing: AtomicBool,
}

/// Listens on a port that none of this process has had: an engine that tests share knows hosts by
/// their ports, and leaves one that has asked for patience alone long after its test.
fn fresh_port() -> TcpListener {
    static HAD: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        if HAD.lock().unwrap().insert(listener.local_addr().expect("an address").port()) {
            return listener;
        }
    }
}

/// The server. Paths that it was not told about are 404.
pub struct Web {
    address: SocketAddr,
    state: Arc<State>,
}

impl Web {
    /// Starts one on a free port.
    pub fn start() -> Web {
        let listener = fresh_port();
        let web =
            Web { address: listener.local_addr().expect("an address"), state: Arc::default() };
        let state = web.state.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if state.closing.load(Ordering::Relaxed) {
                    break;
                }
                let state = state.clone();
                // A client that hangs up in between is none of the server's business.
                std::thread::spawn(move || drop(converse(&state, connection)));
            }
        });
        web
    }

    /// From now on that path is answered so.
    pub fn serve(&self, path: &str, answer: Answer) -> String {
        self.state.routes.lock().unwrap().insert(path.into(), answer);
        self.url(path)
    }

    /// From now on every path that has no answer of its own is answered so; the URL of one.
    pub fn serve_all(&self, answer: Answer) -> String {
        *self.state.everywhere.lock().unwrap() = Some(answer);
        self.url("/any.jpg")
    }

    /// Serves `count` different pictures at `/0.jpg`, `/1.jpg` … and returns their URLs.
    pub fn pictures(&self, count: usize) -> Vec<String> {
        (0..count)
            .map(|number| self.serve(&format!("/{number}.jpg"), Answer::picture(number as u32)))
            .collect()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often a path was asked for.
    pub fn hits(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    /// What a path was asked for with, in order.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.state
            .requests
            .lock()
            .unwrap()
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }

    /// How many requests came in all.
    pub fn total(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::Relaxed);
        for answer in self.state.routes.lock().unwrap().values() {
            answer.gate.iter().for_each(Gate::open);
        }
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// Answers requests on one connection until it ends.
fn converse(state: &State, mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        let own = state.routes.lock().unwrap().get(&request.path).cloned();
        let answer = own
            .or_else(|| state.everywhere.lock().unwrap().clone())
            .unwrap_or_else(|| Answer::status(404));
        let asked = request.headers.clone();
        state.requests.lock().unwrap().push(request);
        if let Some(gate) = &answer.gate {
            gate.pass();
        }
        if answer.hang_up || state.closing.load(Ordering::Relaxed) {
            break;
        }
        // As a server that knows validators: whoever names the one of this answer has it already.
        let has = |validator: &str, condition: Option<&String>| {
            condition.is_some_and(|value| {
                answer.headers.iter().any(|h| h.0 == validator && h.1 == *value)
            })
        };
        let known = has("ETag", asked.get("if-none-match"))
            || has("Last-Modified", asked.get("if-modified-since"));
        let status = if known && answer.status == 200 { 304 } else { answer.status };
        let length = if status == 304 { 0 } else { answer.body.len() };
        let mut bytes =
            format!("HTTP/1.1 {status} Test\r\nContent-Length: {length}\r\n").into_bytes();
        for (name, value) in &answer.headers {
            write!(bytes, "{name}: {value}\r\n")?;
        }
        bytes.extend_from_slice(b"\r\n");
        if status != 304 {
            bytes.extend_from_slice(&answer.body);
        }
        connection.write_all(&bytes)?;
    }
    Ok(())
}

/// The next request without a body; `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(Some(Request { path, headers }));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}
