//! Which databases may have work, and who serves them: probes each once, then starts workers as generations rise, in turns.

use crate::{settings, shared};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often a wake-up may reread the list of databases.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// How often a database is looked at in which a prepared transaction enqueued something.
const SLOW_LOOK: Duration = Duration::from_secs(10);
/// Pauses before a database is tried again whose worker ended badly.
const BACKOFF: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// How often a standby's launcher looks whether it has been promoted.
const PROMOTION_LOOK: Duration = Duration::from_secs(5);
/// Pause after the server had no background worker slot left.
const NO_SLOT: Duration = Duration::from_secs(5);

struct Running {
    handle: DynamicBackgroundWorker,
    generation: u64,
}

#[derive(Default)]
struct Trouble {
    times: usize,
    until: Option<Instant>,
}

/// What the launcher knows of the databases.
#[derive(Default)]
pub struct Databases {
    probed: HashSet<u32>,
    listed: Option<Instant>,
    running: HashMap<u32, Running>,
    trouble: HashMap<u32, Trouble>,
    served: HashMap<u32, Instant>,
    no_slot_until: Option<Instant>,
    said_no_slot: bool,
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
        if !settings::enabled() || self.no_slot_until.is_some_and(|until| until > now) {
            return;
        }
        let mut wanted: Vec<shared::Database> = shared::databases().into_iter().filter(|d| self.is_due(d, now)).collect();
        // Who waited longest comes first.
        wanted.sort_by_key(|d| self.served.get(&d.oid).copied());
        let room = settings::max_workers().saturating_sub(self.running.len());
        shared::set_crowded(wanted.len() > room);
        for database in wanted.into_iter().take(room) {
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
        if !settings::enabled() || self.running.len() >= settings::max_workers() {
            // The end of a worker wakes us.
            return None;
        }
        if self.no_slot_until.is_some_and(|until| until > now) {
            return self.no_slot_until;
        }
        let mut due = Vec::new();
        for database in shared::databases().iter().filter(|d| d.worker == 0 && !self.running.contains_key(&d.oid)) {
            let trouble = self.trouble.get(&database.oid).and_then(|t| t.until).unwrap_or(now);
            if database.generation != database.drained {
                due.push(trouble);
            }
            if database.slow_look {
                due.push(self.served.get(&database.oid).map_or(now, |at| *at + SLOW_LOOK).max(trouble));
            }
            due.extend(database.due(now).map(|at| at.max(trouble)));
        }
        due.into_iter().min()
    }

    fn is_due(&self, database: &shared::Database, now: Instant) -> bool {
        if self.running.contains_key(&database.oid) || database.worker != 0 {
            return false;
        }
        if self.trouble.get(&database.oid).and_then(|t| t.until).is_some_and(|until| until > now) {
            return false;
        }
        database.generation != database.drained
            || database.due(now).is_some_and(|due| due <= now)
            || (database.slow_look && self.served.get(&database.oid).is_none_or(|at| now.duration_since(*at) >= SLOW_LOOK))
    }

    fn start(&mut self, database: &shared::Database, now: Instant) {
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
                self.running.insert(database.oid, Running { handle, generation: database.generation });
                self.served.insert(database.oid, now);
                self.no_slot_until = None;
                self.said_no_slot = false;
                shared::set_no_slot(false);
            }
            Err(_) => {
                self.no_slot_until = Some(now + NO_SLOT);
                shared::set_no_slot(true);
                if !std::mem::replace(&mut self.said_no_slot, true) {
                    pgrx::log!("pg_caption: no background worker slot is free; queues wait. Raise max_worker_processes.");
                }
            }
        }
    }

    fn reap(&mut self, now: Instant) {
        let ended: Vec<u32> = self
            .running
            .iter()
            .filter(|(_, running)| matches!(running.handle.pid(), Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied)))
            .map(|(oid, _)| *oid)
            .collect();
        for oid in ended {
            let Some(running) = self.running.remove(&oid) else { continue };
            let Some(database) = shared::database(oid) else {
                // The worker found no extension there.
                self.trouble.remove(&oid);
                continue;
            };
            // Left with everything done, or with something new having come since: both are well.
            if database.drained >= running.generation {
                self.trouble.remove(&oid);
                shared::set_trouble(oid, 0, Duration::ZERO);
            } else {
                let trouble = self.trouble.entry(oid).or_default();
                let pause = BACKOFF[trouble.times.min(BACKOFF.len() - 1)];
                trouble.until = Some(now + pause);
                trouble.times += 1;
                shared::set_trouble(oid, trouble.times as u32, pause);
                // It may have died before it could take its name off.
                if database.worker != 0 {
                    shared::set_worker(oid, 0);
                }
            }
        }
    }

    /// Reads `pg_database`: new databases are probed, dropped ones forgotten.
    fn list(&mut self, now: Instant) {
        self.listed = Some(now);
        let present: HashSet<u32> = BackgroundWorker::transaction(connectable).into_iter().collect();
        for database in shared::databases() {
            if !present.contains(&database.oid) && !self.running.contains_key(&database.oid) {
                shared::forget_database(database.oid, database.generation);
            }
        }
        self.probed.retain(|oid| present.contains(oid));
        for oid in present {
            if self.probed.insert(oid) && !shared::know_database(oid) {
                pgrx::log!("pg_caption: more than {} databases with the extension; database {oid} is not served", shared::MAX_DATABASES);
            }
        }
    }
}

/// The databases that take connections. Read directly: SPI does not work without a database.
fn connectable() -> Vec<u32> {
    let mut oids = Vec::new();
    // SAFETY: a catalog scan in a transaction, as autovacuum's launcher does it: the shared catalog is opened, scanned and closed in order, and each tuple is
    // looked at before the next is fetched.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let header = (*tuple).t_data;
            let form = header.cast::<u8>().add((*header).t_hoff as usize).cast::<pg_sys::FormData_pg_database>();
            // -2 marks a database whose DROP was interrupted.
            if (*form).datallowconn && (*form).datconnlimit != -2 {
                oids.push((*form).oid.to_u32());
            }
        }
        let routine = (*(*scan).rs_rd).rd_tableam;
        if let Some(end) = (*routine).scan_end {
            pg_sys::ffi::pg_guard_ffi_boundary(|| end(scan));
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    oids
}
