//! The web as the tests need it: a server that misbehaves on command, and names that mean what the
//! test says.
//!
//! Raw sockets on loopback, because no well-behaved server library can be made to lie.

// each test program uses its own part
#![allow(dead_code)]

use pg_caption_fetch::{
    FetchError, FetchRequest, FetchResult, FetchSettings, Fetcher, FetcherParts, NameResolver,
};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The longest any test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One request as it came.
pub struct Request {
    /// `GET /path HTTP/1.1` and the headers.
    pub head: String,
    /// The path with its query.
    pub path: String,
    /// How many requests came on this connection before.
    pub nth: usize,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|l| l.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }
}

/// What to do with a connection after an answer.
pub enum Then {
    /// Read the next request.
    Keep,
    /// Close it.
    Close,
}

/// What server and test share.
#[derive(Default)]
pub struct Log {
    pub connections: AtomicUsize,
    pub requests: Mutex<Vec<String>>,
}

/// A server on a port of its own, on every loopback address.
pub struct Server {
    pub port: u16,
    pub log: Arc<Log>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Answers each request with `answer`, which writes whatever it likes.
    pub fn start(
        answer: impl Fn(&Request, &mut TcpStream) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Server {
        Server::raw(move |stream, log| converse(stream, log, &answer))
    }

    /// Hands each connection to `talk`.
    pub fn raw(talk: impl Fn(TcpStream, &Log) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (log, stop, talk) =
            (Arc::new(Log::default()), Arc::new(AtomicBool::new(false)), Arc::new(talk));
        let (theirs, stopped) = (log.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                theirs.connections.fetch_add(1, Ordering::SeqCst);
                let (talk, log) = (talk.clone(), theirs.clone());
                std::thread::spawn(move || talk(stream, &log));
            }
        });
        Server { port, log, stop }
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

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port)));
    }
}

fn converse(
    mut stream: TcpStream,
    log: &Log,
    answer: &dyn Fn(&Request, &mut TcpStream) -> io::Result<Then>,
) {
    let mut nth = 0;
    while let Some(head) = read_head(&mut stream) {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        log.requests.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
        match answer(&Request { head, path, nth }, &mut stream) {
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

/// A whole, honest answer.
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

/// Names of the test's own, whose answers can change from one look-up to the next.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

impl Names {
    /// `answers`: one list of addresses a look-up; the last one stays.
    pub fn new(names: &[(&str, &[&[&str]])]) -> Arc<Names> {
        let read = |list: &&[&str]| list.iter().map(|a| a.parse().unwrap()).collect();
        Arc::new(Names(Mutex::new(
            names
                .iter()
                .map(|(name, answers)| (name.to_string(), answers.iter().map(read).collect()))
                .collect(),
        )))
    }
}

impl NameResolver for Names {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(host).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }
}

/// Settings for a world on loopback.
pub fn settings() -> FetchSettings {
    FetchSettings {
        allowed_networks: vec!["127.0.0.1/32".into()],
        total_timeout: PATIENCE,
        max_bytes: 1_000_000,
        ..FetchSettings::default()
    }
}

/// A fetcher for a world on loopback.
pub fn fetcher(change: impl FnOnce(&mut FetchSettings)) -> Fetcher {
    named(Names::new(&[]), change)
}

/// The same, with names.
pub fn named(resolver: Arc<dyn NameResolver>, change: impl FnOnce(&mut FetchSettings)) -> Fetcher {
    let mut settings = settings();
    change(&mut settings);
    Fetcher::with_parts(settings, FetcherParts { resolver, roots: Some(Vec::new()) }).unwrap()
}

/// Fetches with patience and all the memory in the world.
pub fn get(fetcher: &Fetcher, url: &str) -> Result<FetchResult, FetchError> {
    get_with(fetcher, url, &Arc::default(), &mut |_, _| Ok(()))
}

pub fn get_with(
    fetcher: &Fetcher,
    url: &str,
    cancelled: &Arc<AtomicBool>,
    reserve: &mut pg_caption_fetch::Reserve<'_>,
) -> Result<FetchResult, FetchError> {
    let get = FetchRequest {
        url,
        etag: None,
        last_modified: None,
        deadline: Instant::now() + 3 * PATIENCE,
        cancelled,
    };
    fetcher.fetch(&get, reserve)
}

/// The bytes, where there must be some.
pub fn bytes(fetched: Result<FetchResult, FetchError>) -> Vec<u8> {
    match fetched {
        Ok(FetchResult::Body { bytes, .. }) => bytes,
        other => panic!("expected bytes, got {other:?}"),
    }
}

/// The code of the error, where there must be one.
pub fn code(fetched: Result<FetchResult, FetchError>) -> String {
    match fetched {
        Err(error) => error.code(),
        Ok(got) => panic!("expected an error, got {got:?}"),
    }
}

/// Waits for a count that other threads raise.
#[derive(Default)]
pub struct Meeting(Mutex<usize>, Condvar);

impl Meeting {
    /// Counts one more and waits until there are `n`.
    pub fn wait_for(&self, n: usize) {
        let mut here = self.0.lock().unwrap();
        *here += 1;
        self.1.notify_all();
        let (here, timeout) = self.1.wait_timeout_while(here, PATIENCE, |here| *here < n).unwrap();
        assert!(!timeout.timed_out(), "only {here} of {n} came");
    }
}
