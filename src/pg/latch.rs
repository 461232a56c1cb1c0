//! Waiting that Ctrl-C, `statement_timeout`, `pg_terminate_backend`, barriers and the postmaster's
//! death all end.

use pgrx::pg_sys;
use std::time::Duration;

/// What to watch on a descriptor besides the latch.
#[derive(Debug, Clone, Copy)]
pub struct Interest {
    /// The descriptor.
    pub fd: i32,
    /// Wake when it can be written, too.
    pub write: bool,
}

/// Waits for the process latch, a descriptor or the time to pass, then serves interrupts: a pending
/// cancel or termination raises here.
///
/// `timeout: None` waits without end.
pub fn wait(interest: Option<Interest>, timeout: Option<Duration>) {
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
    // SAFETY: MyLatch is this process's own latch from its start to its exit; `fd` is open, since
    // its owner is borrowed by our caller for the length of the call. PostgreSQL raises only
    // through the guarded binding.
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
