//! Short transactions, and subtransactions in which one row's error stays one row's.

use super::{planning, runaway};
use crate::settings;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::time::Duration;

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
    let planning = planning::ours();
    let result = body();
    drop(planning);
    // SAFETY: as above. Statistics are sent, so that autovacuum sees our tables and the users'
    // change.
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
/// What it raised. A cancel, too: the owner's own code can raise one, and one from outside ends the
/// statement that it met.
pub fn attempt<R>(body: impl FnOnce() -> R) -> Result<R, Raised> {
    // SAFETY: begins a subtransaction and remembers what PL/pgSQL's exception blocks remember.
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
        Err(Raised {
            code: report.sql_error_code(),
            message: report.message().to_string(),
            detail: report.detail().map(str::to_string),
        })
    })
    .execute()
}

/// As [`attempt`], for what may run a table's own code: a statement that runs for longer than
/// `pg_caption.write_timeout` is cancelled. Where that code goes on all the same, the worker ends
/// after twice that time.
///
/// # Errors
/// As [`attempt`].
pub fn attempt_in_time<R>(body: impl FnOnce() -> R) -> Result<R, Raised> {
    attempt(|| {
        let _limit = Limit::new(settings::write_timeout());
        body()
    })
}

/// Bounds the time of what runs until it is dropped: then the statement that is running is
/// cancelled, and the process ended if that does not help.
struct Limit(());

impl Limit {
    /// From now on; the worker's own `statement_timeout` is 0.
    fn new(time: Duration) -> Limit {
        let ms = i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: PostgreSQL registers this timeout's handler for every process with a database,
        // which is what a worker is.
        unsafe {
            enable_timeout_after(STATEMENT_TIMEOUT, ms);
            enable_timeout_after(last_timeout(), ms.saturating_mul(2));
        }
        Limit(())
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // SAFETY: as above; the flag is written by our own signal handler and read on this thread
        // alone.
        unsafe {
            disable_timeout(last_timeout(), false);
            disable_timeout(STATEMENT_TIMEOUT, true);
            // Too late for the statement that was meant: the next one is not to be cancelled in its
            // place.
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
    *ID.get_or_init(|| unsafe { RegisterTimeout(ANY_FREE_TIMEOUT, runaway::end_process) })
}

/// Beyond `USER_TIMEOUT` of every version: asks [`RegisterTimeout`] for a number that nobody has.
const ANY_FREE_TIMEOUT: u32 = 1000;
/// `STATEMENT_TIMEOUT` of PostgreSQL's `TimeoutId` (utils/timeout.h), the same number from 15 to
/// 18.
const STATEMENT_TIMEOUT: u32 = 3;

unsafe extern "C-unwind" {
    // utils/timeout.h, which the generated bindings leave out. None of them raises, but the first
    // where all numbers are taken.
    fn RegisterTimeout(id: u32, handler: unsafe extern "C-unwind" fn()) -> u32;
    fn enable_timeout_after(id: u32, delay_ms: i32);
    fn disable_timeout(id: u32, keep_indicator: bool);
    fn get_timeout_indicator(id: u32, reset_indicator: bool) -> bool;
}

/// Unwraps what SPI returns; its errors are ours, not a row's.
pub fn spi<T>(result: Result<T, pgrx::spi::Error>) -> T {
    result.unwrap_or_else(|error| pgrx::error!("pg_caption: {error}"))
}
