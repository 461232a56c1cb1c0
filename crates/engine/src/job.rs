//! One request, from its arrival to its answer. Made by a connection or by the command line, seen
//! by every stage.
//!
//! A job is answered exactly once: by whoever comes first of result, deadline and the guard that
//! answers when the last stage lets go of it without a word. A cancelled job is not answered at
//! all.

use crate::failures;
use crate::picture::Picture;
use pg_caption_captioner::{InputPreparer, TileViews};
use pg_caption_style::CaptionStyle;
use pg_caption_wire::{
    ClientRole, Failure, FailureClass, FinishReason, ImageFacts, KnownPicture, ModelRef,
    StageTimings, TileMode,
};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a waiting person's request may be passed by more urgent ones.
const CALL_PATIENCE: Duration = Duration::from_secs(1);
/// The same for a worker's row: calls that arrive within the difference go first, older rows go
/// before new calls, so none starves.
const WORKER_PATIENCE: Duration = Duration::from_secs(6);

/// Where a picture comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// To be fetched.
    Url {
        /// As the user gave it.
        url: String,
        /// The picture captioned before.
        known: Option<KnownPicture>,
    },
    /// The bytes themselves, known by their SHA-256 (lower-case hex) where it was worth computing.
    Bytes {
        /// Only for sharing.
        sha256: Option<String>,
    },
}

/// One caption wanted.
#[derive(Debug, Clone)]
pub struct Want {
    /// Prompt and rules.
    pub style: CaptionStyle,
    /// Ceiling for generated tokens.
    pub max_tokens: u32,
    /// Words about the product.
    pub context: Option<String>,
}

/// What the command line may ask beyond a request.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Full decode, no refusal of blank pictures, no threshold, no tidy-up.
    pub exact: bool,
    /// Replaces the style's instruction.
    pub prompt: Option<String>,
    /// `generation_config` fields that override the folder's.
    pub generation: Option<serde_json::Value>,
    /// Compute the digest of the tensor.
    pub pixels_sha256: bool,
    /// The name a caption must not repeat, for bytes read from a file.
    pub file_name: Option<String>,
}

/// One caption as generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Captioned {
    /// The tidied text, or why there is none.
    pub caption: Result<String, Failure>,
    /// Before tidy-up.
    pub text_raw: String,
    /// Generated token ids.
    pub ids: Vec<i64>,
    /// What generation started from.
    pub prompt_ids: Vec<i64>,
    /// Why it ended.
    pub finish: FinishReason,
    /// 0..=1.
    pub confidence: f32,
}

/// What came of a job.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The picture was seen; one entry per [`Want`], in order.
    Done {
        /// The picture.
        image: ImageFacts,
        /// `Err`: refused before anything was generated.
        outputs: Vec<Result<Captioned, Failure>>,
        /// Who wrote them.
        model: ModelRef,
        /// Where the time went.
        timings: StageTimings,
        /// Of the tensor, if asked for.
        pixels_sha256: Option<String>,
    },
    /// Not modified.
    Unchanged,
    /// No caption at all.
    Failed(Failure),
}

/// Where a job stands, for the words of a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// In line.
    Queued,
    /// In line, its host is at its cap.
    HostBusy,
    /// On the network.
    Fetching,
    /// Bytes to pixels, or waiting for it.
    Decoding,
    /// At the model, or waiting for it.
    Model,
}

impl Stage {
    fn words(self) -> &'static str {
        match self {
            Stage::Queued | Stage::HostBusy => "waiting for its turn",
            Stage::Fetching => "being fetched",
            Stage::Decoding => "being decoded",
            Stage::Model => "at the model",
        }
    }
}

type Sink = Box<dyn FnOnce(Answer) + Send>;

/// One request.
pub struct Job {
    /// Of the connection, for turns.
    pub connection: u64,
    /// Who waits.
    pub role: ClientRole,
    /// When it came.
    pub arrived: Instant,
    /// When the caller's patience ends.
    pub deadline: Instant,
    /// The picture.
    pub source: Source,
    /// The captions.
    pub wants: Vec<Want>,
    /// The request's own threshold.
    pub min_confidence: Option<f32>,
    /// Beyond a request.
    pub extras: Extras,
    open: AtomicBool,
    stage: AtomicU8,
    host: Mutex<Option<String>>,
    picture: OnceLock<Weak<Picture>>,
    sink: Mutex<Option<Sink>>,
}

/// What a job is made of.
pub struct Order {
    /// Of the connection.
    pub connection: u64,
    /// Who waits.
    pub role: ClientRole,
    /// From now.
    pub patience: Duration,
    /// The picture.
    pub source: Source,
    /// The captions.
    pub wants: Vec<Want>,
    /// The request's own threshold.
    pub min_confidence: Option<f32>,
    /// Beyond a request.
    pub extras: Extras,
}

/// Longest patience taken literally; beyond it a clock could overflow.
const LONGEST_PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Job {
    /// A job that tells `sink` its answer, once.
    pub fn new(order: Order, now: Instant, sink: impl FnOnce(Answer) + Send + 'static) -> Self {
        Job {
            connection: order.connection,
            role: order.role,
            arrived: now,
            deadline: now + order.patience.min(LONGEST_PATIENCE),
            source: order.source,
            wants: order.wants,
            min_confidence: order.min_confidence,
            extras: order.extras,
            open: AtomicBool::new(true),
            stage: AtomicU8::new(Stage::Queued as u8),
            host: Mutex::default(),
            picture: OnceLock::new(),
            sink: Mutex::new(Some(Box::new(sink))),
        }
    }

    /// Whether somebody still waits for the answer.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// By when its next step should have been made: the earliest goes first everywhere.
    pub fn due(&self) -> Instant {
        let patience = match self.role {
            ClientRole::Call => CALL_PATIENCE,
            ClientRole::Worker => WORKER_PATIENCE,
        };
        self.deadline.min(self.arrived + patience)
    }

    /// Answers it, unless that has happened or it was cancelled. Says whether this was the answer.
    pub fn answer(&self, answer: Answer) -> bool {
        self.close();
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner).take();
        let first = sink.is_some();
        if let Some(sink) = sink {
            sink(answer);
        }
        first
    }

    /// The caller left: no answer.
    pub fn cancel(&self) {
        self.close();
        self.sink.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn close(&self) {
        self.open.store(false, Ordering::Release);
        // The last one to leave ends the work on the picture.
        if let Some(picture) = self.picture.get().and_then(Weak::upgrade) {
            picture.wanted();
        }
    }

    /// The views this job's captions need its picture in.
    pub fn views(&self, preparer: &InputPreparer, configured: TileMode) -> TileViews {
        preparer.views(configured, self.wants.iter().map(|want| &want.style))
    }

    /// Notes the picture whose work ends when nobody waits for it.
    pub fn waits_for(&self, picture: &Arc<Picture>) {
        self.picture.get_or_init(|| Arc::downgrade(picture));
    }

    /// Notes where it stands.
    pub fn at(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Notes that its host, `name:port`, is at its cap.
    pub fn waits_for_host(&self, host: &str) {
        let mut noted = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        // a redirect's, perhaps, after its own
        if noted.as_deref() != Some(host) {
            *noted = Some(host.into());
        }
        self.at(Stage::HostBusy);
    }

    /// Milliseconds since it came.
    pub fn waited_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.arrived).as_millis() as u64
    }

    /// What is said when its deadline passes.
    pub fn overdue(&self, now: Instant) -> Failure {
        let stage =
            [Stage::Queued, Stage::HostBusy, Stage::Fetching, Stage::Decoding, Stage::Model]
                .into_iter()
                .find(|s| *s as u8 == self.stage.load(Ordering::Relaxed))
                .unwrap_or(Stage::Queued);
        match (stage, self.host.lock().unwrap_or_else(PoisonError::into_inner).as_deref()) {
            (Stage::HostBusy, Some(host)) => failures::host_busy(host, self.waited_ms(now)),
            _ => Failure::timeout(Some(self.waited_ms(now)), stage.words()),
        }
    }

    /// The name a caption must not repeat.
    pub fn name(&self) -> Option<&str> {
        match &self.source {
            Source::Url { url, .. } => Some(url),
            Source::Bytes { .. } => self.extras.file_name.as_deref(),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Only a fault of ours gets here with the sink still in place; the caller must not wait for
        // ever because of it.
        let sink = self.sink.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sink) = sink {
            debug_assert_eq!(failures::lost().class, FailureClass::Retry);
            sink(Answer::Failed(failures::lost()));
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
        patience: Duration,
        now: Instant,
    ) -> (Job, Receiver<Answer>) {
        let (send, receive) = channel();
        let order = Order {
            connection,
            role,
            patience,
            source: Source::Bytes { sha256: None },
            wants: Vec::new(),
            min_confidence: None,
            extras: Extras::default(),
        };
        let job = Job::new(order, now, move |answer| {
            let _ = send.send(answer);
        });
        (job, receive)
    }

    #[test]
    fn a_job_is_answered_once() {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(9), Instant::now());
        assert!(job.answer(Answer::Unchanged));
        assert!(!job.answer(Answer::Failed(failures::lost())));
        drop(job);
        assert!(matches!(answers.iter().collect::<Vec<_>>()[..], [Answer::Unchanged]));
    }

    #[test]
    fn a_cancelled_job_is_not_answered() {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(9), Instant::now());
        job.cancel();
        assert!(!job.is_open());
        assert!(!job.answer(Answer::Unchanged));
        drop(job);
        assert_eq!(answers.iter().count(), 0);
    }

    #[test]
    fn a_job_that_is_let_go_without_a_word_is_answered_as_lost() {
        let (job, answers) = job(1, ClientRole::Call, Duration::from_secs(9), Instant::now());
        drop(job);
        let Ok(Answer::Failed(failure)) = answers.recv() else { panic!("no answer") };
        assert_eq!(failure.code, "lost");
    }

    #[test]
    fn a_call_goes_before_a_row_of_its_age_and_an_old_row_before_a_new_call() {
        let now = Instant::now();
        let patience = Duration::from_secs(60);
        let row = job(1, ClientRole::Worker, patience, now).0.due();
        assert!(job(2, ClientRole::Call, patience, now + Duration::from_secs(4)).0.due() < row);
        assert!(job(2, ClientRole::Call, patience, now + Duration::from_secs(6)).0.due() > row);
        assert!(
            job(2, ClientRole::Call, Duration::from_millis(100), now).0.due()
                < job(2, ClientRole::Call, patience, now).0.due()
        );
    }
}
