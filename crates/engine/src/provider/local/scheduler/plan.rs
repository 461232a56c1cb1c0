//! The decision which session call comes next, without threads, sessions or a clock. Used by
//! `ModelScheduler` before each call.
//!
//! The earliest due time selects the call; only equal buckets share it; no call waits for more
//! work.

use std::collections::HashMap;
use std::time::Instant;

/// Must be equal to share a call: shape of the picture, or features, prompt and generation
/// settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchBucket(pub [u64; 3]);

/// A picture or caption that waits for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleTicket {
    /// Unique in the scheduler.
    pub key: u64,
    /// When its next step is due.
    pub due: Instant,
    /// Its connection; connections take turns.
    pub turn: u64,
    /// Only tickets of equal buckets share a call.
    pub bucket: BatchBucket,
    /// Rows of a call it takes: 1, or the number of beams.
    pub rows: usize,
    /// It must not share a call: its prefill is large, or a shared call failed and the cause is
    /// being searched for.
    pub alone: bool,
}

/// The next session call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCall {
    /// Encode these pictures (positions in the list given).
    Encode(Vec<usize>),
    /// Prefill these captions.
    Begin(Vec<usize>),
    /// One decode step of this batch.
    Step(usize),
}

/// Limits of one call and of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Pictures in an encoder call.
    pub pictures: usize,
    /// Rows in a decoder call.
    pub rows: usize,
    /// Bytes of features and caches.
    pub bytes: usize,
}

/// The input of the decision.
#[derive(Debug, Clone, Copy)]
pub struct PlanView<'a> {
    /// Pictures that wait for the encoder.
    pub pictures: &'a [ScheduleTicket],
    /// Captions that wait for their prefill.
    pub captions: &'a [ScheduleTicket],
    /// Earliest due time of each running batch.
    pub running: &'a [Instant],
    /// Bytes of features and caches held.
    pub bytes: usize,
    /// Bytes that a row of a new batch may grow to.
    pub row_bytes: usize,
}

/// The next call, if there is work.
pub fn next(view: &PlanView, limits: &BatchLimits) -> Option<SessionCall> {
    let earliest = |tickets: &[ScheduleTicket]| tickets.iter().map(|t| t.due).min();
    let step = view
        .running
        .iter()
        .enumerate()
        .min_by_key(|(_, due)| **due)
        .map(|(batch, due)| (*due, batch));
    // At equal times running captions go first, because they free memory when they end; then
    // encoded pictures.
    let mut options: Vec<(Instant, u8, SessionCall)> = Vec::new();
    if let Some((due, batch)) = step {
        options.push((due, 0, SessionCall::Step(batch)));
    }
    if let Some(due) = earliest(view.captions) {
        let group = group(view.captions, limits.rows);
        let rows: usize = group.iter().map(|i| view.captions[*i].rows).sum();
        // While no batch runs, no memory will be freed: the captions then start in any case.
        if view.running.is_empty() || view.bytes + rows * view.row_bytes <= limits.bytes {
            options.push((due, 1, SessionCall::Begin(group)));
        }
    }
    if let Some(due) = earliest(view.pictures) {
        let idle = view.running.is_empty() && view.captions.is_empty();
        if idle || view.bytes < limits.bytes {
            options.push((due, 2, SessionCall::Encode(group(view.pictures, limits.pictures))));
        }
    }
    options.into_iter().min_by_key(|(due, order, _)| (*due, *order)).map(|(_, _, call)| call)
}

/// The positions that share a call: the earliest one and its bucket, connections taking turns,
/// within `rows`; at least one.
fn group(waiting: &[ScheduleTicket], rows: usize) -> Vec<usize> {
    let Some(first) = (0..waiting.len()).min_by_key(|i| (waiting[*i].due, *i)) else {
        return Vec::new();
    };
    if waiting[first].alone {
        return vec![first];
    }
    let mut same: Vec<usize> = (0..waiting.len())
        .filter(|i| waiting[*i].bucket == waiting[first].bucket && !waiting[*i].alone)
        .collect();
    same.sort_by_key(|i| (waiting[*i].due, *i));
    // The rank within its own connection counts before the due time: a thousand requests of one
    // connection do not exclude a single one of another.
    let mut queued: HashMap<u64, usize> = HashMap::new();
    let mut ranked: Vec<(usize, usize)> = same
        .into_iter()
        .map(|i| {
            let rank = queued.entry(waiting[i].turn).or_default();
            *rank += waiting[i].rows;
            (*rank - waiting[i].rows, i)
        })
        .collect();
    ranked.sort_by_key(|(rank, i)| (*rank, waiting[*i].due, *i));
    let mut left = rows;
    let mut chosen = Vec::new();
    for (_, i) in ranked {
        if chosen.is_empty() || waiting[i].rows <= left {
            left = left.saturating_sub(waiting[i].rows);
            chosen.push(i);
        }
        if left == 0 {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: BatchLimits = BatchLimits { pictures: 4, rows: 4, bytes: 1000 };

    struct Clock(Instant);

    impl Clock {
        fn ticket(&self, key: u64, due: u64, turn: u64, bucket: u64) -> ScheduleTicket {
            ScheduleTicket {
                key,
                due: self.at(due),
                turn,
                bucket: BatchBucket([bucket, 0, 0]),
                rows: 1,
                alone: false,
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }
    }

    fn view<'a>(
        pictures: &'a [ScheduleTicket],
        captions: &'a [ScheduleTicket],
        running: &'a [Instant],
    ) -> PlanView<'a> {
        PlanView { pictures, captions, running, bytes: 0, row_bytes: 10 }
    }

    #[test]
    fn without_work_there_is_no_call() {
        assert_eq!(next(&view(&[], &[], &[]), &LIMITS), None);
    }

    #[test]
    fn the_earliest_due_time_selects_the_call() {
        let c = Clock(Instant::now());
        let (picture, caption) = ([c.ticket(1, 10, 1, 1)], [c.ticket(2, 20, 1, 1)]);
        assert_eq!(
            next(&view(&picture, &caption, &[c.at(30)]), &LIMITS),
            Some(SessionCall::Encode(vec![0]))
        );
        assert_eq!(
            next(&view(&picture, &caption, &[c.at(30), c.at(5)]), &LIMITS),
            Some(SessionCall::Step(1))
        );
        let caption = [c.ticket(2, 5, 1, 1)];
        assert_eq!(
            next(&view(&picture, &caption, &[c.at(30)]), &LIMITS),
            Some(SessionCall::Begin(vec![0]))
        );
    }

    #[test]
    fn at_equal_times_running_captions_go_first() {
        let c = Clock(Instant::now());
        let (picture, caption) = ([c.ticket(1, 10, 1, 1)], [c.ticket(2, 10, 1, 1)]);
        assert_eq!(
            next(&view(&picture, &caption, &[c.at(10)]), &LIMITS),
            Some(SessionCall::Step(0))
        );
        assert_eq!(
            next(&view(&picture, &caption, &[]), &LIMITS),
            Some(SessionCall::Begin(vec![0]))
        );
    }

    #[test]
    fn all_pictures_of_one_bucket_share_a_call() {
        let c = Clock(Instant::now());
        let pictures: Vec<_> = [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)]
            .map(|(key, bucket)| c.ticket(key, key, key, bucket))
            .into();
        assert_eq!(
            next(&view(&pictures, &[], &[]), &LIMITS),
            Some(SessionCall::Encode(vec![0, 2, 4]))
        );
    }

    #[test]
    fn connections_take_turns_within_a_call() {
        let c = Clock(Instant::now());
        let mut pictures: Vec<_> = (0..100).map(|key| c.ticket(key, key, 7, 1)).collect();
        pictures.push(c.ticket(100, 500, 8, 1));
        pictures.push(c.ticket(101, 501, 9, 1));
        assert_eq!(
            next(&view(&pictures, &[], &[]), &LIMITS),
            Some(SessionCall::Encode(vec![0, 100, 101, 1]))
        );
    }

    #[test]
    fn beams_count_as_rows_of_a_call() {
        let c = Clock(Instant::now());
        let beams = |key, rows| ScheduleTicket { rows, ..c.ticket(key, key, key, 1) };
        assert_eq!(
            next(&view(&[], &[beams(1, 3), beams(2, 3), beams(3, 1)], &[]), &LIMITS),
            Some(SessionCall::Begin(vec![0, 2]))
        );
        // A caption wider than a call runs by itself.
        assert_eq!(
            next(&view(&[], &[beams(1, 9)], &[]), &LIMITS),
            Some(SessionCall::Begin(vec![0]))
        );
    }

    #[test]
    fn a_suspect_runs_alone() {
        let c = Clock(Instant::now());
        let suspect = ScheduleTicket { alone: true, ..c.ticket(1, 1, 1, 1) };
        let other = c.ticket(2, 2, 2, 1);
        assert_eq!(
            next(&view(&[suspect, other], &[], &[]), &LIMITS),
            Some(SessionCall::Encode(vec![0]))
        );
        let late = ScheduleTicket { due: c.at(9), ..suspect };
        assert_eq!(
            next(&view(&[late, other], &[], &[]), &LIMITS),
            Some(SessionCall::Encode(vec![1]))
        );
    }

    #[test]
    fn full_memory_never_stops_the_scheduler() {
        let c = Clock(Instant::now());
        let (picture, caption) = ([c.ticket(1, 1, 1, 1)], [c.ticket(2, 2, 1, 1)]);
        fn full<'a>(
            pictures: &'a [ScheduleTicket],
            captions: &'a [ScheduleTicket],
            running: &'a [Instant],
        ) -> PlanView<'a> {
            PlanView { bytes: 1000, ..view(pictures, captions, running) }
        }
        assert_eq!(
            next(&full(&picture, &caption, &[c.at(99)]), &LIMITS),
            Some(SessionCall::Step(0))
        );
        assert_eq!(
            next(&full(&picture, &caption, &[]), &LIMITS),
            Some(SessionCall::Begin(vec![0]))
        );
        assert_eq!(next(&full(&picture, &[], &[]), &LIMITS), Some(SessionCall::Encode(vec![0])));
    }
}
