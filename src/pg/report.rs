//! Errors people see: what happened, the facts, what to do.

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

/// Reports a failure at any level; does not return for `ERROR` and above.
pub fn failure(level: PgLogLevel, failure: &Failure) {
    let mut report =
        ErrorReport::new(sqlstate(failure.class), failure.message.clone(), "pg_caption");
    if let Some(detail) = &failure.detail {
        report = report.set_detail(detail.clone());
    }
    if let Some(hint) = &failure.hint {
        report = report.set_hint(hint.clone());
    }
    report.report(level);
}

/// Raises a failure as an error.
pub fn raise(f: &Failure) -> ! {
    failure(PgLogLevel::ERROR, f);
    unreachable!("an ERROR does not return")
}

/// Raises an error about an argument or about what the caller tried.
pub fn refuse(
    code: PgSqlErrorCode,
    message: impl Into<String>,
    detail: Option<String>,
    hint: Option<String>,
) -> ! {
    let mut report = ErrorReport::new(code, message.into(), "pg_caption");
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Unwraps what SPI returns in a caller's session; its errors are the caller's to see.
pub fn spi<T>(result: Result<T, pgrx::spi::Error>) -> T {
    result.unwrap_or_else(|error| pgrx::error!("{error}"))
}

/// The first column of the first row; a query that gives no row gives nothing.
pub fn optional<T>(result: Result<Option<T>, pgrx::spi::Error>) -> Option<T> {
    match result {
        Err(pgrx::spi::Error::InvalidPosition) => None,
        other => spi(other),
    }
}
