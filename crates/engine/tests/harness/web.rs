//! An HTTP server whose requests the test answers, and pictures to answer with.

use super::{TIMEOUT, parity};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// A picture of the parity tests.
pub fn image(name: &str) -> Vec<u8> {
    std::fs::read(parity().join("images").join(name)).unwrap()
}

/// Waits for a condition.
pub fn until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < end, "waited too long");
    }
}

/// An HTTP server on loopback that passes each connection to the test.
pub struct Web {
    /// Address and port.
    pub address: String,
    /// Each request and its head.
    pub requests: Receiver<(TcpStream, String)>,
}

impl Web {
    pub fn start() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (send, requests): (Sender<(TcpStream, String)>, _) = channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n")
                    && stream.read(&mut byte).is_ok_and(|n| n == 1)
                {
                    request.push(byte[0]);
                }
                if send.send((stream, String::from_utf8_lossy(&request).into_owned())).is_err() {
                    break;
                }
            }
        });
        Web { address, requests }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request and its path.
    pub fn next(&self) -> (TcpStream, String) {
        let (stream, head) = self.next_head();
        (stream, head.split(' ').nth(1).unwrap_or_default().to_string())
    }

    /// The next request and its head.
    pub fn next_head(&self) -> (TcpStream, String) {
        self.requests.recv_timeout(TIMEOUT).expect("a request")
    }
}
