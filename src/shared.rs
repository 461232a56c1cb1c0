//! Shared memory: what backends, workers and the launcher tell each other. Small, fixed, behind one
//! lock that is held for microseconds.

use pg_caption_queue::{served, turns};
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init, pg_sys};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Databases with the extension that can be told apart at once. One more is served when another was
/// dropped or the server restarts.
pub const MAX_DATABASES: usize = 256;
/// Watches of one database whose in-flight counts are shown.
pub const MAX_FLIGHTS: usize = 16;
const MAX_MESSAGE: usize = 480;
/// Rows kept over which workers have ended; what is beyond is found out once more.
const MAX_OVERDUE: usize = 64;

/// One database that has, or may have, work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Database {
    /// `InvalidOid`: the slot is free.
    pub oid: u32,
    /// Raised by every commit that enqueued something.
    pub generation: u64,
    /// Generation the last worker had seen when it left with nothing to do.
    pub drained: u64,
    /// Process id of the worker that serves it now; 0: none.
    pub worker: i32,
    /// The worker's latch.
    worker_latch: usize,
    /// A prepared transaction enqueued something: nobody will tell when it commits.
    pub slow_look: bool,
    /// When deferred rows are due, in milliseconds of the Unix epoch; 0: none are.
    due_ms: i64,
    /// Workers that ended badly since the last one that did not, and when the next one is tried
    /// (milliseconds of the Unix epoch).
    failures: u32,
    retry_ms: i64,
    /// A worker had to end over one of its rows since it was drained.
    stubborn: bool,
    /// The log has been told that its SQL objects are of another version.
    noted: bool,
    /// Rows in flight by watched table.
    pub flights: [(u32, u32); MAX_FLIGHTS],
}

impl Database {
    /// What `caption.database` says of it, apart from what only the catalog knows.
    pub fn facts(&self) -> database_status::Database {
        let until = |ms: i64| {
            (UNIX_EPOCH + Duration::from_millis(ms.max(0) as u64))
                .duration_since(SystemTime::now())
                .ok()
        };
        let due_in =
            if self.due_ms == 0 { None } else { Some(until(self.due_ms).unwrap_or_default()) };
        database_status::Database {
            served: self.worker != 0,
            has_work: self.generation != self.drained || due_in == Some(Duration::ZERO),
            due_in,
            connectable: true,
            failures: self.failures,
            retry_in: until(self.retry_ms),
        }
    }

    /// When deferred rows are due, seen from `now`: what is overdue is due at `now` itself, never a
    /// moment later.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.due_ms == 0 {
            return None;
        }
        Some(schedule::due_at(
            UNIX_EPOCH + Duration::from_millis(self.due_ms.max(0) as u64),
            SystemTime::now(),
            now,
        ))
    }
}

/// Everything shared.
#[derive(Debug, Clone, Copy)]
pub struct State {
    launcher_latch: usize,
    /// Process id of the launcher; 0: none.
    pub launcher: i32,
    /// Process id of the engine that serves; 0: none.
    pub engine: i32,
    /// Raised whenever an engine became ready or failed.
    pub engine_epoch: u64,
    /// A database waits for a worker slot: idle workers leave at once.
    pub crowded: bool,
    /// The server had no background worker slot left.
    no_slot: bool,
    failure: Message,
    /// Database and number of rows over which a worker had to end, the newest first.
    overdue: [(u32, u64); MAX_OVERDUE],
    databases: [Database; MAX_DATABASES],
}

#[derive(Debug, Clone, Copy)]
struct Message {
    length: usize,
    bytes: [u8; MAX_MESSAGE],
}

// SAFETY: plain data without pointers that Rust follows (latches are addresses in PostgreSQL's
// shared memory, the same in every process).
unsafe impl PGRXSharedMemory for State {}

impl Default for State {
    fn default() -> Self {
        State {
            launcher_latch: 0,
            launcher: 0,
            engine: 0,
            engine_epoch: 0,
            crowded: false,
            no_slot: false,
            failure: Message { length: 0, bytes: [0; MAX_MESSAGE] },
            overdue: [(0, 0); MAX_OVERDUE],
            databases: [Database::default(); MAX_DATABASES],
        }
    }
}

// SAFETY: the only lock of that name.
static STATE: PgLwLock<State> = unsafe { PgLwLock::new(c"pg_caption") };
static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Whether the postmaster is loading `shared_preload_libraries` right now.
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

/// Raises the error that every entry point raises where the library was not preloaded, or the
/// database's encoding is not UTF-8.
pub fn require_ready() {
    // SAFETY: reads a setting of the database.
    if unsafe { pg_sys::GetDatabaseEncoding() } != pg_sys::pg_enc::PG_UTF8 as i32 {
        crate::pg::report::refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "pg_caption works in databases whose encoding is UTF8",
            None,
            Some("Captions are Unicode text. Create the database with ENCODING 'UTF8'.".into()),
        );
    }
    if !preloaded() {
        crate::pg::report::refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pg_caption is not running in this server",
            Some("The library is not in shared_preload_libraries.".into()),
            Some("Add this line to postgresql.conf and restart the server: shared_preload_libraries = 'pg_caption'".into()),
        );
    }
}

fn set_latch(address: usize) {
    if address != 0 {
        // SAFETY: the address of a latch in PostgreSQL's shared memory (a PGPROC's), which exists
        // as long as the server; at worst it belongs to another process by now, which then wakes
        // once for nothing.
        unsafe { pg_sys::SetLatch(address as *mut pg_sys::Latch) };
    }
}

fn my_latch() -> usize {
    // SAFETY: reading a global pointer of the main thread.
    unsafe { pg_sys::MyLatch as usize }
}

impl State {
    fn slot(&mut self, oid: u32) -> Option<&mut Database> {
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

/// A consistent copy of the databases known.
pub fn databases() -> Vec<Database> {
    STATE.share().databases.iter().filter(|d| d.oid != 0).copied().collect()
}

/// The entry of one database.
pub fn database(oid: u32) -> Option<Database> {
    STATE.share().databases.iter().find(|d| d.oid == oid).copied()
}

/// Makes a database known (the launcher found it) without claiming that it has work. `false`: no
/// room.
pub fn know_database(oid: u32) -> bool {
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

/// Forgets a database: dropped, or without the extension. Not if something was announced there
/// since `seen`: then it has one after all.
pub fn forget_database(oid: u32, seen: u64) {
    if let Some(slot) =
        STATE.exclusive().databases.iter_mut().find(|d| d.oid == oid && d.generation == seen)
    {
        *slot = Database::default();
    }
}

/// Work was committed in a database: raises its generation, wakes its worker, or the launcher that
/// starts one.
pub fn announce_work(oid: u32, slow_look: bool) {
    let latch = {
        let mut state = STATE.exclusive();
        let launcher = state.launcher_latch;
        match state.slot(oid) {
            Some(slot) => {
                slot.generation += 1;
                slot.slow_look |= slow_look;
                if slot.worker != 0 && !slow_look { slot.worker_latch } else { launcher }
            }
            None => launcher,
        }
    };
    set_latch(latch);
}

/// A worker took a database on (or left it, with `pid` 0).
pub fn set_worker(oid: u32, pid: i32) {
    let launcher = {
        let mut state = STATE.exclusive();
        let launcher = state.launcher_latch;
        if let Some(slot) = state.slot(oid) {
            slot.worker = pid;
            slot.worker_latch = if pid == 0 { 0 } else { my_latch() };
            slot.flights = Default::default();
        }
        launcher
    };
    set_latch(launcher);
}

/// A worker leaves with nothing to do before `due_ms` (Unix epoch; 0: never), having seen this
/// generation; `slow_look`: prepared transactions are pending, whose commit nobody will announce.
/// `false`: something was enqueued, or prepared, meanwhile: stay.
pub fn leave_if_drained(oid: u32, seen: u64, due_ms: i64, slow_look: bool) -> bool {
    let mut state = STATE.exclusive();
    match state.slot(oid) {
        Some(slot) if slot.generation != seen => false,
        Some(slot) => {
            slot.drained = seen;
            slot.due_ms = due_ms;
            slot.slow_look = slow_look;
            slot.stubborn = false;
            true
        }
        None => true,
    }
}

/// A worker leaves in the middle of its work, so that other databases get their turn.
pub fn yield_turn(oid: u32) {
    if let Some(slot) = STATE.exclusive().slot(oid) {
        slot.drained = slot.generation;
        slot.generation += 1;
    }
}

/// A worker ends over a row, which has this number.
pub fn note_overdue(oid: u32, row: u64) {
    let mut state = STATE.exclusive();
    state.overdue.rotate_right(1);
    state.overdue[0] = (oid, row);
    if let Some(slot) = state.slot(oid) {
        slot.stubborn = true;
    }
}

/// Whether a worker ended over a row, and whether one did over any row of its database since that
/// was drained.
pub fn is_overdue(oid: u32, row: u64) -> (bool, bool) {
    let state = STATE.share();
    (
        state.overdue.contains(&(oid, row)),
        state.databases.iter().any(|d| d.oid == oid && d.stubborn),
    )
}

/// The row was dealt with.
pub fn forget_overdue(oid: u32, row: u64) {
    STATE
        .exclusive()
        .overdue
        .iter_mut()
        .filter(|there| **there == (oid, row))
        .for_each(|there| *there = (0, 0));
}

/// Whether this is the first time that the log is to be told of a database's old SQL objects.
pub fn first_note(oid: u32) -> bool {
    STATE.exclusive().slot(oid).is_some_and(|slot| !std::mem::replace(&mut slot.noted, true))
}

/// In-flight counts of a database by watched table.
pub fn set_flights(oid: u32, flights: &[(u32, u32)]) {
    if let Some(slot) = STATE.exclusive().slot(oid) {
        slot.flights = Default::default();
        for (to, from) in slot.flights.iter_mut().zip(flights) {
            *to = *from;
        }
    }
}

/// Whether a database waits for a worker slot.
pub fn crowded() -> bool {
    STATE.share().crowded
}

/// Says whether a database waits for a worker slot.
pub fn set_crowded(crowded: bool) {
    STATE.exclusive().crowded = crowded;
}

/// Whether the server had a background worker slot left, the last time one was needed.
pub fn set_no_slot(no_slot: bool) {
    STATE.exclusive().no_slot = no_slot;
}

/// The same, as last said.
pub fn no_slot() -> bool {
    STATE.share().no_slot
}

/// How many workers of a database in a row ended badly, and in how long the next one is tried.
pub fn set_trouble(oid: u32, failures: u32, pause: Duration) {
    if let Some(slot) = STATE.exclusive().databases.iter_mut().find(|d| d.oid == oid) {
        slot.failures = failures;
        slot.retry_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| (now + pause).as_millis() as i64);
    }
}

/// The launcher is here (or gone, with `pid` 0).
pub fn set_launcher(pid: i32) {
    let mut state = STATE.exclusive();
    state.launcher = pid;
    state.launcher_latch = if pid == 0 { 0 } else { my_latch() };
    if pid != 0 {
        // Workers of a launcher's earlier life are registered with the postmaster, not with us:
        // they clear their own entries.
        state.engine = 0;
    }
}

/// Process ids of launcher and engine, 0 where there is none.
pub fn processes() -> (i32, i32) {
    let state = STATE.share();
    (state.launcher, state.engine)
}

/// An engine started, became ready or failed (`failure`: why); wakes every worker, since what it
/// waited for may have changed.
pub fn set_engine(pid: i32, failure: Option<&str>) {
    let latches: Vec<usize> = {
        let mut state = STATE.exclusive();
        state.engine = pid;
        state.engine_epoch += 1;
        let bytes = failure.unwrap_or_default().as_bytes();
        state.failure.length = bytes.len().min(MAX_MESSAGE);
        let length = state.failure.length;
        state.failure.bytes[..length].copy_from_slice(&bytes[..length]);
        state.databases.iter().map(|d| d.worker_latch).collect()
    };
    latches.into_iter().for_each(set_latch);
}

/// Counts engine starts, readiness and failures: a worker that found no usable engine waits for a
/// change.
pub fn engine_epoch() -> u64 {
    STATE.share().engine_epoch
}

/// Why there is no usable engine, as far as the launcher knows.
pub fn engine_failure() -> Option<String> {
    let state = STATE.share();
    let message = &state.failure;
    (message.length > 0)
        .then(|| String::from_utf8_lossy(&message.bytes[..message.length]).into_owned())
}
