//! Waits that end on a query cancel, `statement_timeout`, `pg_terminate_backend`, barriers, and the
//! postmaster's death.
//!
//! Called by every session and process that waits. Never blocks interrupts.

use pgrx::pg_sys;
use std::time::Duration;

/// A descriptor to wait for, in addition to the latch.
#[derive(Debug, Clone, Copy)]
pub struct WaitInterest {
    /// The descriptor; its readability always ends the wait.
    pub fd: i32,
    /// Whether its writability ends the wait, too.
    pub write: bool,
}

/// Waits for the process latch, a descriptor, or the timeout (`None`: no limit), then serves
/// interrupts: a pending cancel or termination raises here.
pub fn wait(interest: Option<WaitInterest>, timeout: Option<Duration>) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    let mut fd = pg_sys::PGINVALID_SOCKET;
    if let Some(interest) = interest {
        events |= pg_sys::WL_SOCKET_READABLE;
        if interest.write {
            events |= pg_sys::WL_SOCKET_WRITEABLE;
        }
        fd = interest.fd;
    }
    let mut millis = -1;
    if let Some(timeout) = timeout {
        events |= pg_sys::WL_TIMEOUT;
        // Rounded up: a wait of 0.3 ms must not become a busy loop of 0 ms waits.
        millis = timeout.as_micros().div_ceil(1000).min(i32::MAX as u128) as i64;
    }
    // SAFETY: MyLatch is this process's own latch from start to exit. `fd` is open: the caller
    // borrows its owner for the length of the call. The guarded binding handles PostgreSQL errors.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            fd,
            millis as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}
