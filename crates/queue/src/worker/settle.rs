//! Settles completed rows, many in one transaction. A locked row is tried again later. A row that
//! was queued again meanwhile is examined again.

use super::QueueWorker;
use crate::examiner::RowExaminer;
use crate::{QueueStore, RetryPolicy, RowJob, RowOutcome, RowResult, RowState, Settlement};
use pg_caption_backoff::Backoff;
use pg_caption_wire::{CaptionOutcome, Failure, FailureClass};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Pauses before a locked row is tried again. They grow only where the row's triggers met the
/// lock: each try may wait for it.
const LOCKED: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(64));
/// When a row that stays locked is due again, in case this worker loses its caption.
const POSTPONE: Duration = Duration::from_secs(60);

/// An answer to be settled.
#[derive(Debug)]
pub struct CompletedRow {
    pub job: RowJob,
    pub outcome: CaptionOutcome,
    /// How often in a row its row was locked.
    pub locks: u32,
}

/// An answer whose row another transaction has locked.
#[derive(Debug)]
pub struct LockedRow {
    pub completed: CompletedRow,
    pub retry_at: Instant,
}

impl QueueWorker {
    /// Tries locked rows again whose pause is over.
    pub(super) fn retry_locked(&mut self, now: Instant) {
        let due = self.locked.extract_if(.., |locked| locked.retry_at <= now);
        self.completed.extend(due.map(|locked| locked.completed));
    }

    /// A row that stays locked must not stop its page or its backfill: the row is deferred, and its
    /// caption kept while there is room.
    fn postpone(&mut self, mut locked: LockedRow, store: &mut impl QueueStore) {
        let job = &mut locked.completed.job;
        if let Some(page) = job.page.take() {
            let failure = Failure::new(
                FailureClass::Retry,
                "row_locked",
                "an open transaction locks the row, or rows that its triggers need",
            )
            .hint("No action is needed. The row is written when the lock is released.");
            let attempts = job.attempts;
            store.record(job, &RowOutcome::Deferred { failure, attempts, pause: POSTPONE });
            let (acked, waiting) = self.in_flight.postpone(&job.row, page);
            store.acknowledge(&acked, &self.tables);
            self.recheck.extend(waiting.into_iter().map(|page| (job.row.clone(), page)));
        }
        if self.locked.len() < self.limits.locked_rows {
            self.locked.push(locked);
        } else {
            self.in_flight.release(&job.row);
        }
    }

    /// Accepts jobs. A caption that was kept for the same row is dropped: the row was examined
    /// again.
    pub(super) fn accept(&mut self, jobs: Vec<RowJob>) {
        let is_replaced =
            |old: &RowJob| old.page.is_none() && jobs.iter().any(|job| job.row == old.row);
        self.locked.retain(|locked| !is_replaced(&locked.completed.job));
        self.completed.retain(|completed| !is_replaced(&completed.job));
        let mut requests = Vec::new();
        for job in jobs {
            match job.immediate_answer() {
                Some(answer) => self.complete([(job, answer)]),
                None => requests.push(job),
            }
        }
        self.dispatcher.add(requests);
    }

    /// Settles completed rows in a transaction, until its time is over. `max_attempts`: after so
    /// many attempts a row fails.
    pub fn settle(&mut self, store: &mut impl QueueStore, now: Instant, max_attempts: i32) {
        let mut done: Vec<RowJob> = Vec::new();
        let mut postponed: Vec<LockedRow> = Vec::new();
        let mut filled: BTreeMap<u32, i64> = BTreeMap::new();
        let mut writable: HashMap<u32, bool> = HashMap::new();
        let ends = store.now() + self.limits.settle_time;
        for number in 0..self.limits.settle_rows {
            if number > 0 && store.now() >= ends {
                break;
            }
            let Some(CompletedRow { job, outcome, locks }) = self.completed.pop_front() else {
                break;
            };
            let Some(table) = self.tables.iter().find(|table| table.oid == job.row.relation) else {
                continue;
            };
            let retry = RetryPolicy { max_attempts, jitter: self.random.f64() };
            let settlement = Settlement::new(table, &job, &outcome, retry);
            let writable = *writable.entry(table.oid).or_insert_with(|| store.may_write(table));
            let result = if !writable {
                settlement.plan(RowState::Locked).result()
            } else if settlement.needs_row() {
                store.write(&settlement)
            } else {
                settlement.plan(RowState::NotRead).result()
            };
            let (row_outcome, wrote) = match result {
                RowResult::Settled { outcome, wrote } => (outcome, wrote),
                RowResult::Recheck { blocked } => {
                    let pause = LOCKED.pause(if blocked { locks } else { 0 });
                    let retry_at = store.now() + pause;
                    // Nothing can be recorded about a table that is locked as a whole.
                    let completed =
                        CompletedRow { job, outcome, locks: if writable { locks + 1 } else { 0 } };
                    let locked = LockedRow { completed, retry_at };
                    // Most locks are short: a row is only tried again at first.
                    if writable && (locks > 0 || self.locked.len() >= self.limits.locked_rows) {
                        postponed.push(locked);
                    } else {
                        self.locked.push(locked);
                    }
                    continue;
                }
            };
            store.record(&job, &row_outcome);
            *filled.entry(job.row.relation).or_default() += i64::from(wrote);
            done.push(job);
        }
        for (relation, count) in filled {
            let per_minute = self.rates.count(relation, now, count);
            store.count_filled(relation, count, per_minute);
        }
        for locked in postponed {
            self.postpone(locked, store);
        }
        let acked = self.in_flight.finish(done.iter().filter_map(|job| job.page));
        store.acknowledge(&acked, &self.tables);
        for job in done {
            let waiting = self.in_flight.release(&job.row);
            self.recheck.extend(waiting.into_iter().map(|page| (job.row.clone(), page)));
        }
        self.recheck_rows(store);
    }

    /// Examines rows again that were queued while a job had them.
    fn recheck_rows(&mut self, store: &mut impl QueueStore) {
        for (row, page) in std::mem::take(&mut self.recheck) {
            let Some(table) = self.tables.iter().find(|table| table.oid == row.relation) else {
                continue;
            };
            let in_flight = &mut self.in_flight;
            let mut examiner = RowExaminer { in_flight, tables: &self.tables, store };
            match examiner.page(table, page, std::slice::from_ref(&row.key)) {
                Ok(jobs) => self.accept(jobs),
                Err(_) => self.recheck.push((row, page)),
            }
        }
    }
}
