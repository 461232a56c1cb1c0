//! Short transactions, and subtransactions that confine the error of one row.

use super::memory_limit::MemoryLimit;
use super::message_limit::MessageLimit;
use super::planning::{self, SessionSettings};
use super::signals;
pub use crate::pg::report::spi;
use crate::settings;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::time::Duration;

/// An error that a statement raised.
#[derive(Debug)]
pub struct RaisedError {
    /// SQLSTATE.
    pub code: PgSqlErrorCode,
    /// Primary message.
    pub message: String,
    /// Its detail.
    pub detail: Option<String>,
}

impl RaisedError {
    /// Whether another transaction's lock is the cause.
    pub fn is_lock(&self) -> bool {
        use PgSqlErrorCode::*;
        matches!(
            self.code,
            ERRCODE_LOCK_NOT_AVAILABLE
                | ERRCODE_T_R_DEADLOCK_DETECTED
                | ERRCODE_T_R_SERIALIZATION_FAILURE
        )
    }

    /// Whether the server lacks resources: SQLSTATE class 53.
    pub fn is_resource(&self) -> bool {
        use PgSqlErrorCode::*;
        matches!(
            self.code,
            ERRCODE_INSUFFICIENT_RESOURCES
                | ERRCODE_DISK_FULL
                | ERRCODE_OUT_OF_MEMORY
                | ERRCODE_TOO_MANY_CONNECTIONS
                | ERRCODE_CONFIGURATION_LIMIT_EXCEEDED
        )
    }

    /// Whether a lock or a lack of resources is the cause, rather than the rows.
    pub fn is_passing(&self) -> bool {
        self.is_lock() || self.is_resource()
    }
}

/// Runs `body` in a transaction, with the worker's planner settings; `body` gets those of the
/// session. An error ends the worker: it concerns no single row.
pub fn run<R>(body: impl FnOnce(SessionSettings) -> R) -> R {
    // SAFETY: the frame of every background worker's transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let (scope, session) = planning::worker_scope();
    let result = body(session);
    drop(scope);
    // SAFETY: as above. Statistics are sent so that autovacuum sees the changes of all tables.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::pgstat_report_stat(false);
    }
    result
}

/// Runs `body` in a subtransaction, which is rolled back if it raises.
///
/// # Errors
/// What it raised. This includes a cancel: the owner's own code can raise one, and one from another
/// session ends the running statement.
pub fn attempt<R>(body: impl FnOnce() -> R) -> Result<R, RaisedError> {
    subtransaction(true, body)
}

/// Runs `body` in a subtransaction, which is rolled back also if `body` succeeds, unless `keep`.
fn subtransaction<R>(keep: bool, body: impl FnOnce() -> R) -> Result<R, RaisedError> {
    // SAFETY: begins a subtransaction and saves what PL/pgSQL's exception blocks save.
    let (memory, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let restore = move || {
        // SAFETY: both are alive: they belong to the transaction around the subtransaction that has
        // just ended.
        unsafe {
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::CurrentResourceOwner = owner;
        }
    };
    PgTryBuilder::new(AssertUnwindSafe(|| {
        let result = body();
        // SAFETY: ends the subtransaction begun above.
        unsafe {
            match keep {
                true => pg_sys::ReleaseCurrentSubTransaction(),
                false => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
            }
        };
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
        Err(RaisedError {
            code: report.sql_error_code(),
            message: report.message().to_string(),
            detail: report.detail().map(str::to_string),
        })
    })
    .execute()
}

/// [`attempt`] for statements that may run a table's own code, within limits of time, memory and
/// messages. A statement that runs longer than `pg_caption.write_timeout` is cancelled. If that
/// code continues, the worker ends after twice that time.
///
/// # Errors
/// As [`attempt`].
pub fn attempt_in_time<R>(body: impl FnOnce() -> R) -> Result<R, RaisedError> {
    attempt(|| within_limits(body))
}

/// [`attempt`], which changes nothing.
///
/// # Errors
/// As [`attempt`].
pub fn rehearse<R>(body: impl FnOnce() -> R) -> Result<R, RaisedError> {
    subtransaction(false, body)
}

/// [`attempt_in_time`], which changes nothing.
///
/// # Errors
/// As [`attempt`].
pub fn rehearse_in_time(body: impl FnOnce()) -> Result<(), RaisedError> {
    subtransaction(false, || within_limits(body))
}

fn within_limits<R>(body: impl FnOnce() -> R) -> R {
    let _time = TimeLimit::new(settings::write_timeout());
    let _memory = MemoryLimit::new();
    let _messages = MessageLimit::new();
    body()
}

/// A time limit until it is dropped: first the running statement is cancelled, then the process
/// ends.
struct TimeLimit(());

impl TimeLimit {
    /// Starts now; the worker's own `statement_timeout` is 0.
    fn new(time: Duration) -> TimeLimit {
        let ms = i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: PostgreSQL registers this timeout's handler for every process with a database,
        // which a worker is.
        unsafe {
            enable_timeout_after(STATEMENT_TIMEOUT, ms);
            enable_timeout_after(last_timeout(), ms.saturating_mul(2));
        }
        TimeLimit(())
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        // SAFETY: as above; the flag is written by PostgreSQL's signal handler and read on this
        // thread alone.
        unsafe {
            disable_timeout(last_timeout(), false);
            disable_timeout(STATEMENT_TIMEOUT, true);
            // Too late for the statement concerned: do not cancel the next one instead.
            if get_timeout_indicator(STATEMENT_TIMEOUT, true) {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}

/// The timeout that ends this process.
fn last_timeout() -> u32 {
    static ID: OnceLock<u32> = OnceLock::new();
    // SAFETY: registered once, with a handler that lives as long as the library.
    *ID.get_or_init(|| unsafe { RegisterTimeout(ANY_FREE_TIMEOUT, signals::end_process) })
}

/// Greater than `USER_TIMEOUT` of every version: has [`RegisterTimeout`] choose a free number.
const ANY_FREE_TIMEOUT: u32 = 1000;
/// `STATEMENT_TIMEOUT` of PostgreSQL's `TimeoutId` (utils/timeout.h), the same number in 15 to 18.
const STATEMENT_TIMEOUT: u32 = 3;

unsafe extern "C-unwind" {
    // utils/timeout.h, which the generated bindings leave out. Only the first one can raise, if no
    // number is free.
    fn RegisterTimeout(id: u32, handler: unsafe extern "C-unwind" fn()) -> u32;
    fn enable_timeout_after(id: u32, delay_ms: i32);
    fn disable_timeout(id: u32, keep_indicator: bool);
    fn get_timeout_indicator(id: u32, reset_indicator: bool) -> bool;
}

/// OIDs in PostgreSQL's type.
pub fn oids(tables: &[u32]) -> Vec<pg_sys::Oid> {
    tables.iter().map(|oid| pg_sys::Oid::from(*oid)).collect()
}
