//! Scopes of settings, like those of functions with SET clauses: a value set in a scope ends with
//! it.
//!
//! Called by `pg::identity`, `hooks::enqueue` and the worker. Never changes a setting beyond the
//! scope.

use pgrx::{PgLogLevel, pg_sys};
use std::ffi::CStr;

/// A nesting level of settings. Ends when it is dropped, or when the (sub)transaction that opened
/// it is rolled back.
pub struct GucScope {
    level: i32,
    /// Plain SET commands of other code outlive the scope, as with a function of PostgreSQL.
    is_open: bool,
}

impl GucScope {
    /// A scope that no value set within it outlives.
    pub fn sealed() -> GucScope {
        GucScope::new(false)
    }

    /// A scope that values set by other code outlive. Values set with [`GucScope::set`] do not.
    pub fn open() -> GucScope {
        GucScope::new(true)
    }

    fn new(is_open: bool) -> GucScope {
        // SAFETY: opens a nesting level of settings, which Drop closes.
        GucScope { level: unsafe { pg_sys::NewGUCNestLevel() }, is_open }
    }

    /// Sets a user-settable value until this scope ends. This scope must be the innermost one.
    pub fn set(&self, name: &CStr, value: &CStr) {
        // SAFETY: both are C strings; the value is valid for the setting and is restored with the
        // scope.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
}

impl GucScope {
    /// Sets a value that a superuser has stored for a role or a database, until this scope ends.
    /// Skips it where PostgreSQL does: an invalid value, or a setting that is fixed by now.
    pub fn try_set(&self, name: &CStr, value: &CStr) {
        // SAFETY: both are C strings. At this level an invalid value is a message, not an error.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                PgLogLevel::DEBUG1 as i32,
                false,
            );
        }
    }
}

impl Drop for GucScope {
    fn drop(&mut self) {
        // During an error the rollback closes the level, and would report one closed twice.
        if !std::thread::panicking() {
            // SAFETY: closes the level that was opened last.
            unsafe { pg_sys::AtEOXact_GUC(self.is_open, self.level) };
        }
    }
}

/// Passes the current text of an existing setting to `read`.
pub fn current<R>(name: &CStr, read: impl FnOnce(&CStr) -> R) -> R {
    // SAFETY: the setting exists; its text is read before any other call can replace it.
    read(unsafe { CStr::from_ptr(pg_sys::GetConfigOption(name.as_ptr(), false, false)) })
}
