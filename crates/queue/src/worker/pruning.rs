//! When the passes over ledger and failures are made (`crate::prune`): by a worker that is awake
//! anyway. One that has nothing to do makes one batch after the other, and looks for work in
//! between; a busy one makes one a second, so that what waits never waits for more than one. It
//! leaves in the middle of a pass if others wait for its slot: the next one goes on from there.

use super::{LOOK, Worker};
use crate::store::Unread;
use crate::{Store, prune};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// How often it is asked whether passes are due while nobody tells of anything. (A pass is due a
/// day after the last one, or when asked for, or after a TRUNCATE.)
const HOUR: Duration = Duration::from_secs(3600);
/// Pause before a table is tried again that somebody holds.
const AGAIN: Duration = Duration::from_secs(1);

/// What a worker knows of passes. Where each stands is in the database.
#[derive(Debug, Default)]
pub struct Tidying {
    /// Tables whose pass is due, the next one first.
    due: VecDeque<u32>,
    /// The generation of the database, and the time, at which it was asked last which are due.
    asked: Option<(Option<u64>, Instant)>,
    /// When anything was done last.
    acted: Option<Instant>,
    /// The next table is somebody's until then, perhaps.
    hold: Option<Instant>,
    /// Tables that this worker could not read.
    unreadable: HashSet<u32>,
}

impl Tidying {
    fn asks(&self, generation: Option<u64>, now: Instant) -> Instant {
        match self.asked {
            Some((before, at)) if before == generation => at + HOUR,
            _ => now,
        }
    }

    /// When to do the next thing.
    pub fn next(&self, generation: Option<u64>, idle: bool, now: Instant) -> Instant {
        let batch = if self.due.is_empty() { None } else { Some(self.hold.unwrap_or(now)) };
        let next = batch.into_iter().chain([self.asks(generation, now)]).min().unwrap_or(now);
        self.acted.filter(|_| !idle).map_or(next, |acted| next.max(acted + LOOK))
    }
}

impl Worker {
    /// Finds out which passes are due if that is not known, and makes a batch of one of them; in a
    /// transaction.
    pub fn tidy(&mut self, store: &mut impl Store, now: Instant) {
        self.tidying.acted = Some(now);
        if self.tidying.asks(self.generation, now) <= now {
            self.tidying.asked = Some((self.generation, now));
            let unreadable = &self.tidying.unreadable;
            self.tidying.due = store
                .untidy(&self.active())
                .into_iter()
                .filter(|table| !unreadable.contains(table))
                .collect();
            self.tidying.hold = None;
        }
        if self.tidying.hold.is_some_and(|hold| hold > now) {
            return;
        }
        let Some(relation) = self.tidying.due.pop_front() else { return };
        // Unwatched or paused meanwhile: whoever did so raised the generation, or will.
        let Some(table) = self.tables.iter().find(|table| table.oid == relation && !table.paused)
        else {
            return;
        };
        match prune::batch(table, self.limits.tidied, store) {
            Ok(true) => self.tidying.hold = None,
            Ok(false) => self.tidying.due.push_front(relation),
            Err(Unread::Busy) => {
                self.tidying.due.push_back(relation);
                self.tidying.hold = Some(now + AGAIN);
            }
            Err(Unread::Stopped) => {
                self.tidying.unreadable.insert(relation);
            }
        }
    }
}
