//! Levels of settings, as functions with SET clauses open them: what is set within one ends with
//! it.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A level. Ends when it is dropped, or when the (sub)transaction that it was opened in is rolled
/// back.
pub struct Level {
    number: i32,
    /// What somebody else's code sets within it goes on in the level around it, as with a function
    /// of PostgreSQL's.
    is_open: bool,
}

impl Level {
    /// One that nothing which is set within it outlives.
    pub fn sealed() -> Level {
        Level::new(false)
    }

    /// One that what a table's own code sets within it outlives; what is set with [`Level::set`]
    /// does not.
    pub fn open() -> Level {
        Level::new(true)
    }

    fn new(is_open: bool) -> Level {
        // SAFETY: opens a nesting level of settings that Drop closes.
        Level { number: unsafe { pg_sys::NewGUCNestLevel() }, is_open }
    }

    /// Sets what any user may set, until this level ends. Of all levels the newest.
    pub fn set(&self, name: &CStr, value: &CStr) {
        // SAFETY: C strings; the value is one that the setting takes, and is put back with its
        // level.
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

impl Drop for Level {
    fn drop(&mut self) {
        // While an error is unwinding, the rollback closes the level (and would complain about one
        // closed twice).
        if !std::thread::panicking() {
            // SAFETY: closes the level that was opened last.
            unsafe { pg_sys::AtEOXact_GUC(self.is_open, self.number) };
        }
    }
}

/// Looks at the text of a setting that there is.
pub fn current<R>(name: &CStr, look: impl FnOnce(&CStr) -> R) -> R {
    // SAFETY: the setting exists; its text is looked at before anything else is asked.
    look(unsafe { CStr::from_ptr(pg_sys::GetConfigOption(name.as_ptr(), false, false)) })
}
