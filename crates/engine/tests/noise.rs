//! One client cannot block the others: slow downloads, large files, and idle connections.

mod harness;

use harness::{Client, Engine, model, no_model, parity, url};
use pg_caption_wire::{
    CaptionOutcome, ClientMessage, ClientRole, EngineConfig, EngineReport, ServerMessage,
};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Connections that an engine serves, and those kept for workers (`serve/admission.rs`).
const PLACES: usize = 512;
const KEPT: usize = 32;

/// A ready engine with few fetch threads, whose fetches take as long as the host likes.
fn ready(change: impl FnOnce(&mut EngineConfig)) -> Option<Engine> {
    let mut config = EngineConfig {
        allowed_networks: vec!["127.0.0.0/8".into()],
        fetch_concurrency: 8,
        host_concurrency: 1000,
        fetch_timeout_ms: 3_600_000,
        ..model()?
    };
    change(&mut config);
    let mut engine = Engine::start(&config);
    assert_eq!(engine.report(), EngineReport::Starting);
    assert!(matches!(engine.report(), EngineReport::Ready { .. }));
    Some(engine)
}

/// A server that sends `sent` bytes of each body and nothing more, or the whole body.
struct Host {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl Host {
    fn start(body: Vec<u8>, sent: usize) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, held) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counter, body) = (asked.clone(), Arc::new(body));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (counter, body, held) = (counter.clone(), body.clone(), held.clone());
                std::thread::spawn(move || {
                    if Host::serve(&stream, &body[..sent], body.len(), &counter).is_ok() {
                        held.lock().unwrap().push(stream);
                    }
                });
            }
        });
        Host { address, asked }
    }

    fn serve(
        mut stream: &TcpStream,
        part: &[u8],
        length: usize,
        counter: &AtomicUsize,
    ) -> std::io::Result<()> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
            head.push(byte[0]);
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n")?;
        write!(stream, "Connection: close\r\n\r\n")?;
        counter.fetch_add(1, Ordering::SeqCst);
        stream.write_all(part)
    }

    /// A host that sends a picture.
    fn quick() -> Host {
        let picture = std::fs::read(parity().join("images/02_shapes.png")).unwrap();
        let length = picture.len();
        Host::start(picture, length)
    }

    /// Each number is a URL of its own: rows with one URL share a fetch.
    fn url(&self, number: u64) -> String {
        format!("http://{}/{number}.jpg", self.address)
    }

    /// Waits until it was asked so often.
    fn wait_for(&self, asked: usize) {
        let end = Instant::now() + harness::TIMEOUT;
        while self.asked.load(Ordering::SeqCst) < asked {
            assert!(Instant::now() < end, "{} of {asked}", self.asked.load(Ordering::SeqCst));
            std::thread::yield_now();
        }
    }
}

/// Sends as many requests as the connection accepts.
fn flood(client: &mut Client, host: &Host, requests: u64) {
    for id in 0..requests {
        client.send(&ClientMessage::Request(url(id, &host.url(id), &["concise"])), &[]);
    }
}

fn is_captioned(client: &mut Client, host: &Host) -> bool {
    let outcome = client.request(url(1000, &host.url(1000), &["concise"]), &[]);
    matches!(outcome, CaptionOutcome::Done { .. })
}

/// Another session and another worker get their captions.
#[track_caller]
fn assert_others_served(engine: &Engine, quick: &Host) {
    for role in [ClientRole::Call, ClientRole::Worker] {
        let mut other = engine.connect().hello(role);
        assert!(is_captioned(&mut other, quick), "{role:?}");
    }
}

/// One client floods a host that stalls files of this length.
fn assert_flood_delays_no_other(role: ClientRole, length: usize) {
    let Some(engine) = ready(|_| {}) else { return };
    let (slow, quick) = (Host::start(vec![0; length], 100), Host::quick());
    let mut greedy = engine.connect().hello(role);
    flood(&mut greedy, &slow, 64);
    slow.wait_for(3);
    assert_others_served(&engine, &quick);
}

#[test]
fn slow_downloads_of_one_client_delay_no_other() {
    assert_flood_delays_no_other(ClientRole::Call, 50 << 20);
}

#[test]
fn a_slow_worker_leaves_threads_to_calls_and_workers() {
    assert_flood_delays_no_other(ClientRole::Worker, 1 << 20);
}

#[test]
fn many_slow_clients_give_way_to_one_more() {
    let Some(engine) = ready(|_| {}) else { return };
    let (slow, quick) = (Host::start(vec![0; 1 << 20], 100), Host::quick());
    // Five clients for eight threads: some of them have more than one.
    let greedy: Vec<Client> = (0..5)
        .map(|_| engine.connect().hello(ClientRole::Call))
        .map(|mut client| {
            flood(&mut client, &slow, 64);
            client
        })
        .collect();
    slow.wait_for(6);
    assert_others_served(&engine, &quick);
    drop(greedy);
}

#[test]
fn stalled_large_files_give_their_memory_away() {
    // 16 MB for files; the stalled ones hold 4 MB each.
    let Some(engine) = ready(|c| (c.memory = 64 << 20, c.max_image_size = 8 << 20).0) else {
        return;
    };
    let stalled = Host::start(vec![0; 8 << 20], 4 << 20);
    let picture = std::fs::read(parity().join("images/02_shapes.png")).unwrap();
    // A picture followed by surplus bytes: a large file of few pixels.
    let length = 3 << 20;
    let large = [picture, vec![0; length]].concat();
    let length = large.len();
    let large = Host::start(large, length);
    let mut greedy = engine.connect().hello(ClientRole::Worker);
    flood(&mut greedy, &stalled, 64);
    stalled.wait_for(3);
    let mut other = engine.connect().hello(ClientRole::Call);
    for _ in 0..5 {
        assert!(is_captioned(&mut other, &large));
    }
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let mut engine = Engine::start(&no_model());
    assert_eq!(engine.report(), EngineReport::Starting);
    assert!(matches!(engine.report(), EngineReport::Failed(_)));
    let mut idle: Vec<Client> =
        (0..PLACES - KEPT).map(|_| engine.connect().hello(ClientRole::Call)).collect();
    let mut worker = engine.connect().hello(ClientRole::Worker);
    assert_eq!(worker.status().connections as usize, PLACES - KEPT + 1, "a place was kept for it");
    // The first one is used again: the second one is idle longest.
    idle[0].status();
    let mut new = engine.connect().hello(ClientRole::Call);
    assert_eq!(idle[1].receive(), Some(ServerMessage::GoAway));
    assert_eq!(idle[1].receive(), None);
    assert_eq!(new.status().state, "failed");
    assert_eq!(idle[0].status().state, "failed");
}
