//! Where keys come from, and which of them is read next: the queue by an id cursor, deferred rows
//! that are due, and the walk over what exists. Cursors only: what they read comes through
//! [`Store`], what comes of it is on the [`Board`].

use crate::examiner::Examiner;
use crate::limits::Limits;
use crate::store::{Busy, Store, Unread};
use crate::watched::active;
use crate::{Board, Job, Origin, Watched};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Deferred rows looked through for those that are not in hand, against those that are read.
const DEFERRED_LOOK: usize = 4;
/// Pause before a page is read again whose table was locked.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the queue is read from its start while more and more is committed: where an old
/// snapshot keeps the entries of finished rows, each time costs what all of them cost (some 7 ms
/// for 100,000), and what the cursor has passed is seldom committed later.
const LOOK_BACK: Duration = Duration::from_secs(1);

/// What is to be read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Rows of the queue.
    Queue,
    /// Deferred rows that are due.
    Deferred,
    /// A chunk of a table's walk; the OID.
    Walk(u32),
}

/// The cursors of one worker.
#[derive(Debug)]
pub struct Sources {
    limits: Limits,
    queue_after: i64,
    queue_dry: bool,
    /// Something may have been committed below the cursor: ids are taken before transactions end.
    behind: bool,
    /// When the queue was read from its start.
    looked_back: Option<Instant>,
    deferred_dry: bool,
    /// Whose deferred rows come first the next time.
    deferred_turn: usize,
    walks: HashMap<u32, Walk>,
    turn: usize,
    /// Something could not be read because of somebody's lock.
    again: Option<Instant>,
}

/// Where the reading of one walk stands; its writing may be chunks behind.
#[derive(Debug, Default)]
struct Walk {
    after: Option<String>,
    started: bool,
    ended: bool,
    hold: Option<Instant>,
}

impl Sources {
    /// Nothing has been read.
    pub fn new(limits: Limits) -> Self {
        Sources {
            limits,
            queue_after: 0,
            queue_dry: false,
            behind: false,
            looked_back: None,
            deferred_dry: false,
            deferred_turn: 0,
            walks: HashMap::new(),
            turn: 0,
            again: None,
        }
    }

    /// Something was committed: every source may have more.
    pub fn refresh(&mut self) {
        self.behind = true;
        self.queue_dry = false;
        self.deferred_dry = false;
    }

    /// A watch was redefined, paused or resumed: its walk is read from where the database says.
    pub fn forget(&mut self, relation: u32) {
        self.walks.remove(&relation);
    }

    /// When things are to be read again: those that were locked, and what the cursor has passed.
    pub fn again(&self) -> impl Iterator<Item = Instant> {
        let back = self.looked_back.filter(|_| self.behind).map(|at| at + LOOK_BACK);
        self.walks.values().filter_map(|walk| walk.hold).chain(self.again).chain(back)
    }

    /// Deferred rows may have become due.
    pub fn look_at_deferred(&mut self) {
        self.deferred_dry = false;
    }

    /// What to read next; `None`: no source has anything now.
    pub fn next(&mut self, board: &Board, tables: &[Watched], now: Instant) -> Option<Reading> {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            self.refresh();
        }
        if self.behind && self.looked_back.is_none_or(|at| at + LOOK_BACK <= now) {
            self.queue_after = 0;
            self.queue_dry = false;
            self.behind = false;
            self.looked_back = Some(now);
        }
        if !self.queue_dry {
            return Some(Reading::Queue);
        }
        if !self.deferred_dry {
            return Some(Reading::Deferred);
        }
        let count = tables.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let table = &tables[at];
            let walk = self.walks.entry(table.oid).or_default();
            if table.paused
                || table.backfill_done
                || walk.ended
                || walk.hold.is_some_and(|hold| hold > now)
                || board.walk_pages(table.oid) >= self.limits.chunks
            {
                continue;
            }
            self.turn = (at + 1) % count;
            return Some(Reading::Walk(table.oid));
        }
        None
    }

    /// Reads it and examines the rows. `None`: a table is locked, and something else may be read
    /// meanwhile.
    pub fn read<S: Store>(
        &mut self,
        reading: Reading,
        board: &mut Board,
        tables: &mut [Watched],
        store: &mut S,
        now: Instant,
    ) -> Option<Vec<Job>> {
        match reading {
            Reading::Queue => Some(self.read_queue(Examiner { board, tables, store }, now)),
            Reading::Deferred => Some(self.read_deferred(Examiner { board, tables, store }, now)),
            Reading::Walk(relation) => self.read_walk(relation, board, tables, store, now),
        }
    }

    fn read_queue<S: Store>(&mut self, mut examiner: Examiner<'_, S>, now: Instant) -> Vec<Job> {
        let rows = examiner.store.queue(
            self.queue_after,
            &active(examiner.tables),
            self.limits.queue_rows,
        );
        self.queue_dry = rows.len() < self.limits.queue_rows;
        let mut jobs = Vec::new();
        for row in rows {
            self.queue_after = row.id;
            if !examiner.board.holds_queue_row(row.id) {
                jobs.extend(self.examine_or_withdraw(
                    &mut examiner,
                    row.relation,
                    Origin::Queue(row.id),
                    &row.keys,
                    now,
                ));
            }
        }
        jobs
    }

    fn read_deferred<S: Store>(&mut self, mut examiner: Examiner<'_, S>, now: Instant) -> Vec<Job> {
        self.deferred_dry = true;
        let most = self.limits.deferred_rows * DEFERRED_LOOK;
        let rows = examiner.store.due(&active(examiner.tables), most);
        let mut jobs = Vec::new();
        let (count, first) = (examiner.tables.len(), self.deferred_turn);
        for at in (first..first + count).map(|at| at % count) {
            if jobs.len() >= most {
                (self.deferred_turn, self.deferred_dry) = (at, false);
                break;
            }
            let table = &examiner.tables[at];
            let mine =
                rows.iter().filter(|row| row.relation == table.oid && !examiner.board.is_busy(row));
            let keys: Vec<String> =
                mine.map(|row| row.key.clone()).take(self.limits.deferred_rows).collect();
            if !keys.is_empty() {
                jobs.extend(self.examine_or_withdraw(
                    &mut examiner,
                    table.oid,
                    Origin::Deferred,
                    &keys,
                    now,
                ));
            }
        }
        jobs
    }

    /// Examines a page; if its table is locked, the page stays where it came from and is read again
    /// in a moment.
    fn examine_or_withdraw<S: Store>(
        &mut self,
        examiner: &mut Examiner<'_, S>,
        relation: u32,
        origin: Origin,
        keys: &[String],
        now: Instant,
    ) -> Vec<Job> {
        let Some(table) = examiner.tables.iter().find(|table| table.oid == relation) else {
            return Vec::new();
        };
        let page = examiner.board.add(relation, origin, keys.len());
        examiner.page(table, page, keys).unwrap_or_else(|Busy| {
            examiner.board.withdraw(page);
            self.again = Some(now + AGAIN);
            Vec::new()
        })
    }

    fn read_walk<S: Store>(
        &mut self,
        relation: u32,
        board: &mut Board,
        tables: &mut [Watched],
        store: &mut S,
        now: Instant,
    ) -> Option<Vec<Job>> {
        let at = tables.iter().position(|table| table.oid == relation)?;
        let walk = self.walks.entry(relation).or_default();
        if !walk.started {
            walk.started = true;
            walk.after = tables[at].backfill_after.clone();
        }
        walk.hold = None;
        let chunk = match store.chunk(&tables[at], walk.after.as_deref(), self.limits.chunk) {
            Ok(chunk) => chunk,
            Err(Unread::Busy) => {
                walk.hold = Some(now + AGAIN);
                return None;
            }
            Err(Unread::Stopped) => {
                tables[at].paused = true;
                return Some(Vec::new());
            }
        };
        let keys: Vec<String> = chunk.rows.iter().map(|(key, _)| key.clone()).collect();
        let last = keys.last().cloned();
        walk.ended = chunk.ended;
        walk.after = last.clone().or(walk.after.take());
        let origin =
            Origin::Walk { last: if chunk.ended { None } else { last }, rows: keys.len() as i64 };
        let page = board.add(relation, origin, keys.len());
        Some(Examiner { board, tables, store }.sift(&tables[at], page, &keys, chunk.rows))
    }
}
