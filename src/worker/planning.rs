//! How statements are planned: our own by key, whatever the settings and the statistics say; a
//! table's own code as in any session of its database. And how long they wait for locks.
//!
//! In levels of settings: `transaction` opens ours for each transaction, `write` goes back to what
//! holds otherwise for the time in which triggers run.

use crate::pg::guc_scope::{GucScope, current};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

/// Every statement of ours finds rows by key: a generic plan over the index, whatever the
/// statistics say of a table just made.
const OURS: [(&CStr, &CStr); 9] = [
    (c"plan_cache_mode", c"force_generic_plan"),
    (c"enable_indexscan", c"on"),
    (c"enable_nestloop", c"on"),
    (c"enable_seqscan", c"off"),
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_sort", c"off"),
    (c"jit", c"off"),
];
/// A worker waits for nobody's lock for longer, ms.
const MOST_PATIENCE: i32 = 1000;
/// Nor less long than that for a lock that a table's own code wants, where `deadlock_timeout`
/// allows, ms.
const LEAST_PATIENCE: i32 = 10;
/// How often patience is halved.
const HALVINGS: u32 = 10;

thread_local! {
    /// What server, database and role say of [`OURS`], one by one.
    static ORDINARY: RefCell<Vec<CString>> = const { RefCell::new(Vec::new()) };
    /// How often the code of a table met a lock more than it did not.
    static BLOCKED: RefCell<HashMap<u32, u32>> = RefCell::default();
}

/// Our own planning, and our patience with locks; in a transaction.
pub fn ours() -> GucScope {
    ORDINARY.with(|ordinary| {
        *ordinary.borrow_mut() =
            OURS.iter().map(|(name, _)| current(name, CStr::to_owned)).collect()
    });
    let level = GucScope::open();
    for (name, value) in OURS {
        level.set(name, value);
    }
    wait_for_locks(&level, patience());
    level
}

/// Our patience with the locks that a table's own code meets: each time it meets one it is halved,
/// so that a table whose triggers all want the same row does not take the time of the others.
pub fn patience_with(table: u32) -> GucScope {
    let halved = BLOCKED.with(|blocked| blocked.borrow().get(&table).copied().unwrap_or(0));
    let level = GucScope::open();
    wait_for_locks(&level, (patience() >> halved).max(patience().min(LEAST_PATIENCE)));
    level
}

/// The code of a table met a lock.
pub fn was_blocked(table: u32) {
    BLOCKED.with(|blocked| {
        let mut blocked = blocked.borrow_mut();
        let halved = blocked.entry(table).or_default();
        *halved = (*halved + 1).min(HALVINGS);
    });
}

/// It met none, or not for long.
pub fn was_free(table: u32) {
    BLOCKED.with(|blocked| {
        let mut blocked = blocked.borrow_mut();
        if let Some(halved) = blocked.get_mut(&table) {
            *halved -= 1;
            if *halved == 0 {
                blocked.remove(&table);
            }
        }
    });
}

/// In ms. Half of `deadlock_timeout`: who waits for a row of ours while we wait for his is not the
/// one who finds the deadlock and is cancelled.
fn patience() -> i32 {
    // SAFETY: reads a setting.
    (unsafe { pg_sys::DeadlockTimeout } / 2).clamp(1, MOST_PATIENCE)
}

fn wait_for_locks(level: &GucScope, ms: i32) {
    level.set(c"lock_timeout", &CString::new(ms.to_string()).unwrap_or_default());
}

/// The planning of any session; within [`ours`].
pub fn ordinary() -> GucScope {
    let level = GucScope::open();
    ORDINARY.with(|ordinary| {
        OURS.iter()
            .zip(ordinary.borrow().iter())
            .for_each(|((name, _), value)| level.set(name, value))
    });
    level
}
