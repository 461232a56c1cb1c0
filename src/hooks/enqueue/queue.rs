//! Writes to the extension's queue at commit.
//!
//! Called by the callbacks of `enqueue`, in any session and with any `search_path`: all names in
//! the statements are qualified.

use crate::pg::identity;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Inserts into the queue; within [`with_queue`].
pub fn insert(statement: &str, arguments: &[DatumWithOid<'_>]) {
    Spi::run_with_args(statement, arguments)
        .unwrap_or_else(|error| pgrx::error!("pg_caption cannot append to its queue: {error}"));
}

/// Runs `body` as the extension's owner, also at pre-commit and in a transaction that has become
/// read-only. Skips it if the extension is not installed: this transaction may have dropped it.
/// Also skips it in pg_upgrade, which creates the extension's objects one by one and changes no
/// rows.
pub fn with_queue(body: impl FnOnce()) {
    // SAFETY: reads a global that is set before any library is loaded.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    // SAFETY: a catalog look-up in a transaction.
    if unsafe { pg_sys::get_extension_oid(c"pg_caption".as_ptr(), true) } == pg_sys::InvalidOid {
        return;
    }
    // SAFETY: a flag of this backend's transaction, restored below. It forbids later writes by
    // statements of the user only.
    let read_only = unsafe {
        let read_only = pg_sys::XactReadOnly;
        pg_sys::XactReadOnly = false;
        read_only
    };
    // SAFETY: at pre-commit no snapshot is active. This one is popped below, or released with the
    // transaction after an error.
    let is_pushed = unsafe {
        let is_needed = !pg_sys::ActiveSnapshotSet();
        if is_needed {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        is_needed
    };
    {
        let _extension = identity::as_extension();
        body();
    }
    // SAFETY: restores the flag and pops the snapshot of above.
    unsafe {
        pg_sys::XactReadOnly = read_only;
        if is_pushed {
            pg_sys::PopActiveSnapshot();
        }
    }
}
