//! When prune passes run (see `crate::prune`): in workers that are awake anyway. An idle worker
//! runs batch after batch and looks for work in between. A busy one runs one batch per second, so
//! no row waits for more than one batch. A worker leaves in the middle of a pass if other databases
//! wait for its slot; the next worker continues.

use super::{CHECK_INTERVAL, QueueWorker};
use crate::store::ReadError;
use crate::{QueueStore, prune};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// How often a worker checks for due passes while the generation stays the same. (A pass is due a
/// day after the last one, on request, and after TRUNCATE.)
const HOUR: Duration = Duration::from_secs(3600);
/// Pause before a locked table is tried again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// What a worker knows about passes. Their positions are in the database.
#[derive(Debug, Default)]
pub struct PruneState {
    /// Tables whose pass is due, the next one first.
    due: VecDeque<u32>,
    /// Generation and time of the last check for due passes.
    checked: Option<(Option<u64>, Instant)>,
    /// Time of the last action.
    acted: Option<Instant>,
    /// The next table was locked: wait until then.
    retry_at: Option<Instant>,
    /// Tables that this worker could not read.
    unreadable: HashSet<u32>,
}

impl PruneState {
    fn next_check(&self, generation: Option<u64>, now: Instant) -> Instant {
        match self.checked {
            Some((before, at)) if before == generation => at + HOUR,
            _ => now,
        }
    }

    /// When the next action is due.
    pub fn next(&self, generation: Option<u64>, idle: bool, now: Instant) -> Instant {
        let batch = if self.due.is_empty() { None } else { Some(self.retry_at.unwrap_or(now)) };
        let next = batch.into_iter().chain([self.next_check(generation, now)]).min().unwrap_or(now);
        self.acted.filter(|_| !idle).map_or(next, |acted| next.max(acted + CHECK_INTERVAL))
    }
}

impl QueueWorker {
    /// Checks which passes are due, if a check is, and runs one batch; in a transaction.
    pub fn prune(&mut self, store: &mut impl QueueStore, now: Instant) {
        self.pruning.acted = Some(now);
        if self.pruning.next_check(self.generation, now) <= now {
            self.pruning.checked = Some((self.generation, now));
            let unreadable = &self.pruning.unreadable;
            self.pruning.due = store
                .prune_due(&self.active())
                .into_iter()
                .filter(|table| !unreadable.contains(table))
                .collect();
            self.pruning.retry_at = None;
        }
        if self.pruning.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let Some(relation) = self.pruning.due.pop_front() else { return };
        // Unwatched or paused meanwhile: that raises the generation.
        let Some(table) = self.tables.iter().find(|table| table.oid == relation && !table.paused)
        else {
            return;
        };
        match prune::batch(table, self.limits.prune_rows, store) {
            Ok(true) => self.pruning.retry_at = None,
            Ok(false) => self.pruning.due.push_front(relation),
            Err(ReadError::Busy) => {
                self.pruning.due.push_back(relation);
                self.pruning.retry_at = Some(now + BUSY_PAUSE);
            }
            Err(ReadError::Stopped) => {
                self.pruning.unreadable.insert(relation);
            }
        }
    }
}
