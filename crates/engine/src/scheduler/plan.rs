//! What the model does next: the decision, without threads, sessions or a clock. Called by
//! `Scheduler` before each session call.
//!
//! The earliest due time picks the call; only equal buckets join it; nothing waits for company.

use std::collections::HashMap;
use std::time::Instant;

/// What must be equal to share a call: shape of the picture, or features, prompt and generation
/// settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket(pub [u64; 3]);

/// Something that waits for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Unique among everything the scheduler holds.
    pub key: u64,
    /// By when its next step should have been made.
    pub due: Instant,
    /// Whose turn it takes: the connection.
    pub turn: u64,
    /// With what it may share a call.
    pub bucket: Bucket,
    /// Rows of a call it takes: 1, or the number of beams.
    pub rows: usize,
    /// It shares a call with nobody: its prefill is large, or a call with it and others failed and
    /// the culprit is looked for.
    pub alone: bool,
}

/// The next session call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Encode these pictures (positions in the list given).
    Encode(Vec<usize>),
    /// Prefill these captions.
    Begin(Vec<usize>),
    /// One decode step of this batch.
    Step(usize),
}

/// How much may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pictures in an encoder call.
    pub pictures: usize,
    /// Rows in a decoder call.
    pub rows: usize,
    /// Bytes of features and caches.
    pub bytes: usize,
}

/// What the decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Waiting to be encoded.
    pub pictures: &'a [Ticket],
    /// Waiting to be begun.
    pub captions: &'a [Ticket],
    /// Earliest due time of each running batch.
    pub running: &'a [Instant],
    /// Bytes of features and caches held.
    pub bytes: usize,
    /// Bytes a row of a new batch may come to hold.
    pub row_bytes: usize,
}

/// The next call, if there is anything to do.
pub fn next(view: &View, limits: &Limits) -> Option<Act> {
    let earliest = |tickets: &[Ticket]| tickets.iter().map(|t| t.due).min();
    let step = view
        .running
        .iter()
        .enumerate()
        .min_by_key(|(_, due)| **due)
        .map(|(batch, due)| (*due, batch));
    // What has begun frees memory when it ends, so it goes first at equal times, then what has been
    // encoded.
    let mut options: Vec<(Instant, u8, Act)> = Vec::new();
    if let Some((due, batch)) = step {
        options.push((due, 0, Act::Step(batch)));
    }
    if let Some(due) = earliest(view.captions) {
        let group = group(view.captions, limits.rows);
        let rows: usize = group.iter().map(|i| view.captions[*i].rows).sum();
        // Without anything running nothing would ever free memory: then it begins whatever it
        // takes.
        if view.running.is_empty() || view.bytes + rows * view.row_bytes <= limits.bytes {
            options.push((due, 1, Act::Begin(group)));
        }
    }
    if let Some(due) = earliest(view.pictures) {
        let idle = view.running.is_empty() && view.captions.is_empty();
        if idle || view.bytes < limits.bytes {
            options.push((due, 2, Act::Encode(group(view.pictures, limits.pictures))));
        }
    }
    options.into_iter().min_by_key(|(due, order, _)| (*due, *order)).map(|(_, _, act)| act)
}

/// The positions that make up a call: the earliest one and its bucket, connections taking turns,
/// within `rows`; at least one.
fn group(waiting: &[Ticket], rows: usize) -> Vec<usize> {
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
    // Its place within its own connection's line comes before its due time: a line of a thousand
    // does not shut out a single one.
    let mut line: HashMap<u64, usize> = HashMap::new();
    let mut ranked: Vec<(usize, usize)> = same
        .into_iter()
        .map(|i| {
            let place = line.entry(waiting[i].turn).or_default();
            *place += waiting[i].rows;
            (*place - waiting[i].rows, i)
        })
        .collect();
    ranked.sort_by_key(|(place, i)| (*place, waiting[*i].due, *i));
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

    const LIMITS: Limits = Limits { pictures: 4, rows: 4, bytes: 1000 };

    struct Clock(Instant);

    impl Clock {
        fn ticket(&self, key: u64, due: u64, turn: u64, bucket: u64) -> Ticket {
            Ticket {
                key,
                due: self.at(due),
                turn,
                bucket: Bucket([bucket, 0, 0]),
                rows: 1,
                alone: false,
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }
    }

    fn view<'a>(
        pictures: &'a [Ticket],
        captions: &'a [Ticket],
        running: &'a [Instant],
    ) -> View<'a> {
        View { pictures, captions, running, bytes: 0, row_bytes: 10 }
    }

    #[test]
    fn nothing_to_do_is_nothing() {
        assert_eq!(next(&view(&[], &[], &[]), &LIMITS), None);
    }

    #[test]
    fn the_earliest_due_time_picks_the_call() {
        let c = Clock(Instant::now());
        let (picture, caption) = ([c.ticket(1, 10, 1, 1)], [c.ticket(2, 20, 1, 1)]);
        assert_eq!(
            next(&view(&picture, &caption, &[c.at(30)]), &LIMITS),
            Some(Act::Encode(vec![0]))
        );
        assert_eq!(
            next(&view(&picture, &caption, &[c.at(30), c.at(5)]), &LIMITS),
            Some(Act::Step(1))
        );
        let caption = [c.ticket(2, 5, 1, 1)];
        assert_eq!(
            next(&view(&picture, &caption, &[c.at(30)]), &LIMITS),
            Some(Act::Begin(vec![0]))
        );
    }

    #[test]
    fn at_equal_times_what_has_begun_goes_first() {
        let c = Clock(Instant::now());
        let (picture, caption) = ([c.ticket(1, 10, 1, 1)], [c.ticket(2, 10, 1, 1)]);
        assert_eq!(next(&view(&picture, &caption, &[c.at(10)]), &LIMITS), Some(Act::Step(0)));
        assert_eq!(next(&view(&picture, &caption, &[]), &LIMITS), Some(Act::Begin(vec![0])));
    }

    #[test]
    fn only_equal_buckets_join_and_all_of_them_do() {
        let c = Clock(Instant::now());
        let pictures: Vec<_> = [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)]
            .map(|(key, bucket)| c.ticket(key, key, key, bucket))
            .into();
        assert_eq!(next(&view(&pictures, &[], &[]), &LIMITS), Some(Act::Encode(vec![0, 2, 4])));
    }

    #[test]
    fn connections_take_turns_within_a_call() {
        let c = Clock(Instant::now());
        let mut pictures: Vec<_> = (0..100).map(|key| c.ticket(key, key, 7, 1)).collect();
        pictures.push(c.ticket(100, 500, 8, 1));
        pictures.push(c.ticket(101, 501, 9, 1));
        assert_eq!(
            next(&view(&pictures, &[], &[]), &LIMITS),
            Some(Act::Encode(vec![0, 100, 101, 1]))
        );
    }

    #[test]
    fn beams_count_as_rows_and_a_caption_wider_than_a_call_still_runs() {
        let c = Clock(Instant::now());
        let beams = |key, rows| Ticket { rows, ..c.ticket(key, key, key, 1) };
        assert_eq!(
            next(&view(&[], &[beams(1, 3), beams(2, 3), beams(3, 1)], &[]), &LIMITS),
            Some(Act::Begin(vec![0, 2]))
        );
        assert_eq!(next(&view(&[], &[beams(1, 9)], &[]), &LIMITS), Some(Act::Begin(vec![0])));
    }

    #[test]
    fn a_suspect_goes_alone() {
        let c = Clock(Instant::now());
        let suspect = Ticket { alone: true, ..c.ticket(1, 1, 1, 1) };
        let other = c.ticket(2, 2, 2, 1);
        assert_eq!(next(&view(&[suspect, other], &[], &[]), &LIMITS), Some(Act::Encode(vec![0])));
        let late = Ticket { due: c.at(9), ..suspect };
        assert_eq!(next(&view(&[late, other], &[], &[]), &LIMITS), Some(Act::Encode(vec![1])));
    }

    #[test]
    fn full_memory_lets_what_runs_finish_first_and_never_stands_still() {
        let c = Clock(Instant::now());
        let (picture, caption) = ([c.ticket(1, 1, 1, 1)], [c.ticket(2, 2, 1, 1)]);
        fn full<'a>(
            pictures: &'a [Ticket],
            captions: &'a [Ticket],
            running: &'a [Instant],
        ) -> View<'a> {
            View { bytes: 1000, ..view(pictures, captions, running) }
        }
        assert_eq!(next(&full(&picture, &caption, &[c.at(99)]), &LIMITS), Some(Act::Step(0)));
        assert_eq!(next(&full(&picture, &caption, &[]), &LIMITS), Some(Act::Begin(vec![0])));
        assert_eq!(next(&full(&picture, &[], &[]), &LIMITS), Some(Act::Encode(vec![0])));
    }
}
