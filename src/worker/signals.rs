//! Signal handlers of a worker, and the timeout that ends it.

use super::write_mark;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, Ordering};

/// The last timeout of a statement has passed: this process is ending. An atomic, since a signal
/// handler writes it.
static ENDED_BY_TIMEOUT: AtomicBool = AtomicBool::new(false);

/// Installs PostgreSQL's own handlers. `die` ends this process even while it waits for a lock. The
/// main loop reloads the configuration.
pub fn install() {
    // SAFETY: the handlers are PostgreSQL's and live as long as the server program.
    unsafe {
        handle(libc::SIGTERM, die);
        handle(libc::SIGHUP, SignalHandlerForConfigReload);
        handle(libc::SIGQUIT, on_quit);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// The postmaster ends all processes because another one has crashed, or for an immediate shutdown:
/// the row that is being written is not the cause.
unsafe extern "C-unwind" fn on_quit(signal: core::ffi::c_int) {
    write_mark::clear();
    // SAFETY: PostgreSQL's own handler, which ends the process.
    unsafe { SignalHandlerForCrashExit(signal) };
}

/// Ends this process at its next check for interrupts, as SIGTERM does.
///
/// # Safety
/// The handler of a timeout: runs within a signal handler.
pub unsafe extern "C-unwind" fn end_process() {
    ENDED_BY_TIMEOUT.store(true, Ordering::Relaxed);
    // SAFETY: PostgreSQL's own signal handler only sets flags and this process's latch.
    unsafe { die(libc::SIGTERM) };
}

/// Whether [`end_process`] was called.
pub fn ended_by_timeout() -> bool {
    ENDED_BY_TIMEOUT.load(Ordering::Relaxed)
}

unsafe extern "C-unwind" {
    // PostgreSQL's handlers without the guard of the generated bindings, which must not run in
    // signal handlers.
    fn die(signal: core::ffi::c_int);
    fn SignalHandlerForConfigReload(signal: core::ffi::c_int);
    fn SignalHandlerForCrashExit(signal: core::ffi::c_int);
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
