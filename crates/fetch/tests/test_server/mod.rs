//! A misbehaving HTTP server and simulated names for the tests.
//!
//! Raw sockets on loopback, because server libraries cannot violate the protocol.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod certificates;

use pg_caption_fetch::{
    FetchClient, FetchError, FetchRequest, FetchResult, FetchSettings, FetchStep, Fetcher,
    FetcherParts, HostAdmission, NameResolver, Reserve, UrlLocation, host_key,
};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longest time that a test waits for an expected event.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The client of the requests.
pub const CLIENT: FetchClient =
    FetchClient { connection: 1, role: pg_caption_wire::ClientRole::Call };

/// One received request.
pub struct ServerRequest {
    /// `GET /path HTTP/1.1` and the headers.
    pub head: String,
    /// The path with its query.
    pub path: String,
    /// Number of earlier requests on this connection.
    pub nth: usize,
}

impl ServerRequest {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|l| l.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }
}

/// What to do with a connection after a response.
pub enum Then {
    /// Read the next request.
    Keep,
    /// Close it.
    Close,
}

/// What a server records.
#[derive(Default)]
pub struct ServerLog {
    pub connections: AtomicUsize,
    pub requests: Mutex<Vec<String>>,
}

/// A server on a free port, on every loopback address.
pub struct TestServer {
    pub port: u16,
    pub log: Arc<ServerLog>,
    stop: Arc<AtomicBool>,
}

impl TestServer {
    /// Answers each request with `answer`, which writes arbitrary bytes.
    pub fn start(
        answer: impl Fn(&ServerRequest, &mut TcpStream) -> io::Result<Then> + Send + Sync + 'static,
    ) -> TestServer {
        TestServer::raw(move |stream, log| converse(stream, log, &answer))
    }

    /// Passes each connection to `talk`.
    pub fn raw(talk: impl Fn(TcpStream, &ServerLog) + Send + Sync + 'static) -> TestServer {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (log, stop, talk) =
            (Arc::new(ServerLog::default()), Arc::new(AtomicBool::new(false)), Arc::new(talk));
        let (server_log, stopped) = (log.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                server_log.connections.fetch_add(1, Ordering::SeqCst);
                let (talk, log) = (talk.clone(), server_log.clone());
                std::thread::spawn(move || talk(stream, &log));
            }
        });
        TestServer { port, log, stop }
    }

    /// A URL of this server by its address.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.requests.lock().unwrap().clone()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port)));
    }
}

fn converse(
    mut stream: TcpStream,
    log: &ServerLog,
    answer: &dyn Fn(&ServerRequest, &mut TcpStream) -> io::Result<Then>,
) {
    let mut nth = 0;
    while let Some(head) = read_head(&mut stream) {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        log.requests.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
        match answer(&ServerRequest { head, path, nth }, &mut stream) {
            Ok(Then::Keep) => nth += 1,
            _ => return,
        }
    }
}

/// Everything up to the empty line; `None` at the end of the connection.
pub fn read_head(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Writes a valid response.
pub fn reply(
    stream: &mut impl Write,
    status: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Then> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len())?;
    stream.write_all(body)?;
    Ok(Then::Keep)
}

/// Simulated names, whose addresses can change with each look-up.
#[derive(Debug, Default)]
pub struct TestNames(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

impl TestNames {
    /// `answers`: a list of addresses for each look-up; the last one stays.
    pub fn new(names: &[(&str, &[&[&str]])]) -> Arc<TestNames> {
        let read = |list: &&[&str]| list.iter().map(|a| a.parse().unwrap()).collect();
        Arc::new(TestNames(Mutex::new(
            names
                .iter()
                .map(|(name, answers)| (name.to_string(), answers.iter().map(read).collect()))
                .collect(),
        )))
    }
}

impl NameResolver for TestNames {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(host).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }
}

/// Settings for servers on loopback.
pub fn settings() -> FetchSettings {
    FetchSettings {
        allowed_networks: vec!["127.0.0.1/32".into()],
        total_timeout: TIMEOUT,
        max_bytes: 1_000_000,
        ..FetchSettings::default()
    }
}

/// A fetcher for servers on loopback.
pub fn fetcher(change: impl FnOnce(&mut FetchSettings)) -> Fetcher {
    named(TestNames::new(&[]), change)
}

/// The same, with simulated names.
pub fn named(resolver: Arc<dyn NameResolver>, change: impl FnOnce(&mut FetchSettings)) -> Fetcher {
    let mut settings = settings();
    change(&mut settings);
    Fetcher::with_parts(settings, FetcherParts { resolver, roots: Some(Vec::new()) }).unwrap()
}

/// Fetches with a long deadline and unlimited memory.
pub fn get(fetcher: &Fetcher, url: &str) -> Result<FetchResult, FetchError> {
    get_with(fetcher, url, &Arc::default(), &mut |_, _| Ok(()))
}

pub fn get_with(
    fetcher: &Fetcher,
    url: &str,
    cancelled: &Arc<AtomicBool>,
    reserve: &mut Reserve<'_>,
) -> Result<FetchResult, FetchError> {
    get_as(fetcher, CLIENT, url, cancelled, reserve)
}

pub fn get_as(
    fetcher: &Fetcher,
    client: FetchClient,
    url: &str,
    cancelled: &Arc<AtomicBool>,
    reserve: &mut Reserve<'_>,
) -> Result<FetchResult, FetchError> {
    let request = FetchRequest {
        url,
        etag: None,
        last_modified: None,
        deadline: Instant::now() + 3 * TIMEOUT,
        cancelled,
        displaced: &Arc::default(),
        client,
    };
    fetch(fetcher, &request, reserve)
}

/// Fetches as the engine does, except that this thread waits while a host is at its limit.
pub fn fetch(
    fetcher: &Fetcher,
    request: &FetchRequest<'_>,
    reserve: &mut Reserve<'_>,
) -> Result<FetchResult, FetchError> {
    let (mut host, mut redirected) = (host_key(request.url)?, None);
    loop {
        let permit = loop {
            let location = || UrlLocation { host: host.clone(), url: request.url.into() };
            match fetcher.admit(&host) {
                HostAdmission::Go(permit) => break permit,
                HostAdmission::Cooling { until } => return Err(fetcher.host_cooling(&host, until)),
                HostAdmission::Busy if request.cancelled.load(Ordering::SeqCst) => {
                    return Err(FetchError::Cancelled { location: location() });
                }
                HostAdmission::Busy if Instant::now() >= request.deadline => {
                    return Err(FetchError::HostBusy { location: location() });
                }
                HostAdmission::Busy => std::thread::park_timeout(Duration::from_millis(5)),
            }
        };
        match fetcher.fetch(permit, redirected.take(), request, reserve)? {
            FetchStep::Done(result) => return Ok(result),
            FetchStep::Redirected(next) => {
                host = next.host().to_owned();
                redirected = Some(next);
            }
        }
    }
}

/// The body of a successful fetch.
pub fn bytes(fetched: Result<FetchResult, FetchError>) -> Vec<u8> {
    match fetched {
        Ok(FetchResult::Body { bytes, .. }) => bytes,
        other => panic!("expected bytes, got {other:?}"),
    }
}

/// The code of a failed fetch.
pub fn code(fetched: Result<FetchResult, FetchError>) -> String {
    match fetched {
        Err(error) => error.code(),
        Ok(got) => panic!("expected an error, got {got:?}"),
    }
}

/// A counter that threads increment and wait for.
#[derive(Default)]
pub struct Rendezvous(Mutex<usize>, Condvar);

impl Rendezvous {
    /// Increments the counter and waits until it reaches `n`.
    pub fn wait_for(&self, n: usize) {
        let mut here = self.0.lock().unwrap();
        *here += 1;
        self.1.notify_all();
        let (here, timeout) = self.1.wait_timeout_while(here, TIMEOUT, |here| *here < n).unwrap();
        assert!(!timeout.timed_out(), "only {here} of {n} arrived");
    }
}
