//! A worker: works on the queue of one database and ends when no work is left. The launcher starts
//! it.
//!
//! No transaction spans the network or the model: rows are examined in one short transaction,
//! captioned by the engine, and written in another. One session-level lock is the lease: rows that
//! were in flight when a worker died are still in the queue.

mod checks;
mod completion;
mod conditions;
mod definitions;
mod examine;
mod foreign_code;
mod lease;
mod locks;
mod memory_limit;
mod message_limit;
mod owner_settings;
mod planning;
mod prune;
mod record;
mod rescan;
mod run;
mod runaway;
mod signals;
mod store;
mod tables;
mod thresholds;
pub mod transaction;
mod usage;
mod write;
mod write_mark;

pub use usage::announce_usage;

use crate::shared;
use core::ffi::CStr;
use pgrx::prelude::*;
use std::cell::Cell;

/// Settings of every worker, which override database, role and server, as in autovacuum. Planner
/// settings and lock timeouts are in `planning`.
const FORCED: [(&CStr, &CStr); 12] = [
    // A missing standby must not keep a shutdown or DROP DATABASE waiting. Text, ledger and queue
    // are one transaction: what a failover loses is captioned again.
    (c"synchronous_commit", c"local"),
    // Audit triggers and statistics distinguish captions by it.
    (c"application_name", c"pg_caption"),
    // `ALTER DATABASE … SET role` applies to client sessions, not to this worker.
    (c"role", c"none"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    // A policy that would hide rows from their own owner is an error of the row, never a row
    // silently left out.
    (c"row_security", c"off"),
    (c"zero_damaged_pages", c"off"),
];

/// [`FORCED`] of later servers.
#[cfg(any(feature = "pg15", feature = "pg16"))]
const FORCED_LATER: [(&CStr, &CStr); 0] = [];
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
const FORCED_LATER: [(&CStr, &CStr); 1] = [(c"transaction_timeout", c"0")];

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this process is a worker.
pub fn is_worker() -> bool {
    IS_WORKER.get()
}

/// Main function of a worker; the argument is the database's OID.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_caption_worker(argument: pg_sys::Datum) {
    let database = argument.value() as u32;
    IS_WORKER.set(true);
    owner_settings::keep_server_path();
    signals::install();
    // SAFETY: connects once; the exit callback is a function of this library.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database),
            pg_sys::InvalidOid,
            0,
        );
        pg_sys::before_shmem_exit(Some(at_exit), argument);
    }
    force_settings();
    if !lease::take() {
        // A worker of an earlier launcher still serves this database.
        return;
    }
    shared::set_worker(database, std::process::id() as i32);
    let generation = shared::database(database).map_or(0, |database| database.generation);
    if transaction::run(|_| tables::installed()) {
        run::run(database);
    } else {
        shared::forget_database(database, generation);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: i32, argument: pg_sys::Datum) {
    let database = argument.value() as u32;
    write_mark::clear();
    if runaway::keep_at_exit(database) {
        // Only one row is at fault: start the next worker without a pause.
        shared::yield_turn(database);
    }
    let is_registered =
        |database: shared::DatabaseSlot| database.worker == std::process::id() as i32;
    if shared::database(database).is_some_and(is_registered) {
        shared::set_worker(database, 0);
    }
}

fn force_settings() {
    become_superuser();
    for (name, value) in FORCED.iter().chain(&FORCED_LATER).chain(&crate::hooks::enqueue::PINNED) {
        // SAFETY: static C strings; the source outranks every other, so that no later source
        // changes the setting.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// Undoes `ALTER DATABASE … SET session_authorization`: the worker was authenticated as the
/// bootstrap superuser.
fn become_superuser() {
    let superuser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
    // SAFETY: reads the session's user.
    if unsafe { pg_sys::GetSessionUserId() } == superuser {
        return;
    }
    // In a transaction: the role is looked up by its name.
    transaction::run(|_| {
        // SAFETY: the name is of a role that always exists, in the transaction's memory.
        unsafe {
            let name = pg_sys::GetUserNameFromId(superuser, false);
            pg_sys::SetConfigOption(
                c"session_authorization".as_ptr(),
                name,
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    });
}
