//! Where keys come from: the queue by an id cursor, deferred rows that are due, and the walk over what exists.

use super::examine::{self, Current, Job, needs};
use super::tables::Watched;
use super::transaction::{Raised, attempt, run, spi};
use super::write;
use pg_caption_drain::{Board, Origin, PageId, Row, Struck};
use pgrx::prelude::*;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Queue rows read at once; each holds up to a few hundred keys.
const QUEUE_ROWS: i64 = 5;
/// Deferred rows read at once.
const DEFERRED_ROWS: i64 = 200;
/// Table rows in one chunk of the walk.
const CHUNK: i64 = 500;
/// Chunks of one table's walk in hand at once.
const CHUNKS: usize = 4;

/// The cursors of one worker.
#[derive(Default)]
pub struct Sources {
    queue_after: i64,
    queue_dry: bool,
    deferred_dry: bool,
    /// Next chunk of each walk starts after this key.
    walk_after: std::collections::HashMap<u32, Option<String>>,
    walk_read: std::collections::HashSet<u32>,
    turn: usize,
}

impl Sources {
    /// Something was committed: every source may have more.
    pub fn refresh(&mut self, tables: &[Watched]) {
        self.queue_after = 0;
        self.queue_dry = false;
        self.deferred_dry = false;
        // A walk that was started anew (caption.watch() was called again) has no position in the database while ours has one.
        for table in tables {
            if table.walk_after.is_none() && !table.walk_done {
                self.walk_after.remove(&table.oid);
                self.walk_read.remove(&table.oid);
            }
        }
    }

    /// Deferred rows may have become due.
    pub fn look_at_deferred(&mut self) {
        self.deferred_dry = false;
    }

    /// Reads some more keys and examines their rows. Empty and `false` where no source has anything.
    pub fn refill(&mut self, board: &mut Board, tables: &mut [Watched]) -> (Vec<Job>, bool) {
        if !self.queue_dry {
            return (self.read_queue(board, tables), true);
        }
        if !self.deferred_dry {
            return (self.read_deferred(board, tables), true);
        }
        match self.read_walk(board, tables) {
            Some(jobs) => (jobs, true),
            None => (Vec::new(), false),
        }
    }

    fn read_queue(&mut self, board: &mut Board, tables: &[Watched]) -> Vec<Job> {
        let active: Vec<pg_sys::Oid> = tables.iter().filter(|table| !table.paused).map(|table| pg_sys::Oid::from(table.oid)).collect();
        run(|| {
            let rows: Vec<(i64, u32, Vec<String>)> = spi(Spi::connect(|client| {
                let rows = client.select(
                    "SELECT q.id, q.relation, ARRAY(SELECT k.v::text FROM jsonb_array_elements(q.keys) AS k (v)) FROM caption.queue q \
                      WHERE q.id > $1 AND q.relation = ANY ($2) ORDER BY q.id LIMIT $3",
                    None,
                    &[self.queue_after.into(), active.into(), QUEUE_ROWS.into()],
                )?;
                rows.map(|row| {
                    Ok::<_, pgrx::spi::Error>((
                        row.get(1)?.unwrap_or(0),
                        row.get::<pg_sys::Oid>(2)?.map_or(0, |oid| oid.to_u32()),
                        row.get::<Vec<String>>(3)?.unwrap_or_default(),
                    ))
                })
                .collect()
            }));
            self.queue_dry = (rows.len() as i64) < QUEUE_ROWS;
            let mut jobs = Vec::new();
            for (id, relation, keys) in rows {
                self.queue_after = id;
                let Some(table) = tables.iter().find(|table| table.oid == relation) else { continue };
                if board.holds_queue_row(id) {
                    continue;
                }
                let page = board.add(relation, Origin::Queue(id), keys.len());
                jobs.extend(examine_page(board, table, page, &keys));
            }
            jobs
        })
    }

    fn read_deferred(&mut self, board: &mut Board, tables: &[Watched]) -> Vec<Job> {
        self.deferred_dry = true;
        let active: Vec<pg_sys::Oid> = tables.iter().filter(|table| !table.paused).map(|table| pg_sys::Oid::from(table.oid)).collect();
        run(|| {
            let rows: Vec<(u32, String)> = spi(Spi::connect(|client| {
                let rows = client.select(
                    "SELECT relation, key::text FROM caption.deferred WHERE due <= clock_timestamp() AND relation = ANY ($1) ORDER BY due LIMIT $2",
                    None,
                    &[active.into(), (DEFERRED_ROWS * 4).into()],
                )?;
                rows.map(|row| Ok::<_, pgrx::spi::Error>((row.get::<pg_sys::Oid>(1)?.map_or(0, |oid| oid.to_u32()), row.get(2)?.unwrap_or_default())))
                    .collect()
            }));
            let mut jobs = Vec::new();
            for table in tables {
                let keys: Vec<String> = rows
                    .iter()
                    .filter(|(relation, key)| *relation == table.oid && !board.is_busy(&Row { relation: *relation, key: key.clone() }))
                    .map(|(_, key)| key.clone())
                    .take(DEFERRED_ROWS as usize)
                    .collect();
                if keys.is_empty() {
                    continue;
                }
                let page = board.add(table.oid, Origin::Deferred, keys.len());
                jobs.extend(examine_page(board, table, page, &keys));
            }
            jobs
        })
    }

    fn read_walk(&mut self, board: &mut Board, tables: &mut [Watched]) -> Option<Vec<Job>> {
        let count = tables.len();
        for step in 0..count {
            let table = &mut tables[(self.turn + step) % count];
            if table.paused || table.walk_done || self.walk_read.contains(&table.oid) || board.walk_pages(table.oid) >= CHUNKS {
                continue;
            }
            self.turn = (self.turn + step + 1) % count;
            let after = self.walk_after.get(&table.oid).cloned().unwrap_or_else(|| table.walk_after.clone());
            let read = run(|| {
                attempt(|| examine::chunk(table, after.as_deref(), CHUNK)).map(|rows| {
                    let keys: Vec<String> = rows.iter().map(|(key, _)| key.clone()).collect();
                    let ended = (keys.len() as i64) < CHUNK;
                    let last = keys.last().cloned();
                    let origin = Origin::Walk { last: if ended { None } else { last.clone() }, rows: keys.len() as i64 };
                    let page = board.add(table.oid, origin, keys.len());
                    (sift(board, table, page, &keys, rows), last, ended)
                })
            });
            return Some(match read {
                Ok((jobs, last, ended)) => {
                    if ended {
                        self.walk_read.insert(table.oid);
                    } else {
                        self.walk_after.insert(table.oid, last);
                    }
                    jobs
                }
                Err(raised) => {
                    stop_table(table, &raised);
                    Vec::new()
                }
            });
        }
        None
    }
}

/// A table whose rows cannot even be read (row-level security forced on its owner, a privilege taken away) waits for somebody to mend it.
fn stop_table(table: &mut Watched, raised: &Raised) {
    table.paused = true;
    let problem = format!("its rows cannot be read: {}", raised.message);
    pgrx::log!("pg_caption: table {} is not being filled: {problem}", table.name);
    run(|| {
        spi(Spi::run_with_args("UPDATE caption.tally SET problem = $2 WHERE relation = $1", &[pg_sys::Oid::from(table.oid).into(), problem.into()]))
    });
}

/// Examines the rows of a page's keys; what needs nothing is counted off at once, in the running transaction.
pub fn examine_page(board: &mut Board, table: &Watched, page: PageId, keys: &[String]) -> Vec<Job> {
    match attempt(|| examine::rows(table, keys)) {
        Ok(rows) => sift(board, table, page, keys, rows),
        Err(raised) => {
            // The keys no longer fit the table (its key's type was changed), or its owner's code refuses to be read: a stated failure of each row.
            for key in keys {
                write::record(&Row { relation: table.oid, key: key.clone() }, "reject", "unreadable", &raised.message, raised.detail.as_deref(), 1);
            }
            let struck = count_off(board, page, keys.len());
            write::strike(&struck);
            Vec::new()
        }
    }
}

fn count_off(board: &mut Board, page: PageId, jobs: usize) -> Struck {
    if jobs == 0 { board.finish_empty(page) } else { board.finish(std::iter::repeat_n(page, jobs)) }
}

fn sift(board: &mut Board, table: &Watched, page: PageId, keys: &[String], rows: Vec<(String, Current)>) -> Vec<Job> {
    let history = examine::history(table.oid, keys);
    let (mut jobs, mut parked) = (Vec::new(), 0);
    for (key, current) in rows {
        let past = history.get(&key).cloned().unwrap_or_default();
        let cells = needs(table, &current, &past.ours, past.captioned.as_deref());
        let row = Row { relation: table.oid, key };
        let Some(url) = current.url.filter(|_| !cells.is_empty()) else { continue };
        if board.claim(&row, page) {
            jobs.push(Job { row, page, url, cells, ours: past.ours, captioned: past.captioned, attempts: past.attempts, deaths: 0 });
        } else {
            parked += 1;
        }
    }
    // Deferred rows that need nothing any more, and rows that are gone.
    let wanted: std::collections::HashSet<&str> = jobs.iter().map(|job| job.row.key.as_str()).collect();
    for key in history.keys().filter(|key| !wanted.contains(key.as_str())) {
        let row = Row { relation: table.oid, key: key.clone() };
        if !board.is_busy(&row) {
            write::undefer(&row);
        }
    }
    let struck = count_off(board, page, keys.len() - jobs.len() - parked);
    write::strike(&struck);
    jobs
}

/// When the next deferred row of an active table is due, in milliseconds of the Unix epoch.
pub fn next_due_ms(tables: &[Watched]) -> Option<i64> {
    let active: Vec<pg_sys::Oid> = tables.iter().filter(|table| !table.paused).map(|table| pg_sys::Oid::from(table.oid)).collect();
    run(|| {
        spi(Spi::get_one_with_args::<i64>(
            "SELECT (extract(epoch FROM min(due)) * 1000)::int8 FROM caption.deferred WHERE relation = ANY ($1)",
            &[active.into()],
        ))
    })
}

/// How long until then.
pub fn until_ms(due: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(due.max(0) as u64).saturating_sub(now)
}
