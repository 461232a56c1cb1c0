//! Where keys come from: the queue by an id cursor, deferred rows that are due, and the walk over what exists.

use super::examine::{self, Current, Job, needs};
use super::tables::{self, Watched};
use super::transaction::{Raised, attempt, run, spi};
use super::write;
use pg_caption_drain::{Board, Origin, PageId, Row};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Queue rows read at once; each holds up to a few hundred keys.
const QUEUE_ROWS: i64 = 5;
/// Deferred rows read at once.
const DEFERRED_ROWS: i64 = 200;
/// Table rows in one chunk of the walk.
const CHUNK: i64 = 500;
/// Chunks of one table's walk in hand at once.
const CHUNKS: usize = 4;
/// Pause before a page is read again whose table was locked.
const AGAIN: Duration = Duration::from_secs(1);

/// The cursors of one worker.
#[derive(Default)]
pub struct Sources {
    queue_after: i64,
    queue_dry: bool,
    deferred_dry: bool,
    walks: HashMap<u32, Walk>,
    turn: usize,
    /// Something could not be read because of somebody's lock.
    again: Option<Instant>,
}

/// Where the reading of one walk stands; its writing may be chunks behind.
#[derive(Default)]
struct Walk {
    after: Option<String>,
    started: bool,
    ended: bool,
    hold: Option<Instant>,
}

impl Sources {
    /// Something was committed: every source may have more.
    pub fn refresh(&mut self) {
        self.queue_after = 0;
        self.queue_dry = false;
        self.deferred_dry = false;
    }

    /// A watch was redefined, paused or resumed: its walk is read from where the database says.
    pub fn forget(&mut self, relation: u32) {
        self.walks.remove(&relation);
    }

    /// When something that was locked is to be read again.
    pub fn again(&self) -> Option<Instant> {
        self.walks.values().filter_map(|walk| walk.hold).chain(self.again).min()
    }

    /// Deferred rows may have become due.
    pub fn look_at_deferred(&mut self) {
        self.deferred_dry = false;
    }

    /// Reads some more keys and examines their rows. Empty and `false` where no source has anything.
    pub fn refill(&mut self, board: &mut Board, tables: &mut [Watched]) -> (Vec<Job>, bool) {
        let now = Instant::now();
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            self.refresh();
        }
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
        let active = active(tables);
        run(|| {
            let rows: Vec<(i64, u32, Vec<String>)> = spi(Spi::connect(|client| {
                let rows = client.select(
                    "SELECT q.id, q.relation, ARRAY(SELECT k.v::text FROM jsonb_array_elements(q.keys::jsonb) AS k (v)) FROM caption.queue q \
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
                jobs.extend(self.examine_or_withdraw(board, tables, table, page, &keys));
            }
            jobs
        })
    }

    /// Examines a page just added; if its table is locked, the page stays where it came from and is read again in a moment.
    fn examine_or_withdraw(&mut self, board: &mut Board, tables: &[Watched], table: &Watched, page: PageId, keys: &[String]) -> Vec<Job> {
        examine_page(board, tables, table, page, keys).unwrap_or_else(|Busy| {
            board.withdraw(page);
            self.again = Some(Instant::now() + AGAIN);
            Vec::new()
        })
    }

    fn read_deferred(&mut self, board: &mut Board, tables: &[Watched]) -> Vec<Job> {
        self.deferred_dry = true;
        let active = active(tables);
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
                jobs.extend(self.examine_or_withdraw(board, tables, table, page, &keys));
            }
            jobs
        })
    }

    fn read_walk(&mut self, board: &mut Board, tables: &mut [Watched]) -> Option<Vec<Job>> {
        let (count, now) = (tables.len(), Instant::now());
        for step in 0..count {
            let at = (self.turn + step) % count;
            let table = &tables[at];
            let walk = self.walks.entry(table.oid).or_default();
            if table.paused || table.walk_done || walk.ended || walk.hold.is_some_and(|hold| hold > now) || board.walk_pages(table.oid) >= CHUNKS {
                continue;
            }
            self.turn = (at + 1) % count;
            if !walk.started {
                walk.started = true;
                walk.after = table.walk_after.clone();
            }
            walk.hold = None;
            let read = run(|| {
                let rows = match read_chunk(table, walk.after.as_deref()) {
                    Ok(rows) => rows,
                    Err(trouble) => return Err(trouble),
                };
                let keys: Vec<String> = rows.0.iter().map(|(key, _)| key.clone()).collect();
                let ended = (keys.len() as i64) < rows.1;
                let last = keys.last().cloned();
                let origin = Origin::Walk { last: if ended { None } else { last.clone() }, rows: keys.len() as i64 };
                let page = board.add(table.oid, origin, keys.len());
                Ok((sift(board, tables, table, page, &keys, rows.0), last, ended))
            });
            match read {
                Ok((jobs, last, ended)) => {
                    walk.ended = ended;
                    walk.after = last.or(walk.after.take());
                    return Some(jobs);
                }
                Err(Trouble::Busy) => walk.hold = Some(now + AGAIN),
                Err(Trouble::Raised(raised)) => {
                    stop_table(&mut tables[at], &raised);
                    return Some(Vec::new());
                }
            }
        }
        None
    }
}

/// The tables that are to be drained.
fn active(tables: &[Watched]) -> Vec<pg_sys::Oid> {
    tables.iter().filter(|table| !table.paused).map(|table| pg_sys::Oid::from(table.oid)).collect()
}

/// A table is locked as a whole, or an open transaction has changed its watch.
pub struct Busy;

enum Trouble {
    Busy,
    Raised(Raised),
}

/// Whether an error says that something else stands in the way for now, rather than that these rows cannot be read.
fn is_passing(raised: &Raised) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        raised.code,
        ERRCODE_LOCK_NOT_AVAILABLE
            | ERRCODE_T_R_DEADLOCK_DETECTED
            | ERRCODE_T_R_SERIALIZATION_FAILURE
            | ERRCODE_OUT_OF_MEMORY
            | ERRCODE_DISK_FULL
            | ERRCODE_INSUFFICIENT_RESOURCES
    )
}

/// A chunk's rows and how many were asked for: fewer than usual where some row of a full chunk cannot be read.
type Chunk = (Vec<(String, Current)>, i64);

fn read_chunk(table: &Watched, after: Option<&str>) -> Result<Chunk, Trouble> {
    if !write::table_is_free(table, false) || !write::is_ours(table) {
        return Err(Trouble::Busy);
    }
    let mut limit = CHUNK;
    loop {
        match attempt(|| examine::chunk(table, after, limit)) {
            Ok(rows) => return Ok((rows, limit)),
            Err(raised) if is_passing(&raised) => return Err(Trouble::Busy),
            // Up to the row that raises, the others go on.
            Err(raised) if limit == 1 => return Err(Trouble::Raised(raised)),
            Err(_) => limit = (limit / 4).max(1),
        }
    }
}

/// A table whose rows cannot even be read (row-level security forced on its owner, a privilege taken away) waits for somebody to mend it.
fn stop_table(table: &mut Watched, raised: &Raised) {
    table.paused = true;
    let problem = format!("its rows cannot be read: {}", raised.message);
    if run(|| tables::set_problem(pg_sys::Oid::from(table.oid), Some(problem.clone()))) {
        pgrx::log!("pg_caption: table {} is not being filled: {problem}", table.name);
    }
}

/// Examines the rows of a page's keys; what needs nothing is counted off at once, in the running transaction.
///
/// # Errors
/// [`Busy`]: nothing was examined.
pub fn examine_page(board: &mut Board, tables: &[Watched], table: &Watched, page: PageId, keys: &[String]) -> Result<Vec<Job>, Busy> {
    if !write::is_ours(table) {
        return Err(Busy);
    }
    let mut rows = Vec::new();
    let mut unread: Vec<&[String]> = vec![keys];
    let mut raised_by = Vec::new();
    while let Some(part) = unread.pop() {
        if !write::table_is_free(table, false) {
            return Err(Busy);
        }
        match attempt(|| examine::rows(table, part)) {
            Ok(read) => rows.extend(read),
            Err(raised) if is_passing(&raised) => {
                return Err(Busy);
            }
            // The key no longer fits the table, or its owner's code refuses to be read: a stated failure of that row alone.
            Err(raised) if part.len() == 1 => raised_by.push((part[0].clone(), raised)),
            Err(_) => {
                let (left, right) = part.split_at(part.len() / 2);
                unread.extend([left, right]);
            }
        }
    }
    for (key, raised) in raised_by {
        write::record(&Row { relation: table.oid, key }, "reject", "unreadable", &raised.message, raised.detail.as_deref(), 1);
    }
    Ok(sift(board, tables, table, page, keys, rows))
}

fn sift(board: &mut Board, tables: &[Watched], table: &Watched, page: PageId, keys: &[String], rows: Vec<(String, Current)>) -> Vec<Job> {
    let history = examine::history(table, keys);
    let (mut jobs, mut parked) = (Vec::new(), 0);
    for (key, current) in rows {
        let past = history.get(&key).cloned().unwrap_or_default();
        let cells = needs(table, &current, &past.ours, past.again);
        let row = Row { relation: table.oid, key };
        let Some(url) = current.url.filter(|_| !cells.is_empty()) else { continue };
        if board.claim(&row, page) {
            jobs.push(past.job(row, page, url, cells, &current.texts));
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
    let idle = keys.len().saturating_sub(jobs.len() + parked);
    let struck = if idle == 0 { board.finish_empty(page) } else { board.finish(std::iter::repeat_n(page, idle)) };
    write::strike(&struck, tables);
    jobs
}

/// When the next deferred row of an active table is due, in milliseconds of the Unix epoch.
pub fn next_due_ms(tables: &[Watched]) -> Option<i64> {
    let active = active(tables);
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
