//! What an outcome means for its row: what is written, and whether the row is done, put off, or
//! recorded as failed. Decided here, carried out by whoever has the database.

use crate::job::{entry, hash, is_ours, needs};
use crate::{Current, Job, Watched};
use pg_caption_wire::{CaptionOutcome, CaptionOutput, Failure, FailureClass};
use serde_json::{Map, Value};
use std::time::Duration;

/// First pause before a row is tried again; doubled with each charged attempt.
const RETRY_BASE: Duration = Duration::from_secs(5);
/// Longest pause before a row is tried again.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Shortest pause for a host: a row that is due at once would go round without end.
const HOST_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Pause for a host that did not say how long.
const HOST_PAUSE: Duration = Duration::from_secs(30);

/// What is noted of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict<'a> {
    /// It has what it needs: earlier failures are history.
    Forgiven,
    /// Its picture is the one that was captioned, with the same model: its texts count as written
    /// now.
    StillTrue,
    /// Tried again after a pause, with so many attempts charged.
    Deferred(&'a Failure, i32, Duration),
    /// Recorded, with so many attempts charged.
    Failed(&'a Failure, i32),
}

/// The texts that an outcome brings (fill and caption), and what is to be noted once they are
/// written. `jitter` is in 0..1.
pub fn verdict<'a>(
    job: &Job,
    outcome: &'a CaptionOutcome,
    max_attempts: i32,
    jitter: f64,
) -> (Vec<(usize, &'a str)>, Verdict<'a>) {
    match outcome {
        CaptionOutcome::Done { outputs, .. } => {
            let (mut texts, mut verdict) = (Vec::new(), Verdict::Forgiven);
            for (cell, output) in job.cells.iter().zip(outputs) {
                match output {
                    CaptionOutput::Written(written) => {
                        texts.push((*cell, written.caption.as_str()))
                    }
                    CaptionOutput::Failed(failure) if verdict == Verdict::Forgiven => {
                        verdict = Verdict::Failed(failure, job.attempts + 1)
                    }
                    CaptionOutput::Failed(_) => {}
                }
            }
            (texts, verdict)
        }
        CaptionOutcome::Unchanged => (Vec::new(), Verdict::StillTrue),
        CaptionOutcome::Failed(failure) => (
            Vec::new(),
            match failure.class {
                FailureClass::Retry => tried_again(job, failure, max_attempts, jitter),
                FailureClass::Host => {
                    let pause = failure
                        .retry_after_ms
                        .map_or(HOST_PAUSE, Duration::from_millis)
                        .max(HOST_PAUSE_MIN);
                    Verdict::Deferred(failure, job.attempts, pause.mul_f64(1.0 + 0.1 * jitter))
                }
                _ => Verdict::Failed(failure, job.attempts + 1),
            },
        ),
    }
}

/// Put off with a charged attempt, or failed if that was the last one.
pub fn tried_again<'a>(
    job: &Job,
    failure: &'a Failure,
    max_attempts: i32,
    jitter: f64,
) -> Verdict<'a> {
    let attempts = job.attempts + 1;
    if attempts < max_attempts {
        Verdict::Deferred(failure, attempts, backoff(job.attempts, jitter))
    } else {
        Verdict::Failed(failure, attempts)
    }
}

fn backoff(attempts: i32, jitter: f64) -> Duration {
    let doubled = RETRY_BASE.saturating_mul(1u32 << attempts.clamp(0, 16));
    doubled.min(RETRY_MAX).mul_f64(0.5 + jitter)
}

/// Fills that got no text although the row is done with its URL, and whose text is ours and of
/// another one: it says something of a picture that is not there any more.
pub fn outdated(
    table: &Watched,
    job: &Job,
    texts: &[(usize, &str)],
    verdict: Verdict<'_>,
) -> Vec<usize> {
    let url = hash(&job.url);
    let of_another = |cell: &usize| {
        let said = job
            .ours
            .get(&table.fills[*cell].column)
            .and_then(|entry| entry.get("url"))
            .and_then(Value::as_str);
        said.is_some_and(|said| said != url) && !texts.iter().any(|(at, _)| at == cell)
    };
    if matches!(verdict, Verdict::Failed(..)) {
        job.cells.iter().copied().filter(of_another).collect()
    } else {
        Vec::new()
    }
}

/// What of an outcome's texts goes into the row as it is now.
#[derive(Debug)]
pub struct Write<'a> {
    /// To be written: fill and text.
    pub new: Vec<(usize, &'a str)>,
    /// Fills to be emptied.
    pub emptied: Vec<usize>,
    /// Entries of the ledger for texts that stand there already, word for word.
    pub there: Map<String, Value>,
    /// Whatever else of ours stands in the row was written for this URL, or it would be needed
    /// anew.
    pub alone: bool,
}

/// What to write into a locked row; `None`: nothing, somebody has changed it. Only what is still
/// empty or ours, only if the URL is still the one captioned. `outdated`: see [`outdated`].
pub fn write<'a>(
    table: &Watched,
    job: &Job,
    current: &Current,
    texts: &[(usize, &'a str)],
    outdated: &[usize],
) -> Option<Write<'a>> {
    if current.url.as_deref() != Some(job.url.as_str()) {
        // The trigger has queued the new URL.
        return None;
    }
    let still = needs(table, current, &job.ours, job.again);
    let wanted = texts.iter().filter(|(cell, _)| still.contains(cell)).copied();
    // Captioned again, it may get the very words that it has: no new version of the row for that.
    let is_there = |(cell, text): &(usize, &str)| {
        job.again && current.texts.get(*cell).is_some_and(|there| there.as_deref() == Some(*text))
    };
    let (there, new): (Vec<_>, Vec<_>) = wanted.partition(is_there);
    let emptied: Vec<usize> =
        outdated.iter().copied().filter(|cell| is_ours(table, current, &job.ours, *cell)).collect();
    if there.is_empty() && new.is_empty() && emptied.is_empty() {
        return None;
    }
    let there = there
        .into_iter()
        .map(|(cell, text)| (table.fills[cell].column.clone(), entry(text, &job.url)))
        .collect();
    let stays = |cell: usize| !emptied.contains(&cell) && is_ours(table, current, &job.ours, cell);
    let alone =
        (0..table.fills.len()).all(|cell| texts.iter().any(|(at, _)| *at == cell) || !stays(cell));
    Some(Write { new, emptied, there, alone })
}
