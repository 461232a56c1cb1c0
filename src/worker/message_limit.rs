//! Cuts the texts of errors and warnings that a table's own code raises, before they are copied: a
//! message may have a gigabyte.
//!
//! PostgreSQL calls the error context callbacks before it passes an error on, and the log hook with
//! the error's fields. The callback here has PostgreSQL report the error; the hook then cuts the
//! fields in place and suppresses this report. Neither allocates, raises or panics.

use super::memory_limit;
use core::ffi::{CStr, c_char, c_void};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::sync::Once;

/// Characters of each text.
const MAX_CHARS: usize = 1000;

thread_local! {
    /// The hook that was installed before this one.
    static PREVIOUS: Cell<pg_sys::emit_log_hook_type> = const { Cell::new(None) };
    /// The callback has the error reported: cut it, and write nothing.
    static CUTTING: Cell<bool> = const { Cell::new(false) };
    /// The error that was cut.
    static CUT: Cell<*mut pg_sys::ErrorData> = const { Cell::new(std::ptr::null_mut()) };
}

unsafe extern "C-unwind" {
    // utils/elog.h. Not the guarded binding: this runs while PostgreSQL handles an error.
    fn EmitErrorReport();
}

/// The limit, until it is dropped.
pub struct MessageLimit {
    /// In the heap: PostgreSQL keeps its address.
    callback: Box<pg_sys::ErrorContextCallback>,
}

impl MessageLimit {
    /// From now on.
    pub fn new() -> MessageLimit {
        static INSTALLED: Once = Once::new();
        // SAFETY: globals of the only thread. The callback is removed before it is freed: by Drop,
        // or by the handler of an error, which restores the list.
        unsafe {
            INSTALLED.call_once(|| {
                PREVIOUS.set(pg_sys::emit_log_hook);
                pg_sys::emit_log_hook = Some(on_log);
            });
            let mut callback = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(on_error),
                arg: std::ptr::null_mut(),
            });
            pg_sys::error_context_stack = &mut *callback;
            MessageLimit { callback }
        }
    }
}

impl Drop for MessageLimit {
    fn drop(&mut self) {
        // SAFETY: restores the list as it was before `new`. What was added since has been removed.
        unsafe { pg_sys::error_context_stack = self.callback.previous };
    }
}

unsafe extern "C-unwind" fn on_error(_argument: *mut c_void) {
    CUTTING.set(true);
    CUT.set(std::ptr::null_mut());
    // SAFETY: PostgreSQL is handling an error or a warning, and calls the hook with it. The error
    // lives until it is handled.
    unsafe {
        EmitErrorReport();
        if let Some(error) = CUT.get().as_mut() {
            error.output_to_server = true;
        }
    }
    CUTTING.set(false);
}

unsafe extern "C-unwind" fn on_log(error: *mut pg_sys::ErrorData) {
    // SAFETY: PostgreSQL passes the error that it reports. Its texts are copies of its own.
    unsafe {
        if CUTTING.get() {
            if (*error).elevel >= PgLogLevel::ERROR as i32 {
                if (*error).sqlerrcode == PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as i32 {
                    memory_limit::allocation_failed(first_number((*error).detail));
                }
                memory_limit::grant_slack();
            }
            cut_all(&*error);
            (*error).output_to_server = false;
            CUT.set(error);
        } else if let Some(previous) = PREVIOUS.get() {
            previous(error);
        }
    }
}

/// The size in the detail of an "out of memory", in any language; 0: it states none.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn first_number(text: *const c_char) -> u64 {
    if text.is_null() {
        return 0;
    }
    // SAFETY: as promised by the caller.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    let digits = bytes.iter().skip_while(|byte| !byte.is_ascii_digit());
    digits.take_while(|byte| byte.is_ascii_digit()).fold(0, |number: u64, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    })
}

/// # Safety
/// The texts are C strings that may be changed.
unsafe fn cut_all(error: &pg_sys::ErrorData) {
    let texts = [
        error.message,
        error.detail,
        error.detail_log,
        error.hint,
        error.context,
        error.backtrace,
        error.schema_name,
        error.table_name,
        error.column_name,
        error.datatype_name,
        error.constraint_name,
        error.internalquery,
    ];
    for text in texts {
        // SAFETY: as promised by the caller.
        unsafe { cut(text) };
    }
}

/// # Safety
/// `text` is null or a C string that may be changed.
unsafe fn cut(text: *mut c_char) {
    if text.is_null() {
        return;
    }
    let (mut at, mut chars) = (0, 0);
    // SAFETY: reads up to the end of the string, and shortens it.
    unsafe {
        loop {
            let byte = *text.add(at) as u8;
            if byte == 0 {
                return;
            }
            // Not within a character of UTF-8.
            if byte & 0xc0 != 0x80 {
                if chars == MAX_CHARS {
                    *text.add(at) = 0;
                    return;
                }
                chars += 1;
            }
            at += 1;
        }
    }
}
