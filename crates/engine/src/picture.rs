//! One picture on its way through fetch, decode and encode, and the jobs that wait for it. Jobs of
//! a statement that want the same picture meet here; everybody else has a picture of their own.

use crate::failures;
use crate::job::{Answer, Job, Source, Stage};
use pg_caption_captioner::{PictureFeatures, TileViews};
use pg_caption_wire::{ClientRole, ImageFacts, StageTimings};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// SHA-256, lower-case hex.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A picture after the encoder.
pub struct Seen {
    /// What the encoder made of it.
    pub features: Arc<PictureFeatures>,
    /// The file.
    pub facts: ImageFacts,
    /// Fetch to encode.
    pub timings: StageTimings,
    /// Of the tensor, if asked for.
    pub pixels_sha256: Option<String>,
    /// When it had been encoded.
    pub at: Instant,
}

enum State {
    Pending(Vec<Arc<Job>>),
    Seen(Arc<Seen>),
    Ended(Box<Answer>),
    /// Nobody waited any more, or it is not kept.
    Gone,
}

/// What became of a job that asked for a picture somebody else has asked for.
pub enum Joined {
    /// It waits with the others.
    Waiting,
    /// The picture has been encoded.
    Seen(Arc<Seen>),
    /// The picture has come to nothing.
    Ended(Box<Answer>),
    /// The picture is of no use: make a new one.
    Gone,
}

/// A picture.
pub struct Picture {
    /// Where it comes from.
    pub source: Source,
    /// Of the first job, for turns.
    pub connection: u64,
    /// Of the first job.
    pub role: ClientRole,
    /// Set when nobody waits any more: ends a fetch in mid-air.
    pub cancelled: Arc<AtomicBool>,
    state: Mutex<State>,
}

impl Picture {
    /// The picture of a job, which from now on waits for it.
    pub fn new(job: &Arc<Job>) -> Arc<Picture> {
        let picture = Arc::new(Picture {
            source: job.source.clone(),
            connection: job.connection,
            role: job.role,
            cancelled: Arc::default(),
            state: Mutex::new(State::Pending(vec![job.clone()])),
        });
        job.waits_for(&picture);
        picture
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another job wants it.
    pub fn join(self: &Arc<Self>, job: &Arc<Job>) -> Joined {
        let mut state = self.state();
        match &mut *state {
            State::Pending(jobs) if !self.cancelled.load(Ordering::Acquire) => {
                jobs.push(job.clone());
                drop(state);
                job.waits_for(self);
                Joined::Waiting
            }
            State::Seen(seen) => Joined::Seen(seen.clone()),
            State::Ended(answer) => Joined::Ended(answer.clone()),
            State::Pending(_) | State::Gone => Joined::Gone,
        }
    }

    /// Whether it is still on its way.
    pub fn is_pending(&self) -> bool {
        matches!(&*self.state(), State::Pending(_)) && !self.cancelled.load(Ordering::Acquire)
    }

    /// Whether somebody still waits. Once nobody does it stays unwanted: the work on it is let go.
    pub fn wanted(&self) -> bool {
        let gone: Vec<Arc<Job>>;
        let wanted = match &mut *self.state() {
            State::Pending(jobs) => {
                let (open, closed) =
                    std::mem::take(jobs).into_iter().partition(|job| job.is_open());
                *jobs = open;
                gone = closed;
                let wanted = !jobs.is_empty() && !self.cancelled.load(Ordering::Acquire);
                self.cancelled.store(!wanted, Ordering::Release);
                wanted
            }
            _ => return true,
        };
        drop(gone);
        wanted
    }

    fn jobs(&self) -> Vec<Arc<Job>> {
        match &*self.state() {
            State::Pending(jobs) => jobs.clone(),
            _ => Vec::new(),
        }
    }

    /// Notes the stage for all who wait.
    pub fn at(&self, stage: Stage) {
        self.jobs().iter().for_each(|job| job.at(stage));
    }

    /// Notes for all who wait that the host is at its cap.
    pub fn waits_for_host(&self, host: &str) {
        self.jobs().iter().for_each(|job| job.waits_for_host(host));
    }

    /// The most urgent of those who wait.
    pub fn due(&self) -> Instant {
        self.jobs().iter().map(|job| job.due()).min().unwrap_or_else(Instant::now)
    }

    /// The most patient of those who wait.
    pub fn deadline(&self) -> Instant {
        self.jobs().iter().map(|job| job.deadline).max().unwrap_or_else(Instant::now)
    }

    /// When the first of those who wait came.
    pub fn arrived(&self) -> Option<Instant> {
        self.jobs().iter().map(|job| job.arrived).min()
    }

    /// Whether anybody who waits asked for this.
    pub fn any(&self, asks: impl Fn(&Job) -> bool) -> bool {
        self.jobs().iter().any(|job| asks(job))
    }

    /// The views that everybody who waits needs together.
    pub fn views(&self, of: impl Fn(&Job) -> TileViews) -> TileViews {
        self.jobs().iter().map(|job| of(job)).reduce(TileViews::and).unwrap_or_default()
    }

    /// It has been encoded; whoever waits is returned. `keep`: for those who may still ask for it.
    pub fn seen(&self, seen: &Arc<Seen>, keep: bool) -> Vec<Arc<Job>> {
        let next = if keep { State::Seen(seen.clone()) } else { State::Gone };
        match std::mem::replace(&mut *self.state(), next) {
            State::Pending(jobs) => jobs.into_iter().filter(|job| job.is_open()).collect(),
            _ => Vec::new(),
        }
    }

    /// It has come to nothing: answers everybody who waits.
    pub fn end(&self, answer: Answer) {
        let before = std::mem::replace(&mut *self.state(), State::Ended(Box::new(answer.clone())));
        // Answered without the lock: an answer may look at the picture again.
        if let State::Pending(jobs) = before {
            for job in jobs {
                job.answer(answer.clone());
            }
        }
    }
}

/// The work on one picture, handed from stage to stage. Whoever drops it without a word leaves an
/// answer behind.
pub struct Work {
    /// The picture.
    pub picture: Arc<Picture>,
    /// What it has cost so far.
    pub timings: StageTimings,
}

impl Work {
    /// Of a picture that has just been asked for.
    pub fn new(picture: Arc<Picture>) -> Work {
        Work { picture, timings: StageTimings::default() }
    }

    /// It has come to nothing.
    pub fn end(self, answer: Answer) {
        self.picture.end(answer);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if matches!(&*self.picture.state(), State::Pending(_)) {
            self.picture.end(Answer::Failed(failures::lost()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;
    use std::time::Duration;

    fn waiting() -> (Arc<Job>, std::sync::mpsc::Receiver<Answer>) {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(60), Instant::now());
        (Arc::new(job), answers)
    }

    #[test]
    fn everybody_who_waits_gets_the_answer() {
        let ((first, one), (second, two)) = (waiting(), waiting());
        let picture = Picture::new(&first);
        assert!(matches!(picture.join(&second), Joined::Waiting));
        Work::new(picture.clone()).end(Answer::Unchanged);
        assert!(matches!((one.recv(), two.recv()), (Ok(Answer::Unchanged), Ok(Answer::Unchanged))));
        assert!(
            matches!(picture.join(&waiting().0), Joined::Ended(answer) if matches!(*answer, Answer::Unchanged))
        );
    }

    #[test]
    fn a_picture_is_wanted_while_anybody_waits_and_never_again_afterwards() {
        let ((first, _one), (second, _two)) = (waiting(), waiting());
        let picture = Picture::new(&first);
        picture.join(&second);
        first.cancel();
        assert!(picture.wanted());
        second.cancel();
        assert!(picture.cancelled.load(Ordering::Acquire), "a fetch in mid-air is told at once");
        assert!(!picture.wanted());
        assert!(matches!(picture.join(&waiting().0), Joined::Gone));
    }

    #[test]
    fn work_that_is_let_go_without_a_word_is_answered() {
        let (job, answers) = waiting();
        drop(Work::new(Picture::new(&job)));
        let Ok(Answer::Failed(failure)) = answers.recv() else { panic!("no answer") };
        assert_eq!(failure.code, "lost");
    }
}
