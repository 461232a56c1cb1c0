//! Pictures for which a server failed while it served others. As with pictures that kill engines,
//! a suspect is tried alone, and only failures of such trials are held against it.

use std::collections::{HashMap, VecDeque};

/// Pictures remembered.
const MOST_REMEMBERED: usize = 1024;
/// Failures among served pictures that make a suspect.
const SUSPICIONS: u32 = 2;

/// The pictures that a server failed for.
#[derive(Debug, Default)]
pub struct SuspectPictures {
    /// Answers about other pictures so far.
    served: u64,
    failed: HashMap<String, Suspicion>,
    order: VecDeque<String>,
}

#[derive(Debug, Clone, Copy)]
struct Suspicion {
    failures: u32,
    /// Failures while nothing else was in flight.
    lone: u32,
    /// [`SuspectPictures::served`] at the last failure that counted.
    served: u64,
}

impl SuspectPictures {
    /// The server answered for this picture.
    pub fn served(&mut self, picture: &str) {
        self.served += 1;
        self.failed.remove(picture);
    }

    /// Whether the picture is to be sent while no other one is.
    pub fn is_suspect(&self, picture: &str) -> bool {
        self.failed.get(picture).is_some_and(|known| known.failures >= SUSPICIONS)
    }

    /// Whether the server has served another picture since its last failure for this suspect.
    pub fn is_due(&self, picture: &str) -> bool {
        self.failed.get(picture).is_none_or(|known| known.served < self.served)
    }

    /// The server failed for this picture, which was sent `alone` or among others. Returns whether
    /// the picture is the cause, which takes so many lone `trials`: a server that ends connections
    /// may have been stopped by chance, one that answers 500 was not.
    pub fn failed(&mut self, picture: &str, alone: bool, trials: u32) -> bool {
        let served = self.served;
        match self.failed.get_mut(picture) {
            Some(known) if known.served < served => {
                known.served = served;
                if known.failures >= SUSPICIONS {
                    known.lone += u32::from(alone);
                    return alone && known.lone >= trials;
                }
                known.failures += 1;
                false
            }
            // The server has served nothing since: it fails for all pictures.
            Some(_) => false,
            None => {
                if self.order.len() >= MOST_REMEMBERED
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.failed.remove(&oldest);
                }
                self.order.push_back(picture.into());
                self.failed.insert(picture.into(), Suspicion { failures: 1, lone: 0, served });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_is_blamed_for_a_lone_failure_only() {
        let mut pictures = SuspectPictures::default();
        for _ in 0..3 {
            assert!(!pictures.failed("bad", false, 1));
            pictures.served("good");
        }
        assert!(pictures.is_suspect("bad") && !pictures.is_suspect("good"));
        assert!(pictures.is_due("bad"));
        assert!(!pictures.failed("bad", false, 1), "others were in flight, too");
        assert!(!pictures.is_due("bad"), "another trial would say nothing new");
        pictures.served("good");
        assert!(!pictures.failed("bad", true, 2), "a trial of two");
        pictures.served("good");
        assert!(pictures.failed("bad", true, 2));
        pictures.served("bad");
        assert!(!pictures.is_suspect("bad"), "it was served after all");
    }

    #[test]
    fn a_server_that_serves_nothing_blames_no_picture() {
        let mut pictures = SuspectPictures::default();
        assert!((0..10).all(|_| !pictures.failed("a", true, 1) && !pictures.failed("b", true, 1)));
        assert!(!pictures.is_suspect("a"));
    }

    #[test]
    fn memory_of_suspects_is_bounded() {
        let mut pictures = SuspectPictures::default();
        for n in 0..3 * MOST_REMEMBERED {
            pictures.failed(&n.to_string(), false, 1);
            pictures.served("good");
        }
        assert!(pictures.failed.len() <= MOST_REMEMBERED);
        assert!(pictures.order.len() <= MOST_REMEMBERED);
    }
}
