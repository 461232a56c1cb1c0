//! `serve --http` as a process of its own, and a models directory that names a server.

use super::PROGRAM;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

/// A server of this program. It is killed when this is dropped.
pub struct HttpServer {
    pub child: Child,
    pub address: SocketAddr,
    pub log: BufReader<ChildStderr>,
}

impl HttpServer {
    /// Starts it on a free port of loopback, and waits for its model.
    pub fn start(model: &Path, more: &[&str]) -> HttpServer {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--http", "127.0.0.1:0", "--threads", "1", "--model"])
            .arg(model)
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = HttpServer { child, address: ([127, 0, 0, 1], 0).into(), log };
        let line = server.next_line("is ready on http://");
        let address = line.trim_end().rsplit("http://").next().unwrap();
        server.address = address.trim_end_matches("/v1").parse().unwrap();
        server
    }

    /// The next line of the log that contains `part`.
    pub fn next_line(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the server ended");
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Sends SIGTERM.
    pub fn stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `remote.json` for a server, with further fields.
pub fn remote_json(base_url: &str, more: Value) -> Value {
    let mut remote = json!({ "protocol": "openai", "base_url": base_url, "model": "tiny" });
    for (name, value) in more.as_object().unwrap() {
        remote[name] = value.clone();
    }
    remote
}

/// A models directory with the remote model `far`.
pub fn far(base_url: &str, more: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("far");
    std::fs::create_dir(&folder).unwrap();
    let remote = remote_json(base_url, more);
    std::fs::write(folder.join("remote.json"), remote.to_string()).unwrap();
    dir
}
