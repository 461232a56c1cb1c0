//! Where keys are read, and which source is next: the queue by an id cursor, due deferred rows, and
//! the backfills of existing rows. Cursors only: [`QueueStore`] reads, [`InFlight`] has the result.

use crate::examiner::RowExaminer;
use crate::limits::WorkerLimits;
use crate::store::{QueueStore, ReadError, TableBusy};
use crate::watched::active;
use crate::{InFlight, PageOrigin, RowJob, WatchedTable};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Number of deferred rows that are searched for free ones, as a multiple of those examined.
const DEFERRED_SEARCH: usize = 4;
/// Pause before a locked table is read again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How often the queue is read from its start while commits continue. Where an old snapshot keeps
/// the entries of finished rows, such a read costs as much as all of them (about 7 ms for 100,000),
/// and a commit behind the cursor is rare.
const FULL_READ: Duration = Duration::from_secs(1);

/// A source to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSource {
    /// Rows of the queue.
    Queue,
    /// Due deferred rows.
    Deferred,
    /// A chunk of the backfill of the table with this OID.
    Backfill(u32),
}

/// The cursors of one worker.
#[derive(Debug)]
pub struct QueueSources {
    limits: WorkerLimits,
    queue_after: i64,
    queue_empty: bool,
    /// Rows may have been committed behind the cursor: ids are assigned before transactions end.
    behind: bool,
    /// When the queue was last read from its start.
    full_read: Option<Instant>,
    deferred_empty: bool,
    /// Index of the table whose deferred rows are examined first.
    deferred_first: usize,
    backfills: HashMap<u32, BackfillCursor>,
    /// Index of the table whose backfill is next.
    backfill_next: usize,
    /// A page could not be read because of a lock: read again then.
    retry_at: Option<Instant>,
}

/// Read position of one backfill; acknowledged chunks may be far behind.
#[derive(Debug, Default)]
struct BackfillCursor {
    after: Option<String>,
    started: bool,
    ended: bool,
    retry_at: Option<Instant>,
}

impl QueueSources {
    /// Nothing has been read.
    pub fn new(limits: WorkerLimits) -> Self {
        QueueSources {
            limits,
            queue_after: 0,
            queue_empty: false,
            behind: false,
            full_read: None,
            deferred_empty: false,
            deferred_first: 0,
            backfills: HashMap::new(),
            backfill_next: 0,
            retry_at: None,
        }
    }

    /// A transaction has committed: every source may have more.
    pub fn refresh(&mut self) {
        self.behind = true;
        self.queue_empty = false;
        self.deferred_empty = false;
    }

    /// A watch was redefined, paused or resumed: its backfill continues where the database says.
    pub fn forget(&mut self, relation: u32) {
        self.backfills.remove(&relation);
    }

    /// When to read again: locked tables, and the queue behind the cursor.
    pub fn retries(&self) -> impl Iterator<Item = Instant> {
        let full_read = self.full_read.filter(|_| self.behind).map(|at| at + FULL_READ);
        let backfills = self.backfills.values().filter_map(|backfill| backfill.retry_at);
        backfills.chain(self.retry_at).chain(full_read)
    }

    /// Deferred rows may have become due.
    pub fn check_deferred(&mut self) {
        self.deferred_empty = false;
    }

    /// What to read next; `None`: all sources are empty for now.
    pub fn next(
        &mut self,
        in_flight: &InFlight,
        tables: &[WatchedTable],
        now: Instant,
    ) -> Option<ReadSource> {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.refresh();
        }
        if self.behind && self.full_read.is_none_or(|at| at + FULL_READ <= now) {
            self.queue_after = 0;
            self.queue_empty = false;
            self.behind = false;
            self.full_read = Some(now);
        }
        if !self.queue_empty {
            return Some(ReadSource::Queue);
        }
        if !self.deferred_empty {
            return Some(ReadSource::Deferred);
        }
        let count = tables.len();
        for step in 0..count {
            let at = (self.backfill_next + step) % count;
            let table = &tables[at];
            let backfill = self.backfills.entry(table.oid).or_default();
            if table.paused
                || table.backfill_done
                || backfill.ended
                || backfill.retry_at.is_some_and(|at| at > now)
                || in_flight.backfill_pages(table.oid) >= table.chunks(self.limits.chunks)
            {
                continue;
            }
            self.backfill_next = (at + 1) % count;
            return Some(ReadSource::Backfill(table.oid));
        }
        None
    }

    /// Reads a source and examines the rows. `None`: a table is locked, and another source may be
    /// read meanwhile.
    pub fn read<S: QueueStore>(
        &mut self,
        source: ReadSource,
        in_flight: &mut InFlight,
        tables: &mut [WatchedTable],
        store: &mut S,
        now: Instant,
    ) -> Option<Vec<RowJob>> {
        match source {
            ReadSource::Queue => {
                Some(self.read_queue(RowExaminer { in_flight, tables, store }, now))
            }
            ReadSource::Deferred => {
                Some(self.read_deferred(RowExaminer { in_flight, tables, store }, now))
            }
            ReadSource::Backfill(relation) => {
                self.read_backfill(relation, in_flight, tables, store, now)
            }
        }
    }

    fn read_queue<S: QueueStore>(
        &mut self,
        mut examiner: RowExaminer<'_, S>,
        now: Instant,
    ) -> Vec<RowJob> {
        let tables = active(examiner.tables);
        let rows = examiner.store.queue(self.queue_after, &tables, self.limits.queue_rows);
        self.queue_empty = rows.len() < self.limits.queue_rows;
        let mut jobs = Vec::new();
        for row in rows {
            self.queue_after = row.id;
            if !examiner.in_flight.has_queue_row(row.id) {
                let origin = PageOrigin::Queue(row.id);
                jobs.extend(self.examine(&mut examiner, row.relation, origin, &row.keys, now));
            }
        }
        jobs
    }

    fn read_deferred<S: QueueStore>(
        &mut self,
        mut examiner: RowExaminer<'_, S>,
        now: Instant,
    ) -> Vec<RowJob> {
        self.deferred_empty = true;
        let max = self.limits.deferred_rows * DEFERRED_SEARCH;
        let rows = examiner.store.due(&active(examiner.tables), max);
        let mut jobs = Vec::new();
        let (count, first) = (examiner.tables.len(), self.deferred_first);
        for at in (first..first + count).map(|at| at % count) {
            if jobs.len() >= max {
                (self.deferred_first, self.deferred_empty) = (at, false);
                break;
            }
            let oid = examiner.tables[at].oid;
            let free =
                rows.iter().filter(|row| row.relation == oid && !examiner.in_flight.has_row(row));
            let most = examiner.tables[at].bounded(self.limits.deferred_rows);
            let keys: Vec<String> = free.map(|row| row.key.clone()).take(most).collect();
            if !keys.is_empty() {
                jobs.extend(self.examine(&mut examiner, oid, PageOrigin::Deferred, &keys, now));
            }
        }
        jobs
    }

    /// Examines a page. If its table is locked, the page is withdrawn and read again soon.
    fn examine<S: QueueStore>(
        &mut self,
        examiner: &mut RowExaminer<'_, S>,
        relation: u32,
        origin: PageOrigin,
        keys: &[String],
        now: Instant,
    ) -> Vec<RowJob> {
        let Some(table) = examiner.tables.iter().find(|table| table.oid == relation) else {
            return Vec::new();
        };
        let page = examiner.in_flight.add(relation, origin, keys.len());
        examiner.page(table, page, keys).unwrap_or_else(|TableBusy| {
            examiner.in_flight.withdraw(page);
            self.retry_at = Some(now + BUSY_PAUSE);
            Vec::new()
        })
    }

    fn read_backfill<S: QueueStore>(
        &mut self,
        relation: u32,
        in_flight: &mut InFlight,
        tables: &mut [WatchedTable],
        store: &mut S,
        now: Instant,
    ) -> Option<Vec<RowJob>> {
        let at = tables.iter().position(|table| table.oid == relation)?;
        let backfill = self.backfills.entry(relation).or_default();
        if !backfill.started {
            backfill.started = true;
            backfill.after = tables[at].backfill_after.clone();
        }
        backfill.retry_at = None;
        let after = backfill.after.as_deref();
        let most = tables[at].bounded(self.limits.chunk_rows);
        let chunk = match store.chunk(&tables[at], after, most) {
            Ok(chunk) => chunk,
            Err(ReadError::Busy) => {
                backfill.retry_at = Some(now + BUSY_PAUSE);
                return None;
            }
            Err(ReadError::Stopped) => {
                tables[at].paused = true;
                return Some(Vec::new());
            }
        };
        let keys: Vec<String> = chunk.rows.iter().map(|(key, _)| key.clone()).collect();
        let last = keys.last().cloned();
        backfill.ended = chunk.ended;
        backfill.after = last.clone().or(backfill.after.take());
        let last = last.filter(|_| !chunk.ended);
        let origin = PageOrigin::Backfill { last, rows: keys.len() as i64 };
        let page = in_flight.add(relation, origin, keys.len());
        let mut examiner = RowExaminer { in_flight, tables, store };
        Some(examiner.examine(&tables[at], page, &keys, chunk.rows))
    }
}
