//! What reaches the model thread from the others: prepared pictures, and jobs that want captions of
//! a picture already encoded.

use crate::budget::Reservation;
use crate::job::Job;
use crate::picture::{Seen, Work};
use crate::pipeline::Ahead;
use pg_caption_captioner::PixelValues;
use pg_caption_wire::ImageFacts;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A picture ready for the encoder.
pub struct Prepared {
    /// Its work.
    pub work: Work,
    /// The file.
    pub facts: ImageFacts,
    /// The tensor.
    pub pixels: PixelValues,
    /// Of the tensor, if asked for.
    pub pixels_sha256: Option<String>,
    /// Its place ahead of the model.
    pub ahead: Ahead,
    /// Its bytes.
    pub held: Reservation,
}

/// One thing that reached the model thread.
pub enum Letter {
    /// To be encoded.
    Picture(Box<Prepared>),
    /// To be generated from features there are.
    Captions(Arc<Job>, Arc<Seen>),
}

/// The queue in front of the model thread; bounded by the places ahead of it and the windows of the
/// connections.
#[derive(Default)]
pub struct Inbox {
    letters: Mutex<Vec<Letter>>,
    arrived: Condvar,
}

impl Inbox {
    /// A picture is ready.
    pub fn push(&self, prepared: Prepared) {
        self.post(Letter::Picture(Box::new(prepared)));
    }

    /// Posts a letter.
    pub fn post(&self, letter: Letter) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
        self.arrived.notify_one();
    }

    /// Everything that has arrived; waits for something if `idle`.
    pub fn take(&self, idle: bool) -> Vec<Letter> {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if idle {
            letters = self
                .arrived
                .wait_while(letters, |l| l.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut letters)
    }
}
