//! What has landed is settled, many rows in one transaction; a row that somebody holds is tried
//! again later, and one that was queued again meanwhile is looked at anew.

use super::Worker;
use crate::examiner::Examiner;
use crate::store::Settled;
use crate::{Job, Store};
use pg_caption_wire::CaptionOutcome;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Pause before a locked row is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Where its triggers meet a lock that is doubled each time, so often at most: each try may wait
/// for the lock.
const DOUBLINGS: u32 = 6;
/// When a row that is locked for longer is read anew, should its caption be lost meanwhile.
const PUT_OFF: Duration = Duration::from_secs(60);

/// A row that somebody else has locked.
#[derive(Debug)]
pub struct Held {
    pub job: Job,
    pub outcome: CaptionOutcome,
    pub again: Instant,
    /// How often in a row it was locked.
    pub times: u32,
}

/// An answer to be settled.
#[derive(Debug)]
pub struct Landed {
    pub job: Job,
    pub outcome: CaptionOutcome,
    /// How often in a row its row was locked.
    pub times: u32,
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
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

impl Worker {
    /// Rows whose time has come land again.
    pub(super) fn retry_held(&mut self, now: Instant) {
        let (again, rest): (Vec<Held>, _) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.again <= now);
        self.held = rest;
        self.landed.extend(again.into_iter().map(|held| Landed {
            job: held.job,
            outcome: held.outcome,
            times: held.times,
        }));
    }

    /// A row that stays locked does not keep its page, or the walk, from going on: it is noted
    /// among the deferred rows, and its caption kept while there is room.
    fn put_aside(&mut self, mut held: Held, store: &mut impl Store) {
        if let Some(page) = held.job.page.take() {
            store.put_off(&held.job.row, held.job.attempts, PUT_OFF);
            let (struck, parked) = self.board.put_aside(&held.job.row, page);
            store.strike(&struck, &self.tables);
            self.recheck.extend(parked.into_iter().map(|page| (held.job.row.clone(), page)));
        }
        if self.held.len() < self.limits.held {
            self.held.push(held);
        } else {
            self.board.release(&held.job.row);
        }
    }

    /// Takes jobs on. What was kept for the same row is of no use any more: it is looked at anew.
    pub(super) fn take_on(&mut self, jobs: Vec<Job>) {
        let is_new = |old: &Job| old.page.is_none() && jobs.iter().any(|job| job.row == old.row);
        self.held.retain(|held| !is_new(&held.job));
        self.landed.retain(|landed| !is_new(&landed.job));
        self.flight.add(jobs);
    }

    /// Settles what has landed, in a transaction: not all of it where that takes its time.
    pub fn settle(&mut self, store: &mut impl Store, now: Instant) {
        let mut done: Vec<Job> = Vec::new();
        let mut locked: Vec<Held> = Vec::new();
        let mut filled: BTreeMap<u32, i64> = BTreeMap::new();
        let mut free: HashMap<u32, bool> = HashMap::new();
        let ends = store.now() + self.limits.settling;
        for number in 0..self.limits.together {
            if number > 0 && store.now() >= ends {
                break;
            }
            let Some(Landed { job, outcome, times }) = self.landed.pop_front() else { break };
            let Some(table) = self.tables.iter().find(|table| table.oid == job.row.relation) else {
                continue;
            };
            let jitter = self.jitter.draw();
            let settled = match *free.entry(table.oid).or_insert_with(|| store.may_write(table)) {
                true => store.settle(table, &job, &outcome, jitter),
                false => Settled::Locked,
            };
            match settled {
                // Only a row that somebody holds is put aside: nothing can be noted of a table that
                // is locked as a whole.
                Settled::Locked | Settled::Blocked => {
                    let is_row = free[&table.oid];
                    let pause = if settled == Settled::Blocked {
                        AGAIN * (1 << times.min(DOUBLINGS))
                    } else {
                        AGAIN
                    };
                    let held = Held {
                        job,
                        outcome,
                        again: store.now() + pause,
                        times: if is_row { times + 1 } else { 0 },
                    };
                    // Locks pass quickly, as a rule: at first it is only tried again.
                    if is_row && (times > 0 || self.held.len() >= self.limits.held) {
                        locked.push(held)
                    } else {
                        self.held.push(held)
                    }
                }
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
        for held in locked {
            self.put_aside(held, store);
        }
        let struck = self.board.finish(done.iter().filter_map(|job| job.page));
        store.strike(&struck, &self.tables);
        for job in done {
            self.recheck.extend(
                self.board.release(&job.row).into_iter().map(|page| (job.row.clone(), page)),
            );
        }
        // Somebody queued these rows again while they were in hand.
        for (row, page) in std::mem::take(&mut self.recheck) {
            let Some(table) = self.tables.iter().find(|table| table.oid == row.relation) else {
                continue;
            };
            match (Examiner { board: &mut self.board, tables: &self.tables, store }).page(
                table,
                page,
                std::slice::from_ref(&row.key),
            ) {
                Ok(jobs) => self.take_on(jobs),
                Err(_) => self.recheck.push((row, page)),
            }
        }
    }
}
