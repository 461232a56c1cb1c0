//! User-facing errors: message, detail, hint.
//!
//! Called by everything that raises or warns in a session. Never reads the text of a failure: its
//! class decides.

use pg_caption_wire::{Failure, FailureClass};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The SQLSTATE of each class; fixed, listed in `docs/errors.md`.
pub fn sqlstate(class: FailureClass) -> PgSqlErrorCode {
    match class {
        FailureClass::Uncertain => PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        FailureClass::Reject => PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
        FailureClass::Retry => PgSqlErrorCode::ERRCODE_IO_ERROR,
        FailureClass::Host => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        FailureClass::Engine => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
    }
}

fn report(
    level: PgLogLevel,
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
) {
    let mut report = ErrorReport::new(code, message, "pg_caption");
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(level);
}

/// Reports a failure at any level; does not return for `ERROR` and above.
pub fn failure(level: PgLogLevel, failure: &Failure) {
    let Failure { class, message, detail, hint, .. } = failure.clone();
    report(level, sqlstate(class), message, detail, hint);
}

/// Raises a failure as an error.
pub fn raise(error: &Failure) -> ! {
    failure(PgLogLevel::ERROR, error);
    unreachable!("an ERROR does not return")
}

/// Raises an error about an argument or an operation of the caller.
pub fn refuse(
    code: PgSqlErrorCode,
    message: impl Into<String>,
    detail: Option<String>,
    hint: Option<String>,
) -> ! {
    report(PgLogLevel::ERROR, code, message.into(), detail, hint);
    unreachable!("an ERROR does not return")
}

/// Raises "out of memory" as PostgreSQL does.
pub fn out_of_memory(bytes: usize) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        "out of memory",
        Some(format!("Failed on request of size {bytes}.")),
        None,
    )
}

/// A vector with room for `length` values, a number that the caller chose. Raises if there is no
/// memory for it: otherwise the process would end, and with it all sessions.
pub fn reserved<T>(length: usize) -> Vec<T> {
    let mut values = Vec::new();
    if values.try_reserve_exact(length).is_err() {
        out_of_memory(length.saturating_mul(size_of::<T>()));
    }
    values
}

/// Warns the caller.
pub fn warn(message: impl Into<String>, detail: Option<String>, hint: Option<String>) {
    let code = PgSqlErrorCode::ERRCODE_WARNING;
    report(PgLogLevel::WARNING, code, message.into(), detail, hint);
}

/// Informs the caller.
pub fn notice(message: impl Into<String>, detail: Option<String>, hint: Option<String>) {
    let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
    report(PgLogLevel::NOTICE, code, message.into(), detail, hint);
}

/// Unwraps the result of an SPI call. Errors of the statement itself are raised by PostgreSQL; this
/// is about wrong use of SPI.
pub fn spi<T>(result: Result<T, pgrx::spi::Error>) -> T {
    result.unwrap_or_else(|error| pgrx::error!("pg_caption: {error}"))
}

/// The first column of the first row of a read-only query; `None` for NULL or no row. Unlike
/// `Spi::get_one` it assigns no transaction id, which fails on a standby and in a parallel worker.
pub fn select_one<T: pgrx::FromDatum + pgrx::IntoDatum>(
    query: &str,
    arguments: &[pgrx::datum::DatumWithOid<'_>],
) -> Option<T> {
    spi(Spi::connect(|client| match client.select(query, Some(1), arguments)?.next() {
        Some(row) => row.get(1),
        None => Ok(None),
    }))
}

/// The first column of the first row; `None` if the query returned no row.
pub fn optional<T>(result: Result<Option<T>, pgrx::spi::Error>) -> Option<T> {
    match result {
        Err(pgrx::spi::Error::InvalidPosition) => None,
        other => spi(other),
    }
}
