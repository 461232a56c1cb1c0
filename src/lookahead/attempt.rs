//! Evaluates ahead of a row's turn what may raise an error.
//!
//! An error is caught in a subtransaction, as PL/pgSQL does: it releases whatever the code had
//! acquired (buffers, catalog entries, connections to SPI). Without it, only expressions that
//! acquire nothing could be evaluated. It costs microseconds, and no transaction id, because
//! nothing is written. The row's turn raises the error again, or none.

use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The result of `work`; `None`: it raised an error, or a parallel operation is in progress, which
/// allows no subtransaction. Messages of `work` below errors are discarded: the row's turn sends
/// them.
///
/// Cancels pass, and so do panics.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: in a transaction, on the main thread. The subtransaction ends on each path, and so
    // does the change of message levels.
    unsafe {
        if pg_sys::IsInParallelMode() {
            return None;
        }
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let levels = (pg_sys::client_min_messages, pg_sys::log_min_messages);
        pg_sys::client_min_messages = PgLogLevel::ERROR as i32;
        pg_sys::log_min_messages = PgLogLevel::ERROR as i32;
        let result = catch_unwind(AssertUnwindSafe(work));
        (pg_sys::client_min_messages, pg_sys::log_min_messages) = levels;
        match &result {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        match result {
            Ok(value) => Some(value),
            Err(error) if is_of_work(&*error) => None,
            Err(error) => resume_unwind(error),
        }
    }
}

/// Whether an error belongs to the code that ran, rather than to the session.
fn is_of_work(error: &(dyn Any + Send)) -> bool {
    let report = match error.downcast_ref::<CaughtError>() {
        Some(CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) => report,
        Some(CaughtError::RustPanic { .. }) => return false,
        None => match error.downcast_ref::<ErrorReportWithLevel>() {
            Some(report) => report,
            None => return false,
        },
    };
    !matches!(
        report.sql_error_code(),
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
    )
}
