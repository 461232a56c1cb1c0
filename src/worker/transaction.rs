//! Short transactions, and subtransactions in which one row's error stays one row's.

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// What a row's statement raised.
#[derive(Debug)]
pub struct Raised {
    /// SQLSTATE.
    pub code: PgSqlErrorCode,
    /// Its message.
    pub message: String,
    /// Its detail.
    pub detail: Option<String>,
}

/// Runs `body` in a transaction of its own. An error ends the worker: it concerns no single row.
pub fn run<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: the frame of every background worker's transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let result = body();
    // SAFETY: as above. Statistics are sent, so that autovacuum sees our tables and the users' change.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::pgstat_report_stat(false);
    }
    result
}

/// Runs `body` in a subtransaction, rolled back if it raises.
///
/// # Errors
/// What it raised; cancels are raised again, they are meant for the whole worker.
pub fn attempt<R>(body: impl FnOnce() -> R) -> Result<R, Raised> {
    // SAFETY: begins a subtransaction and remembers what PL/pgSQL's exception blocks remember.
    let (memory, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let restore = move || {
        // SAFETY: both are alive: they belong to the transaction around the subtransaction that has just ended.
        unsafe {
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::CurrentResourceOwner = owner;
        }
    };
    PgTryBuilder::new(AssertUnwindSafe(|| {
        let result = body();
        // SAFETY: ends the subtransaction begun above.
        unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        restore();
        Ok(result)
    }))
    .catch_others(move |error| {
        // SAFETY: as above; PostgreSQL's error state was flushed when the error was caught.
        unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
        restore();
        let report = match &error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
            CaughtError::RustPanic { ereport, .. } => ereport,
        };
        if report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED {
            error.rethrow();
        }
        Err(Raised { code: report.sql_error_code(), message: report.message().to_string(), detail: report.detail().map(str::to_string) })
    })
    .execute()
}

/// Unwraps what SPI returns; its errors are ours, not a row's.
pub fn spi<T>(result: Result<T, pgrx::spi::Error>) -> T {
    result.unwrap_or_else(|error| pgrx::error!("pg_caption: {error}"))
}
