//! The hosts of a long run: a steady one, and a moody one whose answers the faults choose.

use pg_caption_tests::{AnswerGate, ServerAnswer, TestServer};
use std::sync::Mutex;

/// Different pictures on each host.
pub const PICTURES: u32 = 8;

/// What the moody host does with requests.
#[derive(Debug, Clone, Copy)]
pub enum Mood {
    /// Answers with the pictures.
    Fine,
    /// Answers with a status, and Retry-After: 1.
    Status(u16),
    /// Closes connections.
    HangUp,
    /// Answers after the mood has changed.
    Silent,
}

/// The web servers.
pub struct Hosts {
    steady: TestServer,
    moody: TestServer,
    gate: Mutex<AnswerGate>,
}

impl Hosts {
    pub fn start() -> Hosts {
        let hosts = Hosts {
            steady: TestServer::start(),
            moody: TestServer::start(),
            gate: Mutex::default(),
        };
        hosts.steady.pictures(PICTURES as usize);
        hosts.steady.serve("/text", ServerAnswer::body(b"no picture".into(), "image/jpeg"));
        hosts.steady.serve("/empty", ServerAnswer::body(Vec::new(), "image/jpeg"));
        // A picture that is gone for good: after 404 it might come later.
        hosts.steady.serve("/gone.jpg", ServerAnswer::status(410));
        hosts.set_mood(Mood::Fine);
        hosts
    }

    /// Changes the moody host.
    pub fn set_mood(&self, mood: Mood) {
        let gate = AnswerGate::new();
        for number in 0..PICTURES {
            let answer = match mood {
                Mood::Fine => ServerAnswer::picture(number),
                Mood::Status(status) => ServerAnswer::status(status).header("Retry-After", "1"),
                Mood::HangUp => ServerAnswer::hang_up(),
                Mood::Silent => ServerAnswer::picture(number).behind(&gate),
            };
            self.moody.serve(&format!("/{number}.jpg"), answer);
        }
        std::mem::replace(&mut *self.gate.lock().unwrap(), gate).open();
    }

    /// URLs of the steady host that give a picture, in the order of their numbers.
    pub fn steady_pictures(&self) -> Vec<String> {
        (0..PICTURES).map(|number| self.steady.url(&format!("/{number}.jpg"))).collect()
    }

    /// The same pictures on the moody host.
    pub fn moody_pictures(&self) -> Vec<String> {
        (0..PICTURES).map(|number| self.moody.url(&format!("/{number}.jpg"))).collect()
    }

    /// URLs that never give a caption, each with the code of its failure.
    pub fn failures(&self) -> Vec<(String, &'static str)> {
        vec![
            (self.steady.url("/gone.jpg"), "http_410"),
            (self.steady.url("/text"), "not_an_image"),
            (self.steady.url("/empty"), "empty"),
            ("http://10.0.0.1/private.jpg".into(), "forbidden_address"),
            ("ftp://shop.example/a.jpg".into(), "bad_scheme"),
        ]
    }
}
