//! One request, from its arrival to its answer. Made by a connection or by the command line, seen
//! by every stage.
//!
//! A job is answered exactly once: with its result, at its deadline, or as `lost` when the last
//! stage drops it unanswered. A cancelled job is not answered.

use crate::answer::{GeneratedCaption, JobAnswer};
use crate::failures;
use crate::picture::Picture;
use crate::request::{FileIdentity, JobExtras, JobSpec, PictureSource};
use parking_lot::Mutex;
use pg_caption_rules::RuleSet;
use pg_caption_wire::{AnswerReuse, ClientRole, EarlierAnswer, Failure, OutputSpec};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How long more urgent requests may overtake a call.
const CALL_SLACK: Duration = Duration::from_secs(1);
/// The same for a worker's row. Calls that arrive within the difference go first, older rows go
/// before new calls, so neither starves.
const WORKER_SLACK: Duration = Duration::from_secs(6);
/// Longest timeout taken literally; beyond it a clock could overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The stage of a job, stated when its deadline passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JobStage {
    /// Queued.
    Queued,
    /// Queued because its host is at its limit of concurrent requests.
    HostBusy,
    /// On the network.
    Fetching,
    /// Being decoded, or queued for it.
    Decoding,
    /// With the provider.
    Model,
}

impl JobStage {
    /// Completes "the request was still".
    fn participle(self) -> &'static str {
        match self {
            JobStage::Queued | JobStage::HostBusy => "queued",
            JobStage::Fetching => "being fetched",
            JobStage::Decoding => "being decoded",
            JobStage::Model => "being processed by the model",
        }
    }
}

type AnswerSink = Box<dyn FnOnce(JobAnswer) + Send>;
/// Informs the client that its picture runs, and whether nothing else does.
type RunningSink = Box<dyn Fn(bool) + Send + Sync>;

/// One request.
pub struct Job {
    /// Id of the connection; connections take turns.
    pub connection: u64,
    /// Role of the client.
    pub role: ClientRole,
    /// When it arrived.
    pub arrived: Instant,
    timeout: Duration,
    /// When its time limit began.
    turn: OnceLock<Instant>,
    /// The picture.
    pub source: PictureSource,
    /// The captions.
    pub outputs: Vec<OutputSpec>,
    /// The request's own threshold.
    pub min_confidence: Option<f32>,
    /// Rules for the words of its captions.
    pub rules: Arc<RuleSet>,
    /// Options of the command line.
    pub extras: JobExtras,
    /// What the ledger has for the row.
    pub earlier: Option<Box<EarlierAnswer>>,
    /// Which earlier work may be used.
    pub reuse: AnswerReuse,
    /// The file of its own URL, which another job may have had decoded.
    file: Mutex<Option<FileIdentity>>,
    open: AtomicBool,
    stage: AtomicU8,
    host: Mutex<Option<String>>,
    picture: Mutex<Weak<Picture>>,
    sink: Mutex<Option<AnswerSink>>,
    isolated: bool,
    running: Option<RunningSink>,
    /// The job that this one is a part of.
    whole: Option<Arc<Job>>,
}

impl Job {
    /// A job that passes its answer to `sink`, once.
    pub fn new(spec: JobSpec, now: Instant, sink: impl FnOnce(JobAnswer) + Send + 'static) -> Self {
        Job {
            connection: spec.connection,
            role: spec.role,
            arrived: now,
            timeout: spec.timeout.min(LONGEST_TIMEOUT),
            turn: if spec.from_turn { OnceLock::new() } else { now.into() },
            source: spec.source,
            outputs: spec.outputs,
            min_confidence: spec.min_confidence,
            rules: spec.rules,
            extras: spec.extras,
            earlier: spec.earlier,
            reuse: spec.reuse,
            file: Mutex::default(),
            open: AtomicBool::new(true),
            stage: AtomicU8::new(JobStage::Queued as u8),
            host: Mutex::default(),
            picture: Mutex::default(),
            sink: Mutex::new(Some(Box::new(sink))),
            isolated: false,
            running: None,
            whole: None,
        }
    }

    /// It is a part of another job, and open only as long as that one is.
    pub fn within(mut self, whole: Arc<Job>) -> Self {
        self.whole = Some(whole);
        self
    }

    /// Its client is informed when the picture runs. `isolated`: it runs while nothing else does.
    pub fn reporting(
        mut self,
        isolated: bool,
        running: impl Fn(bool) + Send + Sync + 'static,
    ) -> Self {
        self.isolated = isolated;
        self.running = Some(Box::new(running));
        self
    }

    /// Whether its picture must run while no other one does.
    pub fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Informs the client that the picture is about to run, or no longer runs alone. Does not wait.
    pub fn report_running(&self, alone: bool) {
        if let Some(report) = &self.running {
            report(alone);
        }
    }

    /// When it is answered at the latest: later and later while its turn has not come.
    pub fn deadline(&self) -> Instant {
        self.turn.get().copied().unwrap_or_else(Instant::now) + self.timeout
    }

    /// Its turn has come: the time limit begins, unless it has begun before.
    pub fn begin(&self) {
        self.turn.get_or_init(Instant::now);
    }

    /// Whether a caller still waits for the answer.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && self.whole.as_ref().is_none_or(|job| job.is_open())
    }

    /// When its next step is due. Every stage takes the earliest first.
    pub fn due(&self) -> Instant {
        let slack = match self.role {
            ClientRole::Call => CALL_SLACK,
            ClientRole::Worker => WORKER_SLACK,
        };
        self.arrived + slack.min(self.timeout)
    }

    /// Answers the job unless it has been answered or cancelled. Returns whether it did.
    pub fn answer(&self, answer: JobAnswer) -> bool {
        self.close();
        let sink = self.sink.lock().take();
        let first = sink.is_some();
        if let Some(sink) = sink {
            sink(self.with_url(answer));
        }
        first
    }

    /// Jobs with equal files share an answer. In a failure each names its own URL: a statement with
    /// many pictures would not show otherwise which one is meant.
    fn with_url(&self, mut answer: JobAnswer) -> JobAnswer {
        let PictureSource::Url { url, shown, .. } = &self.source else { return answer };
        let name = |failure| pg_caption_fetch::name_url(failure, url, shown.as_deref());
        match &mut answer {
            JobAnswer::Failed(failure) => name(failure),
            JobAnswer::Done { outputs, .. } => {
                for output in outputs {
                    if let Err(failure) | Ok(GeneratedCaption { caption: Err(failure), .. }) =
                        output
                    {
                        name(failure);
                    }
                }
            }
            JobAnswer::Unchanged => {}
        }
        answer
    }

    /// The caller left: the job is not answered.
    pub fn cancel(&self) {
        self.close();
        self.sink.lock().take();
    }

    fn close(&self) {
        self.open.store(false, Ordering::Release);
        // The last job to leave ends the work on the picture.
        let picture = self.picture.lock().upgrade();
        if let Some(picture) = picture {
            picture.is_wanted();
        }
    }

    /// Records the picture that the job waits for.
    pub fn set_picture(&self, picture: &Arc<Picture>) {
        *self.picture.lock() = Arc::downgrade(picture);
    }

    /// Whether it may share work with other jobs. A picture that is suspected of killing engines
    /// runs for its own job alone.
    pub fn may_share(&self) -> bool {
        let whole = self.whole.as_ref();
        !self.isolated && !self.extras.apart && whole.is_none_or(|job| job.may_share())
    }

    /// Whether a text is missing though its picture may be unchanged.
    pub fn needs_captions(&self) -> bool {
        self.earlier.is_some() && self.reuse == AnswerReuse::Any
    }

    /// Records the file of its URL.
    pub fn set_file(&self, file: &FileIdentity) {
        *self.file.lock() = Some(file.clone());
    }

    /// The file of its URL is unknown after all.
    pub fn forget_file(&self) {
        *self.file.lock() = None;
    }

    /// The file of its URL, once known.
    pub fn file(&self) -> Option<FileIdentity> {
        self.file.lock().clone()
    }

    /// Records the stage of the job.
    pub fn set_stage(&self, stage: JobStage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Records that the host, `name:port`, is at its limit of concurrent requests.
    pub fn set_busy_host(&self, host: &str) {
        let mut recorded = self.host.lock();
        // After a redirect it may be another host than before.
        if recorded.as_deref() != Some(host) {
            *recorded = Some(host.into());
        }
        self.set_stage(JobStage::HostBusy);
    }

    /// Milliseconds of its time limit that have passed.
    pub fn waited_ms(&self, now: Instant) -> u64 {
        let began = self.turn.get().unwrap_or(&self.arrived);
        now.saturating_duration_since(*began).as_millis() as u64
    }

    /// The failure that answers the job at its deadline.
    pub fn timeout(&self, now: Instant) -> Failure {
        let stage = [
            JobStage::Queued,
            JobStage::HostBusy,
            JobStage::Fetching,
            JobStage::Decoding,
            JobStage::Model,
        ]
        .into_iter()
        .find(|stage| *stage as u8 == self.stage.load(Ordering::Relaxed))
        .unwrap_or(JobStage::Queued);
        match (stage, self.host.lock().as_deref()) {
            (JobStage::HostBusy, Some(host)) => failures::host_busy(host, self.waited_ms(now)),
            _ => Failure::timeout(Some(self.waited_ms(now)), stage.participle()),
        }
    }

    /// The name that a caption must not repeat.
    pub fn name(&self) -> Option<&str> {
        match &self.source {
            PictureSource::Url { url, .. } => Some(url),
            PictureSource::Bytes { .. } => self.extras.file_name.as_deref(),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Only a bug of the engine drops a job unanswered; its caller must not wait for ever.
        if let Some(sink) = self.sink.get_mut().take() {
            sink(JobAnswer::Failed(failures::lost()));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    pub(crate) fn job(
        connection: u64,
        role: ClientRole,
        timeout: Duration,
        now: Instant,
    ) -> (Job, Receiver<JobAnswer>) {
        let (send, receive) = channel();
        let spec = JobSpec {
            connection,
            role,
            timeout,
            from_turn: false,
            source: PictureSource::Bytes { sha256: None },
            outputs: Vec::new(),
            min_confidence: None,
            rules: Arc::default(),
            extras: JobExtras::default(),
            earlier: None,
            reuse: AnswerReuse::Any,
        };
        let job = Job::new(spec, now, move |answer| {
            let _ = send.send(answer);
        });
        (job, receive)
    }

    /// A job with these outputs.
    pub(crate) fn job_with(outputs: Vec<OutputSpec>) -> (Job, Receiver<JobAnswer>) {
        let (mut job, answers) =
            job(1, ClientRole::Worker, Duration::from_secs(60), Instant::now());
        job.outputs = outputs;
        (job, answers)
    }

    impl Job {
        /// Its time limit begins with its turn.
        pub(crate) fn with_turn(mut self) -> Job {
            self.turn = OnceLock::new();
            self
        }
    }

    #[test]
    fn a_job_is_answered_once() {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(9), Instant::now());
        assert!(job.answer(JobAnswer::Unchanged));
        assert!(!job.answer(JobAnswer::Failed(failures::lost())));
        drop(job);
        assert!(matches!(answers.iter().collect::<Vec<_>>()[..], [JobAnswer::Unchanged]));
    }

    #[test]
    fn a_failure_names_the_url_of_its_job() {
        let now = Instant::now();
        let detail = |source: PictureSource, failure: Failure| {
            let (mut job, answers) = job(1, ClientRole::Call, Duration::from_secs(9), now);
            job.source = source;
            job.answer(JobAnswer::Failed(failure));
            let Ok(JobAnswer::Failed(failure)) = answers.recv() else { panic!("no failure") };
            failure.detail
        };
        let of = |url: &str, shown: Option<&str>| PictureSource::Url {
            url: url.into(),
            known: None,
            shown: shown.map(String::from),
        };
        let (signed, blank) = ("http://cdn.example/a.jpg?key=s3cret", failures::blank());
        assert_eq!(
            detail(of(signed, None), blank.clone()).unwrap(),
            "The URL is \"http://cdn.example/a.jpg?key=…\"."
        );
        assert_eq!(
            detail(of(signed, Some("a.jpg")), failures::low_confidence(0.25, 0.5)).unwrap(),
            "The URL is \"a.jpg\". The confidence is 0.250, the threshold 0.500."
        );
        // What concerns no picture, and what names a URL already, stays.
        assert_eq!(detail(of(signed, None), failures::loading()), None);
        let named = blank.clone().detail("The URL is \"http://cdn.example/b.jpg\".");
        assert_eq!(detail(of(signed, None), named.clone()), named.detail);
        assert_eq!(detail(PictureSource::Bytes { sha256: None }, blank), None);
    }

    #[test]
    fn a_cancelled_job_is_not_answered() {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(9), Instant::now());
        job.cancel();
        assert!(!job.is_open());
        assert!(!job.answer(JobAnswer::Unchanged));
        drop(job);
        assert_eq!(answers.iter().count(), 0);
    }

    #[test]
    fn a_dropped_job_is_answered_as_lost() {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(9), Instant::now());
        drop(job);
        let Ok(JobAnswer::Failed(failure)) = answers.recv() else { panic!("no answer") };
        assert_eq!(failure.code, "lost");
    }

    #[test]
    fn calls_precede_only_rows_of_their_age() {
        let now = Instant::now();
        let timeout = Duration::from_secs(60);
        let row = job(1, ClientRole::Worker, timeout, now).0.due();
        assert!(job(2, ClientRole::Call, timeout, now + Duration::from_secs(4)).0.due() < row);
        assert!(job(2, ClientRole::Call, timeout, now + Duration::from_secs(6)).0.due() > row);
        assert!(
            job(2, ClientRole::Call, Duration::from_millis(100), now).0.due()
                < job(2, ClientRole::Call, timeout, now).0.due()
        );
    }
}
