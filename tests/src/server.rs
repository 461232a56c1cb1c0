//! A web server on loopback with answers set by the test. It records all requests.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::pictures;

/// The answer to a path.
#[derive(Clone)]
pub struct ServerAnswer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    gate: Option<AnswerGate>,
    takes: Duration,
    hang_up: bool,
}

impl ServerAnswer {
    /// A status without a body.
    pub fn status(status: u16) -> ServerAnswer {
        ServerAnswer {
            status,
            headers: Vec::new(),
            body: Arc::default(),
            gate: None,
            takes: Duration::ZERO,
            hang_up: false,
        }
    }

    /// A file.
    pub fn body(bytes: Vec<u8>, content_type: &str) -> ServerAnswer {
        ServerAnswer { body: Arc::new(bytes), ..ServerAnswer::status(200) }
            .header("Content-Type", content_type)
    }

    /// A JPEG picture; different numbers give different pictures.
    pub fn picture(number: u32) -> ServerAnswer {
        ServerAnswer::body(pictures::jpeg(number), "image/jpeg")
    }

    /// Closes the connection without an answer.
    pub fn hang_up() -> ServerAnswer {
        ServerAnswer { hang_up: true, ..ServerAnswer::status(200) }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> ServerAnswer {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The answer takes this time, as that of a slow host does.
    pub fn taking(mut self, time: Duration) -> ServerAnswer {
        self.takes = time;
        self
    }

    /// Delays the answer until the gate is opened.
    pub fn behind(mut self, gate: &AnswerGate) -> ServerAnswer {
        self.gate = Some(gate.clone());
        self
    }
}

/// Delays answers until a test has checked the state in between. Closed at first.
#[derive(Clone, Default)]
pub struct AnswerGate {
    inner: Arc<(Mutex<GateState>, Condvar)>,
}

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl AnswerGate {
    /// A closed gate.
    pub fn new() -> AnswerGate {
        AnswerGate::default()
    }

    /// Releases all current and later requests.
    pub fn open(&self) {
        self.inner.0.lock().unwrap().open = true;
        self.inner.1.notify_all();
    }

    /// The number of requests that wait at the gate.
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

/// A recorded request.
#[derive(Debug, Clone)]
pub struct ServerRequest {
    /// The path, including the query.
    pub path: String,
    /// The headers; names in lower case.
    pub headers: HashMap<String, String>,
}

type RequestCheck = Arc<dyn Fn(&ServerRequest) -> bool + Send + Sync>;

#[derive(Default)]
struct ServerState {
    routes: Mutex<HashMap<String, ServerAnswer>>,
    everywhere: Mutex<Option<ServerAnswer>>,
    check: Mutex<Option<RequestCheck>>,
    requests: Mutex<Vec<ServerRequest>>,
    closing: AtomicBool,
}

/// Listens on a port that no earlier server of this process used. The shared engine identifies
/// hosts by their ports, and a cooldown of one test's server outlasts that test.
fn fresh_port() -> TcpListener {
    static USED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        if USED.lock().unwrap().insert(listener.local_addr().expect("an address").port()) {
            return listener;
        }
    }
}

/// A running web server. Paths without an answer return 410: the picture is gone for good, while a
/// 404 may end soon.
pub struct TestServer {
    address: SocketAddr,
    state: Arc<ServerState>,
}

impl TestServer {
    /// Starts a server on a free port.
    pub fn start() -> TestServer {
        let listener = fresh_port();
        let web = TestServer {
            address: listener.local_addr().expect("an address"),
            state: Arc::default(),
        };
        let state = web.state.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if state.closing.load(Ordering::Relaxed) {
                    break;
                }
                let state = state.clone();
                // An error only means that the client closed the connection.
                std::thread::spawn(move || drop(converse(&state, connection)));
            }
        });
        web
    }

    /// Sets the answer of a path from now on; returns its URL.
    pub fn serve(&self, path: &str, answer: ServerAnswer) -> String {
        self.state.routes.lock().unwrap().insert(path.into(), answer);
        self.url(path)
    }

    /// Sets the answer of all other paths from now on; returns the URL of one of them.
    pub fn serve_all(&self, answer: ServerAnswer) -> String {
        *self.state.everywhere.lock().unwrap() = Some(answer);
        self.url("/any.jpg")
    }

    /// Answers requests with 401 from now on for which `check` is false.
    pub fn require(&self, check: impl Fn(&ServerRequest) -> bool + Send + Sync + 'static) {
        *self.state.check.lock().unwrap() = Some(Arc::new(check));
    }

    /// All requests, in order.
    pub fn all_requests(&self) -> Vec<ServerRequest> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Serves `count` different pictures at `/0.jpg`, `/1.jpg` … and returns their URLs.
    pub fn pictures(&self, count: usize) -> Vec<String> {
        self.serve_numbered(count, ServerAnswer::picture)
    }

    /// Like [`TestServer::pictures`], all of them behind the gate.
    pub fn gated_pictures(&self, count: usize, gate: &AnswerGate) -> Vec<String> {
        self.serve_numbered(count, |number| ServerAnswer::picture(number).behind(gate))
    }

    /// Like [`TestServer::pictures`], the second half of them behind the gate: a table of these
    /// URLs stays half filled until the test opens the gate. The pictures repeat after ten.
    pub fn half_gated_pictures(&self, count: usize, gate: &AnswerGate) -> Vec<String> {
        self.serve_numbered(count, |number| {
            let picture = ServerAnswer::picture(number % 10);
            if (number as usize) < count / 2 { picture } else { picture.behind(gate) }
        })
    }

    fn serve_numbered(&self, count: usize, answer: impl Fn(u32) -> ServerAnswer) -> Vec<String> {
        (0..count as u32).map(|n| self.serve(&format!("/{n}.jpg"), answer(n))).collect()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The number of requests of a path.
    pub fn hits(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    /// The requests of a path, in order.
    pub fn requests(&self, path: &str) -> Vec<ServerRequest> {
        self.state
            .requests
            .lock()
            .unwrap()
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }

    /// The number of requests of all paths.
    pub fn total(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::Relaxed);
        for answer in self.state.routes.lock().unwrap().values() {
            answer.gate.iter().for_each(AnswerGate::open);
        }
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

/// Answers requests on one connection until it ends.
fn converse(state: &ServerState, mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        let own = state.routes.lock().unwrap().get(&request.path).cloned();
        let answer = own
            .or_else(|| state.everywhere.lock().unwrap().clone())
            .unwrap_or_else(|| ServerAnswer::status(410));
        let check = state.check.lock().unwrap().clone();
        let is_refused = check.is_some_and(|check| !check(&request));
        let answer = if is_refused { ServerAnswer::status(401) } else { answer };
        let headers = request.headers.clone();
        state.requests.lock().unwrap().push(request);
        if let Some(gate) = &answer.gate {
            gate.pass();
        }
        std::thread::sleep(answer.takes);
        if answer.hang_up || state.closing.load(Ordering::Relaxed) {
            break;
        }
        // Validators: a request that names those of the answer is answered with 304.
        let matches = |validator: &str, condition: Option<&String>| {
            condition.is_some_and(|value| {
                answer.headers.iter().any(|h| h.0 == validator && h.1 == *value)
            })
        };
        let unchanged = matches("ETag", headers.get("if-none-match"))
            || matches("Last-Modified", headers.get("if-modified-since"));
        let status = if unchanged && answer.status == 200 { 304 } else { answer.status };
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

/// Reads the next request, without a body; `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<ServerRequest>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(Some(ServerRequest { path, headers }));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}
