//! A worker: drains the queue of one database and leaves when nothing is left to do.
//!
//! Started by the launcher. No transaction of it spans the network or the model: rows are examined
//! in one short transaction, captioned by the engine, and written back in another. It holds one
//! session-level lock, and that lock is the lease: what was in flight when it died is still in the
//! queue.

mod definitions;
mod examine;
mod lease;
mod planning;
mod prune;
mod rescan;
mod run;
mod runaway;
mod sources;
mod tables;
mod transaction;
mod write;

use crate::shared;
use pgrx::prelude::*;

/// Settings that hold for everything a worker does, whatever the database, the role or the server
/// say; as autovacuum forces its own. How statements are planned, and how long locks are waited
/// for: `planning`.
const FORCED: [(&core::ffi::CStr, &core::ffi::CStr); 10] = [
    // `ALTER DATABASE … SET role` is for the sessions of people.
    (c"role", c"none"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    // A policy that would hide rows from their own owner is an error of the row, never a row
    // silently not seen.
    (c"row_security", c"off"),
    (c"zero_damaged_pages", c"off"),
];

/// A worker's life; the argument is the database's OID.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_caption_worker(argument: pg_sys::Datum) {
    let database = argument.value() as u32;
    // SAFETY: installs PostgreSQL's own handlers before signals are unblocked. `die` ends this
    // process even inside a lock wait; the configuration is reread by the main loop.
    unsafe {
        handle(libc::SIGTERM, die);
        handle(libc::SIGHUP, SignalHandlerForConfigReload);
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database),
            pg_sys::InvalidOid,
            0,
        );
        pg_sys::before_shmem_exit(Some(take_name_off), argument);
    }
    force_settings();
    if !lease::take() {
        // Another worker of an earlier launcher still serves this database.
        return;
    }
    shared::set_worker(database, std::process::id() as i32);
    let seen = shared::database(database).map_or(0, |d| d.generation);
    if transaction::run(tables::installed) {
        definitions::listen();
        drain::run(database);
    } else {
        shared::forget_database(database, seen);
    }
}

unsafe extern "C-unwind" {
    // PostgreSQL's own handlers, without the guard that the generated bindings wrap calls in: that
    // is not for signal handlers.
    fn die(signal: core::ffi::c_int);
    fn SignalHandlerForConfigReload(signal: core::ffi::c_int);
}

/// # Safety
/// `handler` may run between any two instructions.
unsafe fn handle(signal: i32, handler: unsafe extern "C-unwind" fn(core::ffi::c_int)) {
    // SAFETY: as promised by the caller.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
        pg_sys::pqsignal(signal, Some(handler));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn take_name_off(_code: i32, argument: pg_sys::Datum) {
    let database = argument.value() as u32;
    if runaway::note(database) {
        // Nothing is wrong with the others: the next worker is wanted at once.
        shared::yield_turn(database);
    }
    if shared::database(database).is_some_and(|d| d.worker == std::process::id() as i32) {
        shared::set_worker(database, 0);
    }
}

/// As [`FORCED`], of later servers.
#[cfg(any(feature = "pg15", feature = "pg16"))]
const FORCED_LATER: [(&core::ffi::CStr, &core::ffi::CStr); 0] = [];
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
const FORCED_LATER: [(&core::ffi::CStr, &core::ffi::CStr); 1] = [(c"transaction_timeout", c"0")];

fn force_settings() {
    be_superuser();
    for (name, value) in FORCED.iter().chain(&FORCED_LATER).chain(&crate::hooks::enqueue::PINNED) {
        // SAFETY: static C strings; the source is above every other, so that nothing read later
        // undoes it.
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

/// Whatever `ALTER DATABASE … SET session_authorization` says: the worker was authenticated as the
/// bootstrap superuser, and is that again.
fn be_superuser() {
    let superuser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
    // SAFETY: reads who the session's user is.
    if unsafe { pg_sys::GetSessionUserId() } == superuser {
        return;
    }
    // In a transaction: the role is looked up by its name.
    transaction::run(|| {
        // SAFETY: the name is of a role that always exists, and lives in the transaction's memory.
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
