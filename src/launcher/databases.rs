//! Finds databases with the extension, and starts a worker for each one with work.
//! `pg_caption_supervisor::schedule` decides when; this file talks to PostgreSQL.

use crate::{settings, shared};
use pg_caption_supervisor::registry::DatabaseRegistry;
use pg_caption_supervisor::schedule::{DatabaseView, WorkerExit, WorkerSchedule};
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker,
};
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often the list of databases is read at most.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// How often the launcher of a standby checks for a promotion.
const PROMOTION_CHECK: Duration = Duration::from_secs(5);

/// The launcher's state of the databases.
#[derive(Default)]
pub struct Databases {
    registry: DatabaseRegistry,
    listed: Option<Instant>,
    schedule: WorkerSchedule,
    running: HashMap<u32, DynamicBackgroundWorker>,
    logged_no_slot: bool,
    logged_left_out: bool,
}

/// The registered databases.
fn views(now: Instant) -> Vec<DatabaseView> {
    shared::databases().iter().map(|database| view(database, now)).collect()
}

fn view(database: &shared::DatabaseSlot, now: Instant) -> DatabaseView {
    DatabaseView {
        oid: database.oid,
        generation: database.generation,
        drained: database.drained,
        has_worker: database.worker != 0,
        slow_poll: database.slow_poll,
        due: database.due(now),
    }
}

/// Whether this server is a standby, or still recovering.
fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

impl Databases {
    /// Handles workers that ended, then starts those that are wanted.
    pub fn tend(&mut self, now: Instant) {
        if in_recovery() {
            return;
        }
        self.reap(now);
        if self.listed.is_none_or(|at| now.duration_since(at) >= LIST_INTERVAL) {
            self.list(now);
        }
        if !settings::enabled() {
            return;
        }
        let (wanted, crowded) = self.schedule.wanted(&views(now), now, settings::max_workers());
        shared::set_crowded(crowded);
        for database in wanted {
            self.start(&database, now);
        }
    }

    /// When `tend` is due without a wake-up.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if in_recovery() {
            // A promotion wakes no background worker.
            return Some(now + PROMOTION_CHECK);
        }
        if !settings::enabled() {
            return None;
        }
        self.schedule.next_due(&views(now), now, settings::max_workers())
    }

    fn start(&mut self, database: &DatabaseView, now: Instant) {
        let loaded = BackgroundWorkerBuilder::new("pg_caption worker")
            .set_type("pg_caption worker")
            .set_library("pg_caption")
            .set_function("pg_caption_worker")
            .enable_spi_access()
            .set_restart_time(None)
            .set_argument(Some(pg_sys::Datum::from(database.oid)))
            .set_notify_pid(std::process::id() as i32)
            .load_dynamic();
        match loaded {
            Ok(handle) => {
                self.running.insert(database.oid, handle);
                self.schedule.started(database, now);
                self.logged_no_slot = false;
                shared::set_no_slot(false);
            }
            Err(_) => {
                self.schedule.no_slot(now);
                shared::set_no_slot(true);
                // Has running workers yield their slots after a while.
                shared::set_crowded(true);
                if !std::mem::replace(&mut self.logged_no_slot, true) {
                    pgrx::log!(
                        "pg_caption: no background worker slot is free; queues wait; \
                         raise max_worker_processes"
                    );
                }
            }
        }
    }

    fn reap(&mut self, now: Instant) {
        let ended: Vec<u32> = self
            .running
            .iter()
            .filter(|(_, handle)| {
                matches!(
                    handle.pid(),
                    Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied)
                )
            })
            .map(|(oid, _)| *oid)
            .collect();
        if !ended.is_empty() && self.registry.left_out().is_some() {
            // A worker that found no extension has made room for another database.
            self.listed = None;
        }
        for oid in ended {
            self.running.remove(&oid);
            // `None`: the worker found no extension there.
            let database = shared::database(oid);
            let view = database.as_ref().map(|database| view(database, now));
            match self.schedule.ended(oid, view.as_ref(), now) {
                WorkerExit::Normal => shared::set_failures(oid, 0, Duration::ZERO),
                WorkerExit::Failed { times, pause } => {
                    shared::set_failures(oid, times, pause);
                    // The database may have been dropped: read the list before the next start.
                    self.listed = None;
                    // The worker may have died before it could unregister.
                    if database.is_some_and(|database| database.worker != 0) {
                        shared::set_worker(oid, 0);
                    }
                }
            }
        }
    }

    /// Reads `pg_database`: new databases are registered, dropped ones removed. One that accepts no
    /// connections for now is neither: its work waits, and the view shows why.
    fn list(&mut self, now: Instant) {
        self.listed = Some(now);
        let databases = BackgroundWorker::transaction(existing);
        let present: HashSet<u32> = databases.iter().map(|(oid, _)| *oid).collect();
        for database in shared::databases() {
            if !present.contains(&database.oid) && !self.running.contains_key(&database.oid) {
                shared::forget_database(database.oid, database.generation);
            }
        }
        self.registry.update(&databases, shared::register_database);
        // Registered databases that no worker has checked may have no extension, and make room.
        let left_out = self
            .registry
            .left_out()
            .filter(|_| shared::databases().iter().all(|database| database.drained > 0));
        if let Some(oid) = left_out
            && !self.logged_left_out
        {
            pgrx::log!(
                "pg_caption: {} databases have the extension, the maximum number; the one with OID \
                 {oid}, and any other, waits until one is dropped",
                shared::MAX_DATABASES
            );
        }
        self.logged_left_out = left_out.is_some();
    }
}

/// All databases, and whether they accept connections. Read directly: SPI requires a database.
fn existing() -> Vec<(u32, bool)> {
    let mut databases = Vec::new();
    // SAFETY: a catalog scan in a transaction, as in autovacuum's launcher: the shared catalog is
    // opened, scanned and closed in order, and each tuple is used before the next is fetched.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let header = (*tuple).t_data;
            let form = header
                .cast::<u8>()
                .add((*header).t_hoff as usize)
                .cast::<pg_sys::FormData_pg_database>();
            // -2 marks a database whose DROP was interrupted.
            if (*form).datconnlimit != -2 {
                databases.push(((*form).oid.to_u32(), (*form).datallowconn));
            }
        }
        let routine = (*(*scan).rs_rd).rd_tableam;
        if let Some(end) = (*routine).scan_end {
            pg_sys::ffi::pg_guard_ffi_boundary(|| end(scan));
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    databases
}
