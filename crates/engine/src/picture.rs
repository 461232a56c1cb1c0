//! One picture on its way through fetch, decode and encode, and the jobs that wait for it. Jobs of
//! one statement that ask for the same picture share it; all other jobs have a picture of their
//! own.

use crate::answer::JobAnswer;
use crate::encoded::EncodedPicture;
use crate::failures;
use crate::job::{Job, JobStage};
use crate::request::PictureSource;
use crate::running::RunningPicture;
use parking_lot::Mutex;
use pg_caption_wire::{ClientRole, StageTimings};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// SHA-256, lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

enum PictureState {
    Pending(Vec<Arc<Job>>),
    Encoded(Arc<EncodedPicture>),
    Ended(Box<JobAnswer>),
}

/// What a job finds when it asks for a picture of an earlier job.
pub enum JoinOutcome {
    /// The job waits with the others.
    Waiting,
    /// The picture has been encoded.
    Encoded(Arc<EncodedPicture>),
    /// The picture was answered without captions.
    Ended(Box<JobAnswer>),
    /// The work on the picture was cancelled: a new picture is needed.
    Cancelled,
}

/// A picture and the jobs that wait for it.
pub struct Picture {
    /// Where it comes from.
    pub source: PictureSource,
    /// Connection of the first job; connections take turns.
    pub connection: u64,
    /// Role of the first job's client.
    pub role: ClientRole,
    /// Set when the last job has left: stops a fetch in progress.
    pub cancelled: Arc<AtomicBool>,
    /// Its fetch may start or has started.
    has_begun: AtomicBool,
    state: Mutex<PictureState>,
}

impl Picture {
    /// The picture of a job, which waits for it from now on.
    pub fn new(job: &Arc<Job>) -> Arc<Picture> {
        let picture = Arc::new(Picture {
            source: job.source.clone(),
            connection: job.connection,
            role: job.role,
            cancelled: Arc::default(),
            has_begun: AtomicBool::default(),
            state: Mutex::new(PictureState::Pending(vec![job.clone()])),
        });
        job.set_picture(&picture);
        picture
    }

    /// A further job asks for it.
    pub fn join(self: &Arc<Self>, job: &Arc<Job>) -> JoinOutcome {
        let mut state = self.state.lock();
        match &mut *state {
            PictureState::Pending(jobs) if !self.is_cancelled() => {
                jobs.push(job.clone());
                drop(state);
                if self.has_begun.load(Ordering::Acquire) {
                    job.begin();
                }
                job.set_picture(self);
                JoinOutcome::Waiting
            }
            PictureState::Pending(_) => JoinOutcome::Cancelled,
            PictureState::Encoded(encoded) => JoinOutcome::Encoded(encoded.clone()),
            PictureState::Ended(answer) => JoinOutcome::Ended(answer.clone()),
        }
    }

    /// Its turn has come: the time limits of its jobs begin.
    pub fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.jobs().iter().for_each(|job| job.begin());
    }

    /// Whether all jobs had left before it was encoded.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether it is on its way.
    pub fn is_pending(&self) -> bool {
        matches!(&*self.state.lock(), PictureState::Pending(_)) && !self.is_cancelled()
    }

    /// Whether a job still waits. A picture without jobs stays unwanted and its work is dropped.
    pub fn is_wanted(&self) -> bool {
        let closed: Vec<Arc<Job>>;
        let wanted = match &mut *self.state.lock() {
            PictureState::Pending(jobs) => {
                let (open, left) = std::mem::take(jobs).into_iter().partition(|job| job.is_open());
                *jobs = open;
                closed = left;
                let wanted = !jobs.is_empty() && !self.is_cancelled();
                self.cancelled.store(!wanted, Ordering::Release);
                wanted
            }
            _ => return true,
        };
        // Dropped without the lock: a dropped job may check its picture.
        drop(closed);
        wanted
    }

    /// The waiting jobs.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        match &*self.state.lock() {
            PictureState::Pending(jobs) => jobs.clone(),
            _ => Vec::new(),
        }
    }

    /// Records the stage for all waiting jobs.
    pub fn set_stage(&self, stage: JobStage) {
        self.jobs().iter().for_each(|job| job.set_stage(stage));
    }

    /// Records for all waiting jobs that the host is at its limit.
    pub fn set_busy_host(&self, host: &str) {
        self.jobs().iter().for_each(|job| job.set_busy_host(host));
    }

    /// When the most urgent waiting job is due.
    pub fn due(&self) -> Instant {
        self.jobs().iter().map(|job| job.due()).min().unwrap_or_else(Instant::now)
    }

    /// The latest deadline of the waiting jobs.
    pub fn deadline(&self) -> Instant {
        self.jobs().iter().map(|job| job.deadline()).max().unwrap_or_else(Instant::now)
    }

    /// Whether a waiting job asks for this.
    pub fn any(&self, asks: impl Fn(&Job) -> bool) -> bool {
        self.jobs().iter().any(|job| asks(job))
    }

    /// A value of each waiting job, combined; `None` without jobs.
    pub fn combine<T>(&self, of: impl Fn(&Job) -> T, with: impl Fn(T, T) -> T) -> Option<T> {
        self.jobs().iter().map(|job| of(job)).reduce(with)
    }

    /// The provider has encoded it: returns the waiting jobs. It is kept for jobs that may follow.
    pub fn set_encoded(&self, encoded: &Arc<EncodedPicture>) -> Vec<Arc<Job>> {
        let next = PictureState::Encoded(encoded.clone());
        match std::mem::replace(&mut *self.state.lock(), next) {
            PictureState::Pending(jobs) => jobs.into_iter().filter(|job| job.is_open()).collect(),
            _ => Vec::new(),
        }
    }

    /// Ends the work without captions: answers all waiting jobs.
    pub fn end(&self, answer: JobAnswer) {
        let ended = PictureState::Ended(Box::new(answer.clone()));
        let before = std::mem::replace(&mut *self.state.lock(), ended);
        // Answered without the lock: an answered job checks its picture.
        if let PictureState::Pending(jobs) = before {
            for job in jobs {
                job.answer(answer.clone());
            }
        }
    }
}

/// The work on one picture, handed from stage to stage. Dropped unfinished, it answers all jobs as
/// `lost`.
pub struct PictureWork {
    /// The picture.
    pub picture: Arc<Picture>,
    /// Time spent so far.
    pub timings: StageTimings,
    /// Set from the decoder on.
    pub running: Option<Arc<RunningPicture>>,
    /// Whether its host asked for a pause already, after which it is fetched once more.
    pub was_paused: bool,
}

impl PictureWork {
    /// The work on a new picture.
    pub fn new(picture: Arc<Picture>) -> PictureWork {
        PictureWork { picture, timings: StageTimings::default(), running: None, was_paused: false }
    }

    /// Ends the work without captions.
    pub fn end(mut self, answer: JobAnswer) {
        // Before the answer: the client's next picture may run alone.
        drop(self.running.take());
        self.picture.end(answer);
    }
}

impl Drop for PictureWork {
    fn drop(&mut self) {
        let pending = matches!(&*self.picture.state.lock(), PictureState::Pending(_));
        if pending {
            self.picture.end(JobAnswer::Failed(failures::lost()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;
    use std::time::Duration;

    fn waiting() -> (Arc<Job>, std::sync::mpsc::Receiver<JobAnswer>) {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(60), Instant::now());
        (Arc::new(job), answers)
    }

    #[test]
    fn every_waiting_job_gets_the_answer() {
        let ((first, one), (second, two)) = (waiting(), waiting());
        let picture = Picture::new(&first);
        assert!(matches!(picture.join(&second), JoinOutcome::Waiting));
        PictureWork::new(picture.clone()).end(JobAnswer::Unchanged);
        for answers in [one, two] {
            assert!(matches!(answers.recv(), Ok(JobAnswer::Unchanged)));
        }
        let JoinOutcome::Ended(answer) = picture.join(&waiting().0) else { panic!("not ended") };
        assert!(matches!(*answer, JobAnswer::Unchanged));
    }

    #[test]
    fn a_picture_without_jobs_stays_unwanted() {
        let ((first, _one), (second, _two)) = (waiting(), waiting());
        let picture = Picture::new(&first);
        picture.join(&second);
        first.cancel();
        assert!(picture.is_wanted());
        second.cancel();
        assert!(picture.is_cancelled(), "a fetch in progress stops immediately");
        assert!(!picture.is_wanted());
        assert!(matches!(picture.join(&waiting().0), JoinOutcome::Cancelled));
    }

    #[test]
    fn dropped_work_is_answered_as_lost() {
        let (job, answers) = waiting();
        drop(PictureWork::new(Picture::new(&job)));
        let Ok(JobAnswer::Failed(failure)) = answers.recv() else { panic!("no answer") };
        assert_eq!(failure.code, "lost");
    }
}
