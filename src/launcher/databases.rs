//! Which databases may have work, and who serves them: probes each once, then starts workers as
//! generations rise. Who is started when is decided in `pg_caption_supervisor::schedule`; here is what that
//! needs of PostgreSQL.

use crate::{settings, shared};
use pg_caption_supervisor::registry::Roll;
use pg_caption_supervisor::schedule::{Ended, Look, Turns};
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker,
};
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often a wake-up may reread the list of databases.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// How often a standby's launcher looks whether it has been promoted.
const PROMOTION_LOOK: Duration = Duration::from_secs(5);

/// What the launcher knows of the databases.
#[derive(Default)]
pub struct Databases {
    roll: Roll,
    listed: Option<Instant>,
    turns: Turns,
    running: HashMap<u32, DynamicBackgroundWorker>,
    said_no_slot: bool,
    said_left_out: bool,
}

/// The databases that may have work, as they are now.
fn look(now: Instant) -> Vec<Look> {
    shared::databases().iter().map(|database| seen(database, now)).collect()
}

fn seen(database: &shared::DatabaseSlot, now: Instant) -> Look {
    Look {
        oid: database.oid,
        generation: database.generation,
        drained: database.drained,
        has_worker: database.worker != 0,
        slow_look: database.slow_look,
        due: database.due(now),
    }
}

impl Databases {
    /// Notices workers that ended, then starts those that are wanted.
    pub fn tend(&mut self, now: Instant) {
        // SAFETY: reads shared memory.
        if unsafe { pg_sys::RecoveryInProgress() } {
            return;
        }
        self.reap(now);
        if self.listed.is_none_or(|at| now.duration_since(at) >= LIST_EVERY) {
            self.list(now);
        }
        if !settings::enabled() {
            return;
        }
        let (wanted, crowded) = self.turns.wanted(&look(now), now, settings::max_workers());
        shared::set_crowded(crowded);
        for database in wanted {
            self.start(&database, now);
        }
    }

    /// When `tend` has something to do even if nobody wakes us.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        // SAFETY: reads shared memory.
        if unsafe { pg_sys::RecoveryInProgress() } {
            // Nobody tells us of a promotion.
            return Some(now + PROMOTION_LOOK);
        }
        if !settings::enabled() {
            return None;
        }
        self.turns.next_due(&look(now), now, settings::max_workers())
    }

    fn start(&mut self, database: &Look, now: Instant) {
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
                self.turns.started(database, now);
                self.said_no_slot = false;
                shared::set_no_slot(false);
            }
            Err(_) => {
                self.turns.refused(now);
                shared::set_no_slot(true);
                // Whoever has one leaves it to the others after a while.
                shared::set_crowded(true);
                if !std::mem::replace(&mut self.said_no_slot, true) {
                    pgrx::log!(
                        "pg_caption: no background worker slot is free; queues wait. Raise max_worker_processes."
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
        if !ended.is_empty() && self.roll.left_out().is_some() {
            // One of them may have found no extension: then there is room for another database.
            self.listed = None;
        }
        for oid in ended {
            self.running.remove(&oid);
            // Not known any more: the worker found no extension there.
            let database = shared::database(oid);
            match self.turns.ended(
                oid,
                database.as_ref().map(|database| seen(database, now)).as_ref(),
                now,
            ) {
                Ended::Well => shared::set_failures(oid, 0, Duration::ZERO),
                Ended::Badly { times, pause } => {
                    shared::set_failures(oid, times, pause);
                    // Perhaps its database is gone: the list says so before another worker is
                    // wasted on it.
                    self.listed = None;
                    // It may have died before it could take its name off.
                    if database.is_some_and(|database| database.worker != 0) {
                        shared::set_worker(oid, 0);
                    }
                }
            }
        }
    }

    /// Reads `pg_database`: new databases are probed, dropped ones forgotten. One that takes no
    /// connections for now is neither: its work waits, and the view says so.
    fn list(&mut self, now: Instant) {
        self.listed = Some(now);
        let databases = BackgroundWorker::transaction(existing);
        let present: HashSet<u32> = databases.iter().map(|(oid, _)| *oid).collect();
        for database in shared::databases() {
            if !present.contains(&database.oid) && !self.running.contains_key(&database.oid) {
                shared::forget_database(database.oid, database.generation);
            }
        }
        self.roll.call(&databases, shared::register_database);
        // While workers have not looked into all that are known, some of those may have no
        // extension, and make room.
        let left_out = self
            .roll
            .left_out()
            .filter(|_| shared::databases().iter().all(|database| database.drained > 0));
        if let Some(oid) = left_out
            && !self.said_left_out
        {
            pgrx::log!(
                "pg_caption: {} databases have the extension, which is as many as are served; the one with OID {oid}, and any beyond it, waits until one is dropped",
                shared::MAX_DATABASES
            );
        }
        self.said_left_out = left_out.is_some();
    }
}

/// The databases that there are, and whether they take connections. Read directly: SPI does not
/// work without a database.
fn existing() -> Vec<(u32, bool)> {
    let mut databases = Vec::new();
    // SAFETY: a catalog scan in a transaction, as autovacuum's launcher does it: the shared catalog
    // is opened, scanned and closed in order, and each tuple is looked at before the next is
    // fetched.
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
