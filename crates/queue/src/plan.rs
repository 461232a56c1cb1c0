//! What an answer of the engine means for its row: one plan, made from the answer and from what was
//! read of the row. [`crate::QueueStore`] carries it out.

use crate::draft::is_stale;
use crate::job::hash;
use crate::ledger::noted;
use crate::{CurrentRow, RowJob, RowUpdate, WatchedTable};
use pg_caption_backoff::Backoff;
use pg_caption_wire::{CaptionOutcome, CaptionOutput, Failure, FailureClass};
use std::time::Duration;

/// Pauses before a row is tried again; the charged attempts count as failures.
const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(3600));
/// Upper bound of the jitter of [`RETRY`], as a factor.
const RETRY_JITTER: f64 = 1.5;
/// Shortest pause for a host: a row that is due now would be read again without end.
const HOST_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Pause for a host that stated none.
const HOST_PAUSE: Duration = Duration::from_secs(30);

/// Pause before a write is repeated that the server had no resources for.
const RESOURCE_PAUSE: Duration = Duration::from_secs(30);

/// Codes of answers to a URL whose picture may not be there yet: an upload that has not ended, a
/// thumbnail in the making. A call gets them as they are.
const NOT_THERE_YET: [&str; 7] =
    ["http_404", "http_403", "http_423", "http_425", "http_420", "http_202", "http_204"];
/// Pauses before such a picture is requested again; 56 minutes in all.
const NOT_THERE_YET_PAUSES: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(35 * 60),
];

/// What is recorded about a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowOutcome {
    /// It has what it needs: remove its deferral and its failure.
    Done,
    /// Its captions stay as they are: remove its deferral, keep its failure.
    Kept,
    /// The same model has captioned the same picture: as [`RowOutcome::Done`], and its texts count
    /// as written now.
    Confirmed,
    /// Try it again after a pause.
    Deferred {
        /// Why.
        failure: Failure,
        /// Charged attempts.
        attempts: i32,
        /// Until it is due.
        pause: Duration,
    },
    /// Record a failure and remove its deferral.
    Failed {
        /// Why.
        failure: Failure,
        /// Charged attempts.
        attempts: i32,
    },
}

impl RowOutcome {
    /// The same outcome with a fixed text; `None`: it has no failure.
    pub fn with_plain_failure(&self) -> Option<RowOutcome> {
        let plain = |failure: &Failure| {
            Failure::new(
                failure.class,
                "unrecordable",
                "the reason of the failure cannot be stored",
            )
            .hint("See the server log.")
        };
        match self {
            RowOutcome::Done | RowOutcome::Kept | RowOutcome::Confirmed => None,
            RowOutcome::Deferred { failure, attempts, pause } => Some(RowOutcome::Deferred {
                failure: plain(failure),
                attempts: *attempts,
                pause: *pause,
            }),
            RowOutcome::Failed { failure, attempts } => {
                Some(RowOutcome::Failed { failure: plain(failure), attempts: *attempts })
            }
        }
    }
}

/// How retries are limited.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts after which a row fails.
    pub max_attempts: i32,
    /// Random, in 0..1.
    pub jitter: f64,
}

impl RetryPolicy {
    /// Another attempt, charged, or failure if it was the last one.
    fn retry(&self, job: &RowJob, failure: &Failure) -> RowOutcome {
        let (failure, attempts) = (failure.clone(), job.attempts + 1);
        if attempts >= self.max_attempts {
            return RowOutcome::Failed { failure, attempts };
        }
        let before = u32::try_from(job.attempts).unwrap_or(0);
        let pause = RETRY.jittered(before, RETRY_JITTER, self.jitter);
        RowOutcome::Deferred { failure, attempts, pause }
    }

    /// Another attempt for a picture that may not be there yet, or failure.
    fn wait_for_picture(&self, job: &RowJob, failure: &Failure) -> RowOutcome {
        let (failure, attempts) = (failure.clone(), job.attempts + 1);
        match NOT_THERE_YET_PAUSES.get(usize::try_from(job.attempts).unwrap_or(0)) {
            Some(pause) => {
                let pause = pause.mul_f64(1.0 + 0.1 * self.jitter);
                RowOutcome::Deferred { failure, attempts, pause }
            }
            None => RowOutcome::Failed { failure, attempts },
        }
    }

    /// Waits for resources of the server; nothing is charged.
    fn wait_for_resources(&self, job: &RowJob, failure: &Failure) -> RowOutcome {
        RowOutcome::Deferred {
            failure: failure.clone(),
            attempts: job.attempts,
            pause: RESOURCE_PAUSE.mul_f64(1.0 + 0.1 * self.jitter),
        }
    }

    /// Waits for the host; nothing is charged.
    fn wait_for_host(&self, job: &RowJob, failure: &Failure) -> RowOutcome {
        let pause = failure.retry_after_ms.map_or(HOST_PAUSE, Duration::from_millis);
        RowOutcome::Deferred {
            failure: failure.clone(),
            attempts: job.attempts,
            pause: pause.max(HOST_PAUSE_MIN).mul_f64(1.0 + 0.1 * self.jitter),
        }
    }
}

/// What is known of the row when a plan is made.
#[derive(Debug)]
pub enum RowState<'a> {
    /// It was not read: the answer does not change it.
    NotRead,
    /// It does not exist.
    Gone,
    /// Another transaction holds a lock on it.
    Locked,
    /// This transaction holds a lock on it.
    Current(&'a CurrentRow),
    /// The write failed: the table's own code could not get a lock.
    Blocked,
    /// The write failed for another reason.
    Refused {
        /// Why.
        failure: &'a Failure,
        /// Whether it may succeed later.
        kind: RefusalKind,
    },
    /// It must not be written: an earlier worker had to end during its write.
    Runaway(&'a Failure),
}

/// Whether a refused write may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Not without a change of the table or the row.
    Final,
    /// Perhaps; each attempt is charged.
    Transient,
    /// As soon as the server has room (SQLSTATE class 53); no attempt is charged.
    Resources,
}

/// What to do about a row.
#[derive(Debug)]
pub enum RowPlan<'a> {
    /// Update the row and its ledger, then record the outcome.
    Write(RowUpdate<'a>, RowOutcome),
    /// Record the outcome; the row stays as it is.
    Record(RowOutcome),
    /// Nothing for now: try again later.
    Recheck {
        /// The table's own code could not get a lock, rather than this worker.
        blocked: bool,
    },
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowResult {
    /// Record this outcome.
    Settled {
        /// The outcome.
        outcome: RowOutcome,
        /// Whether a text was written.
        wrote: bool,
    },
    /// Try again later; see [`RowPlan::Recheck`].
    Recheck {
        /// The table's own code could not get a lock, rather than this worker.
        blocked: bool,
    },
}

impl RowPlan<'_> {
    /// The result, once the plan was carried out.
    pub fn result(self) -> RowResult {
        match self {
            RowPlan::Write(update, outcome) => {
                RowResult::Settled { outcome, wrote: !update.texts.is_empty() }
            }
            RowPlan::Record(outcome) => RowResult::Settled { outcome, wrote: false },
            RowPlan::Recheck { blocked } => RowResult::Recheck { blocked },
        }
    }
}

/// One answer for one row, to be settled.
///
/// ```
/// use pg_caption_queue::{RetryPolicy, RowPlan, RowState, Settlement};
/// # use pg_caption_queue::{RowJob, RowKey, WatchedTable};
/// # use pg_caption_wire::CaptionOutcome;
/// # let table = WatchedTable {
/// #     oid: 1, name: "ONLY public.p".into(), owner: 10, url: "image_url".into(),
/// #     holds_pictures: false, sign: None, base_url: None, condition: None,
/// #     context: Vec::new(), follow_context: false, keeps_blank: false, review: false,
/// #     fills: Vec::new(), keys: Vec::new(), overwrite: false,
/// #     has_triggers: true, batch: None,
/// #     paused: false,
/// #     backfill_run: 1, backfill_after: None, backfill_done: true, recaption_before: None,
/// # };
/// # let job = RowJob {
/// #     row: RowKey { relation: 1, key: "[\"1\"]".into() }, page: None, url: "u".into(),
/// #     resolved: None,
/// #     fills: vec![0], rendered: Vec::new(), context: Vec::new(),
/// #     ledger: Default::default(), recaption: true, validators: None,
/// #     known: None, earlier: None, reuse: Default::default(),
/// #     refused: None, attempts: 0, trial: Default::default(),
/// # };
/// let retry = RetryPolicy { max_attempts: 5, jitter: 0.5 };
/// let settlement = Settlement::new(&table, &job, &CaptionOutcome::Unchanged, retry);
/// assert!(!settlement.needs_row());
/// assert!(matches!(settlement.plan(RowState::NotRead), RowPlan::Record(_)));
/// ```
#[derive(Debug)]
pub struct Settlement<'a> {
    pub(crate) table: &'a WatchedTable,
    pub(crate) job: &'a RowJob,
    pub(crate) answer: &'a CaptionOutcome,
    /// Fill and text.
    pub(crate) texts: Vec<(usize, &'a str)>,
    /// Fills without a caption that get their fallback, if the row has words for it.
    pub(crate) fallbacks: Vec<usize>,
    /// Fills whose caption is shown with other words of the row.
    pub(crate) rendered: Vec<usize>,
    /// Fills whose machine-written text of another URL gets no successor.
    pub(crate) outdated: Vec<usize>,
    outcome: RowOutcome,
    retry: RetryPolicy,
}

impl<'a> Settlement<'a> {
    /// The answer to a job of a table.
    pub fn new(
        table: &'a WatchedTable,
        job: &'a RowJob,
        answer: &'a CaptionOutcome,
        retry: RetryPolicy,
    ) -> Self {
        let (texts, outcome) = texts_and_outcome(job, answer, &retry);
        let outdated = match outcome {
            _ if job.is_removal() => job.fills.clone(),
            RowOutcome::Failed { .. } => outdated(table, job, &texts),
            _ => Vec::new(),
        };
        let fallbacks = match outcome {
            RowOutcome::Failed { .. } => fallbacks(table, job, &texts),
            _ => Vec::new(),
        };
        let rendered = job.rendered.clone();
        Settlement { table, job, answer, texts, fallbacks, rendered, outdated, outcome, retry }
    }

    /// The watch.
    pub fn table(&self) -> &'a WatchedTable {
        self.table
    }

    /// The job.
    pub fn job(&self) -> &'a RowJob {
        self.job
    }

    /// Whether the row must be locked and read: a text is to be written or removed.
    pub fn needs_row(&self) -> bool {
        self.fills().next().is_some() || !self.outdated.is_empty()
    }

    /// Indexes of the fills with a text or a fallback.
    pub fn fills(&self) -> impl Iterator<Item = usize> {
        let others = self.fallbacks.iter().chain(&self.rendered).copied();
        self.texts.iter().map(|(fill, _)| *fill).chain(others)
    }

    /// The same with the text of one fill.
    pub fn only(&self, fill: usize) -> Settlement<'a> {
        let texts = self.texts.iter().copied().filter(|(with_text, _)| *with_text == fill);
        Settlement {
            texts: texts.collect(),
            fallbacks: self.fallbacks.iter().copied().filter(|other| *other == fill).collect(),
            rendered: self.rendered.iter().copied().filter(|other| *other == fill).collect(),
            outdated: Vec::new(),
            outcome: self.outcome.clone(),
            ..*self
        }
    }

    /// The same without the texts that the table refuses: the row fails for this reason, and the
    /// other texts are written.
    pub fn without(&self, refused: &[usize], failure: Failure) -> Settlement<'a> {
        let texts = self.texts.iter().copied().filter(|(fill, _)| !refused.contains(fill));
        let accepted = |fills: &[usize]| {
            fills.iter().copied().filter(|fill| !refused.contains(fill)).collect()
        };
        Settlement {
            texts: texts.collect(),
            fallbacks: accepted(&self.fallbacks),
            rendered: accepted(&self.rendered),
            outdated: self.outdated.clone(),
            outcome: RowOutcome::Failed { failure, attempts: self.job.attempts + 1 },
            ..*self
        }
    }

    /// What to do, given what is known of the row.
    pub fn plan(&self, row: RowState<'_>) -> RowPlan<'_> {
        let outcome = self.outcome.clone();
        match row {
            RowState::NotRead | RowState::Gone => RowPlan::Record(outcome),
            RowState::Locked => RowPlan::Recheck { blocked: false },
            RowState::Blocked => RowPlan::Recheck { blocked: true },
            RowState::Current(current) => match RowUpdate::new(self, current) {
                Some(update) => RowPlan::Write(update, outcome),
                None => RowPlan::Record(outcome),
            },
            // The reason for a missing text says more than why the old one could not be removed.
            RowState::Refused { .. } if self.fills().next().is_none() && !self.job.is_removal() => {
                RowPlan::Record(outcome)
            }
            RowState::Refused { failure, kind: RefusalKind::Resources } => {
                RowPlan::Record(self.retry.wait_for_resources(self.job, failure))
            }
            RowState::Refused { failure, kind: RefusalKind::Transient } => {
                RowPlan::Record(self.retry.retry(self.job, failure))
            }
            RowState::Refused { failure, kind: RefusalKind::Final }
            | RowState::Runaway(failure) => {
                let (failure, attempts) = (failure.clone(), self.job.attempts + 1);
                RowPlan::Record(RowOutcome::Failed { failure, attempts })
            }
        }
    }
}

/// The texts of an answer, and what is recorded once they are written.
fn texts_and_outcome<'a>(
    job: &RowJob,
    answer: &'a CaptionOutcome,
    retry: &RetryPolicy,
) -> (Vec<(usize, &'a str)>, RowOutcome) {
    let failed = |failure: &Failure| RowOutcome::Failed {
        failure: failure.clone(),
        attempts: job.attempts + 1,
    };
    if job.is_removal() {
        return (Vec::new(), RowOutcome::Done);
    }
    if job.fills.is_empty() {
        return (Vec::new(), RowOutcome::Kept);
    }
    match answer {
        CaptionOutcome::Done { outputs, .. } => {
            let (mut texts, mut failure) = (Vec::new(), None);
            for (fill, output) in job.fills.iter().zip(outputs) {
                match output {
                    CaptionOutput::Written(written) => {
                        texts.push((*fill, written.caption.as_str()))
                    }
                    CaptionOutput::Failed(why) => failure = failure.or_else(|| Some(why.clone())),
                }
            }
            (texts, failure.as_ref().map_or(RowOutcome::Done, failed))
        }
        CaptionOutcome::Unchanged => (Vec::new(), RowOutcome::Confirmed),
        CaptionOutcome::Failed(failure) => {
            let outcome = match failure.class {
                _ if NOT_THERE_YET.contains(&failure.code.as_str()) => {
                    retry.wait_for_picture(job, failure)
                }
                FailureClass::Retry => retry.retry(job, failure),
                FailureClass::Host => retry.wait_for_host(job, failure),
                _ => failed(failure),
            };
            (Vec::new(), outcome)
        }
    }
}

/// Fills without a caption that have a fallback.
fn fallbacks(table: &WatchedTable, job: &RowJob, texts: &[(usize, &str)]) -> Vec<usize> {
    let has_none = |fill: &usize| {
        table.fills[*fill].fallback.is_some()
            && !texts.iter().any(|(with_text, _)| with_text == fill)
    };
    job.fills.iter().copied().filter(has_none).collect()
}

/// Fills without a new text whose ledger entry or draft is of another URL: the text describes a
/// picture that the row no longer has.
fn outdated(table: &WatchedTable, job: &RowJob, texts: &[(usize, &str)]) -> Vec<usize> {
    let url = hash(&job.url);
    let is_outdated = |fill: &usize| {
        (is_stale(table, &job.ledger, *fill, &job.url)
            || noted(table, &job.ledger, *fill, "url").is_some_and(|noted| noted != url))
            && !texts.iter().any(|(with_text, _)| with_text == fill)
    };
    job.fills.iter().copied().filter(is_outdated).collect()
}
