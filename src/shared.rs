//! Shared memory: the state that backends, workers and the launcher exchange. Small, of fixed size,
//! behind one lock that is held for microseconds.
//!
//! Called from every process. Nothing here waits or raises while the lock is held.

use crate::pg::report::refuse;
use crate::pg::shared_text::SharedText;
use pg_caption_queue::RowsAhead;
use pg_caption_supervisor::{database_status, schedule};
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init, pg_sys};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Databases with the extension that are tracked. A further one is served after another was dropped
/// or the server was restarted.
pub const MAX_DATABASES: usize = 256;
/// Watches of one database whose in-flight counts are shown.
pub const MAX_IN_FLIGHT: usize = 16;
/// Rows remembered as runaway. A worker detects an older one again.
const MAX_RUNAWAY: usize = 64;
/// Roles remembered as demoted. Only superusers demote a role.
const MAX_DEMOTED: usize = 32;

/// One database that has, or may have, work.
#[derive(Debug, Clone, Copy, Default)]
pub struct DatabaseSlot {
    /// `InvalidOid`: the slot is free.
    pub oid: u32,
    /// Raised by every commit that enqueued rows.
    pub generation: u64,
    /// The generation that the last worker had seen when it left without work.
    pub drained: u64,
    /// Process id of the worker that serves the database; 0: none.
    pub worker: i32,
    /// Address of the worker's latch; 0: none.
    worker_latch: usize,
    /// A prepared transaction enqueued rows. Its commit is not announced, so workers must poll.
    pub slow_poll: bool,
    /// When deferred rows are due, in milliseconds of the Unix epoch; 0: no deferred rows.
    due_ms: i64,
    /// Workers that failed in a row.
    failures: u32,
    /// When the next worker is tried, in milliseconds of the Unix epoch.
    retry_ms: i64,
    /// A worker ended over a runaway row since the database was drained.
    has_runaway: bool,
    /// When the use of model servers was written last, in milliseconds of the Unix epoch.
    usage_ms: i64,
    /// Rows in flight: OID of the watched table and count.
    pub in_flight: [(u32, u32); MAX_IN_FLIGHT],
    /// Rows beyond the recorded progress: OID of the watched table, rows read, rows completed.
    pub ahead: [(u32, u32, u32); MAX_IN_FLIGHT],
}

impl DatabaseSlot {
    /// The facts that `caption.database` shows, except those of the catalog.
    pub fn facts(&self) -> database_status::DatabaseFacts {
        let time_until = |ms: i64| unix_time(ms).duration_since(SystemTime::now()).ok();
        let due_in = (self.due_ms != 0).then(|| time_until(self.due_ms).unwrap_or_default());
        database_status::DatabaseFacts {
            served: self.worker != 0,
            has_work: self.generation != self.drained || due_in == Some(Duration::ZERO),
            due_in,
            connectable: true,
            failures: self.failures,
            retry_in: time_until(self.retry_ms),
        }
    }

    /// When deferred rows are due, relative to `now`. Overdue rows are due at `now` itself.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        (self.due_ms != 0).then(|| schedule::due_at(unix_time(self.due_ms), SystemTime::now(), now))
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

fn unix_time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.max(0) as u64)
}

/// A row over which a worker ended.
#[derive(Debug, Clone, Copy, Default)]
struct RunawayRow {
    database: u32,
    /// Number of the row.
    row: u64,
    /// The process was killed, rather than ended by the time limit.
    killed: bool,
}

impl RunawayRow {
    fn is(&self, database: u32, row: u64) -> bool {
        (self.database, self.row) == (database, row)
    }
}

/// A role that ceased to be a superuser.
#[derive(Debug, Clone, Copy, Default)]
struct DemotedRole {
    role: u32,
    /// When, in milliseconds of the Unix epoch.
    at_ms: i64,
}

/// Everything in the segment.
#[derive(Debug, Clone, Copy)]
struct SharedState {
    /// Address of the launcher's latch; 0: none.
    launcher_latch: usize,
    /// Process id of the launcher; 0: none.
    launcher: i32,
    /// Process id of the engine that serves; 0: none.
    engine: i32,
    /// Raised whenever an engine became ready or failed.
    engine_epoch: u64,
    /// A database waits for a worker slot: idle workers leave immediately.
    crowded: bool,
    /// The server had no free background worker slot.
    no_slot: bool,
    /// Whether a client has each [`EngineDoubt`].
    doubts: [bool; 2],
    /// Why no engine serves.
    engine_failure: SharedText<480>,
    /// Why the engine that serves answers no request: its model's server refuses them all.
    model_trouble: SharedText<480>,
    /// Rows over which a worker ended, the newest first.
    runaway: [RunawayRow; MAX_RUNAWAY],
    /// Roles that ceased to be superusers, the newest first.
    demoted: [DemotedRole; MAX_DEMOTED],
    databases: [DatabaseSlot; MAX_DATABASES],
}

// SAFETY: plain data. Latches are stored as addresses in PostgreSQL's shared memory, which are the
// same in every process.
unsafe impl PGRXSharedMemory for SharedState {}

impl Default for SharedState {
    fn default() -> Self {
        SharedState {
            launcher_latch: 0,
            launcher: 0,
            engine: 0,
            engine_epoch: 0,
            crowded: false,
            no_slot: false,
            doubts: [false; 2],
            engine_failure: SharedText::default(),
            model_trouble: SharedText::default(),
            runaway: [RunawayRow::default(); MAX_RUNAWAY],
            demoted: [DemotedRole::default(); MAX_DEMOTED],
            databases: [DatabaseSlot::default(); MAX_DATABASES],
        }
    }
}

// SAFETY: the only lock of that name.
static STATE: PgLwLock<SharedState> = unsafe { PgLwLock::new(c"pg_caption") };
static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Whether the postmaster is loading `shared_preload_libraries`.
pub fn preloading() -> bool {
    // SAFETY: a plain global of the main thread.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Requests the memory; in the postmaster, while preloading.
pub fn init() {
    PRELOADED.store(true, Ordering::Relaxed);
    pg_shmem_init!(STATE);
}

/// Whether the library was preloaded, so that launcher and shared memory exist.
pub fn preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

/// Raises the error of every entry point if the library was not preloaded.
pub fn require_ready() {
    if !preloaded() {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pg_caption is not running in this server",
            Some("The library is not in shared_preload_libraries.".into()),
            Some(
                "Set shared_preload_libraries = 'pg_caption' in postgresql.conf \
                 and restart the server."
                    .into(),
            ),
        );
    }
}

fn set_latch(address: usize) {
    if address != 0 {
        // SAFETY: the address of a latch in PostgreSQL's shared memory (of a PGPROC), which lives
        // as long as the server. If another process owns it now, that process wakes once too often.
        unsafe { pg_sys::SetLatch(address as *mut pg_sys::Latch) };
    }
}

fn my_latch() -> usize {
    // SAFETY: reads a global pointer of the main thread.
    unsafe { pg_sys::MyLatch as usize }
}

impl SharedState {
    /// The slot of a database, or a free one that it takes; `None`: no slot is free.
    fn slot(&mut self, oid: u32) -> Option<&mut DatabaseSlot> {
        let at = self
            .databases
            .iter()
            .position(|d| d.oid == oid)
            .or_else(|| self.databases.iter().position(|d| d.oid == 0))?;
        let slot = &mut self.databases[at];
        slot.oid = oid;
        Some(slot)
    }
}

/// A consistent copy of all registered databases.
pub fn databases() -> Vec<DatabaseSlot> {
    STATE.share().databases.iter().filter(|d| d.oid != 0).copied().collect()
}

/// The slot of one database.
pub fn database(oid: u32) -> Option<DatabaseSlot> {
    STATE.share().databases.iter().find(|d| d.oid == oid).copied()
}

/// Registers a database that the launcher found. A worker checks whether it has work. `false`: no
/// slot is free.
pub fn register_database(oid: u32) -> bool {
    let mut state = STATE.exclusive();
    match state.slot(oid) {
        Some(slot) => {
            if slot.generation == slot.drained {
                slot.generation += 1;
            }
            true
        }
        None => false,
    }
}

/// Forgets a database that was dropped or lacks the extension. Keeps it if work was announced since
/// generation `seen`: then it has the extension.
pub fn forget_database(oid: u32, seen: u64) {
    if let Some(slot) =
        STATE.exclusive().databases.iter_mut().find(|d| d.oid == oid && d.generation == seen)
    {
        *slot = DatabaseSlot::default();
    }
}

/// Announces committed work: raises the database's generation and wakes its worker, or else the
/// launcher, which starts one.
pub fn announce_work(oid: u32, slow_poll: bool) {
    let latch = {
        let mut state = STATE.exclusive();
        let launcher = state.launcher_latch;
        match state.slot(oid) {
            Some(slot) => {
                slot.generation += 1;
                slot.slow_poll |= slow_poll;
                if slot.worker != 0 && !slow_poll { slot.worker_latch } else { launcher }
            }
            None => launcher,
        }
    };
    set_latch(latch);
}

/// Registers the calling worker as the one of a database; `pid` 0: it leaves.
pub fn set_worker(oid: u32, pid: i32) {
    let launcher = {
        let mut state = STATE.exclusive();
        let launcher = state.launcher_latch;
        if let Some(slot) = state.slot(oid) {
            slot.worker = pid;
            slot.worker_latch = if pid == 0 { 0 } else { my_latch() };
            slot.in_flight = Default::default();
            slot.ahead = Default::default();
        }
        launcher
    };
    set_latch(launcher);
}

/// Lets a worker leave that has no work before `due_ms` (Unix epoch; 0: never) and has seen
/// generation `seen`. `slow_poll`: prepared transactions are pending, whose commit is not
/// announced. `false`: rows were enqueued or prepared meanwhile, so the worker must stay.
pub fn leave_if_drained(oid: u32, seen: u64, due_ms: i64, slow_poll: bool) -> bool {
    let mut state = STATE.exclusive();
    match state.slot(oid) {
        Some(slot) if slot.generation != seen => false,
        Some(slot) => {
            slot.drained = seen;
            slot.due_ms = due_ms;
            slot.slow_poll = slow_poll;
            slot.has_runaway = false;
            true
        }
        None => true,
    }
}

/// Lets a worker leave before its work is done, so that another database gets a worker.
pub fn yield_turn(oid: u32) {
    if let Some(slot) = STATE.exclusive().slot(oid) {
        slot.drained = slot.generation;
        slot.generation += 1;
    }
}

/// Remembers a row over which a worker ended. `killed`: the process was killed.
pub fn note_runaway(oid: u32, row: u64, killed: bool) {
    let mut state = STATE.exclusive();
    state.runaway.rotate_right(1);
    state.runaway[0] = RunawayRow { database: oid, row, killed };
    if let Some(slot) = state.slot(oid) {
        slot.has_runaway = true;
    }
}

/// Whether a worker ended over this row, and was killed; `None`: neither. Also whether one ended
/// over any row of the database since it was drained.
pub fn is_runaway(oid: u32, row: u64) -> (Option<bool>, bool) {
    let state = STATE.share();
    let in_database = state.databases.iter().any(|d| d.oid == oid && d.has_runaway);
    let known = state.runaway.iter().find(|entry| entry.is(oid, row));
    (known.map(|entry| entry.killed), in_database)
}

/// Forgets a row that was completed.
pub fn forget_runaway(oid: u32, row: u64) {
    let mut state = STATE.exclusive();
    let same = state.runaway.iter_mut().filter(|entry| entry.is(oid, row));
    same.for_each(|entry| *entry = RunawayRow::default());
}

/// Remembers that a role ceased to be a superuser, and has workers read their watches.
pub fn note_demoted(role: u32) {
    let databases: Vec<u32> = {
        let mut state = STATE.exclusive();
        state.demoted.rotate_right(1);
        state.demoted[0] = DemotedRole { role, at_ms: now_ms() };
        state.databases.iter().map(|d| d.oid).filter(|oid| *oid != 0).collect()
    };
    databases.into_iter().for_each(|oid| announce_work(oid, false));
}

/// Whether a role ceased to be a superuser at or after a time, in milliseconds of the Unix epoch.
/// True also if that is no longer known.
pub fn was_demoted_since(role: u32, since_ms: i64) -> bool {
    let state = STATE.share();
    let forgotten = state.demoted[MAX_DEMOTED - 1];
    state.demoted.iter().any(|entry| entry.role == role && entry.at_ms >= since_ms)
        || (forgotten.role != 0 && forgotten.at_ms >= since_ms)
}

/// Publishes counts of a database by the OID of the watched table: rows in flight, and rows beyond
/// the recorded progress.
pub fn set_in_flight(oid: u32, counts: &[(u32, u32)], ahead: &HashMap<u32, RowsAhead>) {
    if let Some(slot) = STATE.exclusive().slot(oid) {
        slot.in_flight = Default::default();
        for (to, from) in slot.in_flight.iter_mut().zip(counts) {
            *to = *from;
        }
        slot.ahead = Default::default();
        for (to, (table, ahead)) in slot.ahead.iter_mut().zip(ahead) {
            *to = (*table, ahead.read as u32, ahead.completed as u32);
        }
    }
}

/// Whether a database waits for a worker slot.
pub fn crowded() -> bool {
    STATE.share().crowded
}

/// Publishes whether a database waits for a worker slot.
pub fn set_crowded(crowded: bool) {
    STATE.exclusive().crowded = crowded;
}

/// Publishes whether the server lacked a background worker slot when one was last needed.
pub fn set_no_slot(no_slot: bool) {
    STATE.exclusive().no_slot = no_slot;
}

/// Whether the server lacked a background worker slot when one was last needed.
pub fn no_slot() -> bool {
    STATE.share().no_slot
}

/// Publishes how many workers of a database failed in a row, and the pause before the next one.
pub fn set_failures(oid: u32, failures: u32, pause: Duration) {
    if let Some(slot) = STATE.exclusive().databases.iter_mut().find(|d| d.oid == oid) {
        slot.failures = failures;
        slot.retry_ms = now_ms().saturating_add(pause.as_millis() as i64);
    }
}

/// Registers the calling launcher; `pid` 0: it leaves.
pub fn set_launcher(pid: i32) {
    let mut state = STATE.exclusive();
    state.launcher = pid;
    state.launcher_latch = if pid == 0 { 0 } else { my_latch() };
    if pid != 0 {
        // Workers of an earlier launcher clear their own slots: the postmaster manages them.
        state.engine = 0;
    }
}

/// Process ids of launcher and engine; 0: not running.
pub fn processes() -> (i32, i32) {
    let state = STATE.share();
    (state.launcher, state.engine)
}

/// Publishes that an engine started, became ready or failed (`failure`: why). Wakes every worker,
/// which may wait for that.
pub fn set_engine(pid: i32, failure: Option<&str>) {
    let latches: Vec<usize> = {
        let mut state = STATE.exclusive();
        state.engine = pid;
        state.engine_epoch += 1;
        state.engine_failure = SharedText::new(failure);
        state.model_trouble = SharedText::default();
        state.databases.iter().map(|d| d.worker_latch).collect()
    };
    latches.into_iter().for_each(set_latch);
}

/// What a client cannot explain about the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineDoubt {
    /// The engine owes an answer and is silent.
    Silent,
    /// There is no socket to connect to.
    Socket,
}

/// Has the launcher check the engine or its socket. Wakes it only if no client did since its last
/// check.
pub fn doubt(doubt: EngineDoubt) {
    let launcher = {
        let mut state = STATE.exclusive();
        let is_known = std::mem::replace(&mut state.doubts[doubt as usize], true);
        if is_known { 0 } else { state.launcher_latch }
    };
    set_latch(launcher);
}

/// Whether a client has this doubt.
pub fn is_doubted(doubt: EngineDoubt) -> bool {
    STATE.share().doubts[doubt as usize]
}

/// The launcher checks now.
pub fn settle_doubt(doubt: EngineDoubt) {
    STATE.exclusive().doubts[doubt as usize] = false;
}

/// Counts engine starts, readiness and failures. A worker without a usable engine waits for a
/// change.
pub fn engine_epoch() -> u64 {
    STATE.share().engine_epoch
}

/// Publishes why the engine that serves answers no request; `None`: it has answered one.
pub fn set_model_trouble(reason: Option<&str>) {
    STATE.exclusive().model_trouble = SharedText::new(reason);
}

/// Why the engine that serves answers no request, as the last worker was informed.
pub fn model_trouble() -> Option<String> {
    STATE.share().model_trouble.get()
}

/// Whether the use of model servers was written into this database at least `interval` ago.
pub fn is_usage_due(oid: u32, interval: Duration) -> bool {
    let state = STATE.share();
    let last = state.databases.iter().find(|d| d.oid == oid).map_or(0, |slot| slot.usage_ms);
    now_ms().abs_diff(last) >= interval.as_millis() as u64
}

/// The use of model servers is being written into this database.
pub fn note_usage_written(oid: u32) {
    if let Some(slot) = STATE.exclusive().databases.iter_mut().find(|d| d.oid == oid) {
        slot.usage_ms = now_ms();
    }
}

/// Why no engine is usable, as far as the launcher knows.
pub fn engine_failure() -> Option<String> {
    STATE.share().engine_failure.get()
}
