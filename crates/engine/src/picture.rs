//! One picture on its way through fetch, decode and encode, and the jobs that wait for it. Jobs
//! that ask for the same picture share it; see `shared_pictures`, `pictures_in_flight`.

use crate::answer::JobAnswer;
use crate::encoded::EncodedPicture;
use crate::failures;
use crate::job::{Job, JobStage};
use crate::request::{FileIdentity, PictureSource};
use crate::running::RunningPicture;
use parking_lot::Mutex;
use pg_caption_wire::{ClientRole, StageTimings};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// SHA-256, lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

enum PictureState {
    Pending(Vec<Arc<Job>>),
    Encoded(Arc<EncodedPicture>),
    Ended(Box<JobAnswer>),
    /// All jobs were answered by what was known of the file.
    Known(FileIdentity),
    /// Its file is that of another picture, which its jobs have joined.
    Moved(Arc<Picture>, FileIdentity),
}

/// What a job finds when it asks for a picture of an earlier job.
pub enum JoinOutcome {
    /// The job waits with the others.
    Waiting,
    /// The picture has been encoded.
    Encoded(Arc<EncodedPicture>),
    /// The picture was answered without captions.
    Ended(Box<JobAnswer>),
    /// Its file is known; it was not decoded.
    Known(FileIdentity),
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
    /// Captions of it in progress.
    captioning: AtomicUsize,
    /// Its file, once that has arrived.
    file: OnceLock<FileIdentity>,
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
            captioning: AtomicUsize::default(),
            file: OnceLock::new(),
            state: Mutex::new(PictureState::Pending(vec![job.clone()])),
        });
        job.set_picture(&picture);
        picture
    }

    /// A further job asks for it.
    pub fn join(self: &Arc<Self>, job: &Arc<Job>) -> JoinOutcome {
        let mut state = self.state.lock();
        // A job that comes from another URL has its own validators.
        if let Some(file) = self.file.get().filter(|_| job.file().is_none()) {
            job.set_file(file);
        }
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
            PictureState::Known(file) => JoinOutcome::Known(file.clone()),
            PictureState::Moved(leader, file) => {
                let (leader, file) = (leader.clone(), file.clone());
                drop(state);
                job.set_file(&file);
                match leader.join(job) {
                    // What happened to the other picture is no answer about this URL.
                    JoinOutcome::Ended(_) => JoinOutcome::Cancelled,
                    outcome => outcome,
                }
            }
        }
    }

    /// Its file has arrived: returns the waiting jobs, which know it from now on.
    pub fn identify(&self, file: &FileIdentity) -> Vec<Arc<Job>> {
        let state = self.state.lock();
        self.file.get_or_init(|| file.clone());
        let PictureState::Pending(jobs) = &*state else { return Vec::new() };
        jobs.iter().for_each(|job| job.set_file(file));
        jobs.clone()
    }

    /// If all jobs were answered, the picture is not decoded. Returns whether that is so.
    pub fn end_known(&self, file: &FileIdentity) -> bool {
        let mut state = self.state.lock();
        let PictureState::Pending(jobs) = &*state else { return true };
        if jobs.iter().any(|job| job.is_open()) {
            return false;
        }
        let before = std::mem::replace(&mut *state, PictureState::Known(file.clone()));
        drop(state);
        // Without the lock: a dropped job may check its picture.
        drop(before);
        true
    }

    /// Its file is that of another picture: returns the waiting jobs, which must join that one.
    pub fn move_to(&self, leader: &Arc<Picture>, file: &FileIdentity) -> Vec<Arc<Job>> {
        let next = PictureState::Moved(leader.clone(), file.clone());
        match std::mem::replace(&mut *self.state.lock(), next) {
            PictureState::Pending(jobs) => jobs,
            _ => Vec::new(),
        }
    }

    /// Whether further jobs can join it.
    pub fn is_in_flight(&self) -> bool {
        let leader = match &*self.state.lock() {
            PictureState::Pending(_) => return !self.is_cancelled(),
            // A statement may keep it for longer, for its own calls.
            PictureState::Encoded(_) => return self.captioning.load(Ordering::Acquire) > 0,
            PictureState::Ended(_) | PictureState::Known(_) => return false,
            PictureState::Moved(leader, _) => leader.clone(),
        };
        leader.is_in_flight()
    }

    /// Whether its fetch may have started.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
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
        let leader = match &*self.state.lock() {
            PictureState::Pending(_) => return !self.is_cancelled(),
            PictureState::Moved(leader, _) => leader.clone(),
            _ => return false,
        };
        leader.is_pending()
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

/// A caption of a picture is in progress: further jobs can join the picture until it is dropped.
pub struct CaptioningPicture(Arc<Picture>);

impl CaptioningPicture {
    /// A caption of this picture begins.
    pub fn new(picture: Arc<Picture>) -> CaptioningPicture {
        picture.captioning.fetch_add(1, Ordering::AcqRel);
        CaptioningPicture(picture)
    }
}

impl Drop for CaptioningPicture {
    fn drop(&mut self) {
        self.0.captioning.fetch_sub(1, Ordering::AcqRel);
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
    /// Whether its file is needed though its host reports it as not modified.
    pub needs_file: bool,
}

impl PictureWork {
    /// The work on a new picture.
    pub fn new(picture: Arc<Picture>) -> PictureWork {
        PictureWork {
            picture,
            timings: StageTimings::default(),
            running: None,
            was_paused: false,
            needs_file: false,
        }
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
