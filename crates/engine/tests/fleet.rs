//! A fleet behind HAProxy, with docs/haproxy.cfg as it is: engines are killed, stopped, added and
//! exchanged while captions are asked for, and each one is answered.

mod harness;

use harness::http_server::{HttpServer, far};
use harness::{Client, Engine, TIMEOUT, bytes, picture, written};
use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_wire::{ClientMessage, ClientRole, EngineConfig, EngineReport};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An engine of the fleet, whose model writes one text.
struct FleetEngine {
    text: &'static str,
    http: HttpServer,
    _model: (ScriptedServer, tempfile::TempDir),
}

impl FleetEngine {
    fn start(text: &'static str) -> FleetEngine {
        let model = ScriptedServer::start(move |_| {
            std::thread::sleep(Duration::from_millis(5));
            ScriptedAnswer::text(text, Some(0.9))
        });
        let models = far(&model.url(), json!({ "model": "shop" }));
        let http = HttpServer::start(&models.path().join("far"), &[]);
        FleetEngine { text, http, _model: (model, models) }
    }
}

/// HAProxy with the configuration of the documentation, but for its addresses.
struct Proxy {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Proxy {
    /// `None`: HAProxy is not installed.
    fn start(engines: &[&FleetEngine]) -> Option<Proxy> {
        let program = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];
        let program = program.into_iter().find(|path| Path::new(path).exists())?;
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        write_configuration(folder.path(), address, engines);
        let child = Command::new(program)
            .args(["-W", "-q", "-f"])
            .arg(folder.path().join("haproxy.cfg"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Proxy { child, address, folder })
    }

    /// Other engines, as `systemctl reload haproxy` does it.
    fn reload(&self, engines: &[&FleetEngine]) {
        write_configuration(self.folder.path(), self.address, engines);
        kill_process(Pid::from_child(&self.child), Signal::USR2).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn write_configuration(folder: &Path, address: SocketAddr, engines: &[&FleetEngine]) {
    let published = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/haproxy.cfg");
    let published = std::fs::read_to_string(published).unwrap();
    let mut lines: Vec<String> = published
        .lines()
        .filter(|line| !line.trim_start().starts_with("server "))
        .map(|line| line.replace("127.0.0.1:8000", &address.to_string()))
        .collect();
    assert!(lines.iter().any(|line| line.contains(&address.to_string())), "{published}");
    let servers = engines.iter().enumerate();
    lines.extend(servers.map(|(n, engine)| format!("  server gpu{n} {}", engine.http.address)));
    std::fs::write(folder.join("haproxy.cfg"), lines.join("\n") + "\n").unwrap();
}

/// A client that always waits for eight captions of different pictures.
struct Asking {
    client: Client,
    asked: usize,
    answered: usize,
}

impl Asking {
    /// Waits until each text was written this often from now on; returns all texts.
    fn until(&mut self, expected: &[(&FleetEngine, usize)]) -> Vec<String> {
        let end = Instant::now() + TIMEOUT;
        let mut texts: Vec<String> = Vec::new();
        let missing = |texts: &[String]| {
            expected.iter().any(|(engine, count)| {
                texts.iter().filter(|text| *text == engine.text).count() < *count
            })
        };
        while missing(&texts) {
            assert!(Instant::now() < end, "missing after {} texts", texts.len());
            texts.push(self.next());
        }
        texts
    }

    fn next(&mut self) -> String {
        while self.asked < self.answered + 8 {
            let request = bytes(self.asked as u64, &["concise"]);
            self.client.send(&ClientMessage::Request(request), &picture(self.asked));
            self.asked += 1;
        }
        self.answered += 1;
        written(self.client.reply().outcome).caption
    }

    fn finish(mut self) {
        while self.answered < self.asked {
            self.answered += 1;
            written(self.client.reply().outcome);
        }
    }
}

#[test]
fn a_changing_fleet_answers_every_request() {
    let (one, two) = (FleetEngine::start("A black cat"), FleetEngine::start("A white cat"));
    let Some(proxy) = Proxy::start(&[&one, &two]) else {
        eprintln!("skipped: haproxy is not installed");
        return;
    };
    let models = far(&format!("http://{}/v1", proxy.address), json!({ "model": "far" }));
    let mut engine = Engine::start(&EngineConfig {
        model: models.path().join("far"),
        models_directory: models.path().into(),
        ..EngineConfig::default()
    });
    assert_eq!(engine.report(), EngineReport::Starting);
    let EngineReport::Ready { .. } = engine.report() else { panic!("not ready") };
    let mut asking =
        Asking { client: engine.connect().hello(ClientRole::Call), asked: 0, answered: 0 };
    asking.until(&[(&one, 5), (&two, 5)]);

    // An engine dies.
    drop(one);
    asking.until(&[(&two, 20)]);
    // One more engine: PostgreSQL's engine is not touched.
    let three = FleetEngine::start("A red cat");
    proxy.reload(&[&two, &three]);
    asking.until(&[(&two, 5), (&three, 5)]);
    // One engine less.
    two.http.stop();
    asking.until(&[(&three, 20)]);
    let mut two = two;
    assert_eq!(two.http.child.wait().unwrap().code(), Some(0));
    // Another model under the same name.
    let four = FleetEngine::start("A large cat");
    proxy.reload(&[&three, &four]);
    asking.until(&[(&four, 5)]);
    proxy.reload(&[&four]);
    asking.until(&[(&four, 20)]);
    three.http.stop();
    let last = asking.until(&[(&four, 20)]);
    assert!(last.iter().rev().take(10).all(|text| text == four.text), "{last:?}");
    asking.finish();
}
