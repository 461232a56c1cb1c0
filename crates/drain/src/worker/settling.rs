//! What has landed is settled, many rows in one transaction; a row that somebody holds is tried again later, and one that was queued again meanwhile is looked at anew.

use super::Worker;
use crate::examiner::Examiner;
use crate::store::Settled;
use crate::{Job, Store};
use pg_caption_wire::Outcome;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Pause before a locked row is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A row that somebody else has locked.
#[derive(Debug)]
pub struct Held {
    pub job: Job,
    pub outcome: Outcome,
    pub again: Instant,
}

/// A linear congruential generator (Knuth's MMIX constants).
#[derive(Debug)]
pub struct Jitter(u64);

impl Jitter {
    pub fn new(seed: u64) -> Self {
        Jitter(seed | 1)
    }

    /// Evenly in 0..1.
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

impl Worker {
    /// Rows whose time has come land again.
    pub(super) fn retry_held(&mut self, now: Instant) {
        let (again, rest): (Vec<Held>, _) = std::mem::take(&mut self.held).into_iter().partition(|held| held.again <= now);
        self.held = rest;
        self.landed.extend(again.into_iter().map(|held| (held.job, held.outcome)));
    }

    /// Settles what has landed, in a transaction.
    pub fn settle(&mut self, store: &mut impl Store, now: Instant) {
        let mut done: Vec<Job> = Vec::new();
        let mut filled: HashMap<u32, i64> = HashMap::new();
        let mut free: HashMap<u32, bool> = HashMap::new();
        for (job, outcome) in self.landed.drain(..self.landed.len().min(self.limits.together)) {
            let Some(table) = self.tables.iter().find(|table| table.oid == job.row.relation) else { continue };
            let jitter = self.jitter.draw();
            let settled = match *free.entry(table.oid).or_insert_with(|| store.may_write(table)) {
                true => store.settle(table, &job, &outcome, jitter),
                false => Settled::Locked,
            };
            match settled {
                Settled::Locked => self.held.push(Held { job, outcome, again: now + AGAIN }),
                Settled::Done { filled: wrote } => {
                    *filled.entry(job.row.relation).or_default() += i64::from(wrote);
                    done.push(job);
                }
            }
        }
        for (relation, count) in filled {
            let per_minute = self.rates.count(relation, now, count);
            store.tally(relation, count, per_minute);
        }
        let struck = self.board.finish(done.iter().map(|job| job.page));
        store.strike(&struck, &self.tables);
        for job in done {
            self.recheck.extend(self.board.release(&job.row).into_iter().map(|page| (job.row.clone(), page)));
        }
        // Somebody queued these rows again while they were in hand.
        for (row, page) in std::mem::take(&mut self.recheck) {
            let Some(table) = self.tables.iter().find(|table| table.oid == row.relation) else { continue };
            match (Examiner { board: &mut self.board, tables: &self.tables, store }).page(table, page, std::slice::from_ref(&row.key)) {
                Ok(jobs) => self.flight.add(jobs),
                Err(_) => self.recheck.push((row, page)),
            }
        }
    }
}
