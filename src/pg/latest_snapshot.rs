//! The latest snapshot for reads of the catalogs, after a wait for a lock: the snapshot of the
//! statement, or of a REPEATABLE READ transaction, is older than what the lock protects.
//!
//! Called by `api::watch`.

use pgrx::pg_sys;

/// The latest snapshot is the active one until this is dropped.
pub struct LatestSnapshot(());

impl LatestSnapshot {
    /// Makes it the active one.
    pub fn push() -> LatestSnapshot {
        // SAFETY: in a transaction; Drop pops the snapshot.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        LatestSnapshot(())
    }
}

impl Drop for LatestSnapshot {
    fn drop(&mut self) {
        // After an error the abort of the (sub)transaction pops it.
        if !std::thread::panicking() {
            // SAFETY: pops the snapshot pushed above; others on top of it were popped before.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}
