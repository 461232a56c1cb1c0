//! Sums up what the calls of one client statement report: three messages, then one with counts.
//!
//! A statement ends where PostgreSQL resets `MessageContext`, between two messages of the client.
//! Executor hooks would see neither PL/pgSQL's simple expressions nor where a procedure, a COPY or
//! a FETCH ends, and none runs after an error. A transaction callback does not run between the
//! statements of a transaction block. Where no client sends messages (parallel workers, background
//! workers) a statement ends with the transaction.
//!
//! Called by `api::call`. Never raises.

use crate::pg::report::{self, sqlstate};
use pg_caption_wire::Failure;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CString;

/// Messages of one level that a statement reports one by one.
const SHOWN: u64 = 3;
/// The longest list of codes in a summary. There are about a hundred codes, and few in a statement.
const LISTED: usize = 10;
const HINT: &str = "caption.backfill() records each failure and tries again what may succeed \
                    later; caption_images() returns the error of each URL.";
/// Reported to the client as a WARNING, and not to the server's log.
const CLIENT_ONLY: i32 = pg_sys::WARNING_CLIENT_ONLY as i32;

/// The reports of one level in the running statement.
#[derive(Default)]
struct LevelTally {
    total: u64,
    by_code: BTreeMap<String, u64>,
    first: Option<Failure>,
}

#[derive(Default)]
struct CallTally {
    warnings: LevelTally,
    notices: LevelTally,
    /// The end of the statement is awaited.
    is_awaited: bool,
    /// The transaction callback is registered, once per process.
    is_registered: bool,
}

thread_local! {
    static TALLY: RefCell<CallTally> = RefCell::default();
}

/// Reports why a call returns NULL, at the level WARNING or NOTICE.
pub fn report(level: PgLogLevel, failure: &Failure) {
    await_end();
    let is_warning = level == PgLogLevel::WARNING;
    let total = TALLY.with_borrow_mut(|tally| {
        let tally = if is_warning { &mut tally.warnings } else { &mut tally.notices };
        tally.total += 1;
        tally.first.get_or_insert_with(|| failure.clone());
        // A worker of a parallel query reports its sum only: its leader shows examples.
        match tally.by_code.get_mut(&failure.code) {
            Some(count) => *count += 1,
            None => drop(tally.by_code.insert(failure.code.clone(), 1)),
        }
        tally.total
    });
    if total > SHOWN || is_parallel_worker() {
        return;
    }
    if is_warning {
        let Failure { class, message, detail, hint, .. } = failure;
        warn_client(sqlstate(*class), message, detail.as_deref(), hint.as_deref());
    } else {
        report::failure(level, failure);
    }
}

fn is_parallel_worker() -> bool {
    // SAFETY: reads a global.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Makes sure that the end of the running statement reports the sum.
fn await_end() {
    let (is_awaited, is_registered) = TALLY.with_borrow_mut(|tally| {
        let before = (tally.is_awaited, tally.is_registered);
        (tally.is_awaited, tally.is_registered) = (true, true);
        before
    });
    // SAFETY: the callbacks live as long as the library. The context exists in a process that
    // serves a client, and runs the callback when it is reset, which also frees the callback.
    unsafe {
        if !is_registered {
            pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        }
        if !is_awaited && !pg_sys::MessageContext.is_null() {
            let callback = pg_sys::MemoryContextAlloc(
                pg_sys::MessageContext,
                size_of::<pg_sys::MemoryContextCallback>(),
            )
            .cast::<pg_sys::MemoryContextCallback>();
            (*callback).func = Some(on_statement_end);
            (*callback).arg = std::ptr::null_mut();
            pg_sys::MemoryContextRegisterResetCallback(pg_sys::MessageContext, callback);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_statement_end(_argument: *mut core::ffi::c_void) {
    finish();
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(
    event: pg_sys::XactEvent::Type,
    _argument: *mut core::ffi::c_void,
) {
    use pg_sys::XactEvent::*;
    // SAFETY: reads a global.
    let has_client = unsafe { !pg_sys::MessageContext.is_null() };
    match event {
        // The leader still receives messages.
        XACT_EVENT_PARALLEL_PRE_COMMIT => finish(),
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE if !has_client => finish(),
        _ => {}
    }
}

/// The statement has ended: reports the sums.
fn finish() {
    let (warnings, notices) = TALLY.with_borrow_mut(|tally| {
        tally.is_awaited = false;
        (std::mem::take(&mut tally.warnings), std::mem::take(&mut tally.notices))
    });
    if warnings.total > SHOWN || is_parallel_worker() && warnings.total > 0 {
        warnings.report(PgLogLevel::WARNING);
    } else if warnings.total > 0 {
        // The client has seen each of them.
        // SAFETY: reads a setting.
        if unsafe { pg_sys::log_min_messages } <= PgLogLevel::WARNING as i32 {
            warnings.report(PgLogLevel::LOG_SERVER_ONLY);
        }
    }
    if notices.total > SHOWN || is_parallel_worker() && notices.total > 0 {
        notices.report(PgLogLevel::NOTICE);
    }
}

impl LevelTally {
    fn report(self, level: PgLogLevel) {
        let pictures = if self.total == 1 { "picture" } else { "pictures" };
        let message = format!("no caption for {} {pictures}", self.total);
        let mut codes: Vec<(String, u64)> = self.by_code.into_iter().collect();
        codes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let others: u64 = codes.iter().skip(LISTED).map(|(_, count)| count).sum();
        codes.truncate(LISTED);
        let mut listed: Vec<String> =
            codes.into_iter().map(|(code, count)| format!("{count} with {code}")).collect();
        if others > 0 {
            listed.push(format!("{others} with other codes"));
        }
        let mut detail = format!("By code: {}.", listed.join(", "));
        if let Some(first) = self.first.filter(|_| level != PgLogLevel::NOTICE) {
            detail.push_str(&format!(" The first: {}.", first.message));
            first.detail.iter().for_each(|more| detail.push_str(&format!(" {more}")));
        }
        let code = PgSqlErrorCode::ERRCODE_WARNING;
        if level == PgLogLevel::WARNING && is_parallel_worker() {
            // The leader logs what it receives.
            return warn_client(code, &message, Some(&detail), Some(HINT));
        }
        let mut report =
            pg_sys::panic::ErrorReport::new(code, message, "pg_caption").set_detail(detail);
        if level == PgLogLevel::WARNING {
            report = report.set_hint(HINT);
        }
        report.report(level);
    }
}

/// Sends a warning to the client and not to the log. It has no `PgLogLevel`.
fn warn_client(code: PgSqlErrorCode, message: &str, detail: Option<&str>, hint: Option<&str>) {
    let text = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
    let pointer = |text: &Option<CString>| {
        text.as_ref().map_or(std::ptr::null_mut(), |text| text.as_ptr().cast_mut())
    };
    let (message, detail, hint) = (Some(text(message)), detail.map(text), hint.map(text));
    let mut error = pg_sys::ErrorData {
        elevel: CLIENT_ONLY,
        sqlerrcode: code as i32,
        message: pointer(&message),
        detail: pointer(&detail),
        hint: pointer(&hint),
        ..pg_sys::ErrorData::default()
    };
    // SAFETY: copies the texts. A level below ERROR returns.
    unsafe { pg_sys::ThrowErrorData(&mut error) };
}
