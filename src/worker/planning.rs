//! Planner settings and lock timeouts of a worker. Its own statements find rows by key, whatever
//! settings and statistics say; code of a watched table runs with the settings of its database.
//!
//! Both are scopes of settings: `transaction` opens one for each transaction, `write` returns to
//! the settings of the database while triggers run.

use crate::pg::guc_scope::{GucScope, current};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

/// A generic plan over the index, even for a table without statistics.
const PLANNER: [(&CStr, &CStr); 9] = [
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
/// Longest wait for a lock, ms.
const MAX_LOCK_TIMEOUT: i32 = 1000;
/// Shortest wait for a lock in a table's own code, ms, where `deadlock_timeout` allows it.
const MIN_LOCK_TIMEOUT: i32 = 10;
/// How often the wait is halved at most.
const MAX_HALVINGS: u32 = 10;

/// What server, database and role set for each of [`PLANNER`].
#[derive(Default)]
pub struct SessionSettings(Vec<CString>);

impl SessionSettings {
    /// A scope with the planner settings of the session; within [`worker_scope`].
    pub fn scope(&self) -> GucScope {
        let scope = GucScope::open();
        for ((name, _), value) in PLANNER.iter().zip(&self.0) {
            scope.set(name, value);
        }
        scope
    }
}

/// A scope with the worker's planner settings and lock timeout, in a transaction; also the settings
/// that it replaces.
pub fn worker_scope() -> (GucScope, SessionSettings) {
    let session = PLANNER.iter().map(|(name, _)| current(name, CStr::to_owned)).collect();
    let scope = GucScope::open();
    for (name, value) in PLANNER {
        scope.set(name, value);
    }
    set_lock_timeout(&scope, lock_timeout());
    (scope, SessionSettings(session))
}

/// Lock timeouts for the code of watched tables. Each timeout halves the next one, so that a table
/// whose triggers all need the same row does not take the time of other tables.
#[derive(Default)]
pub struct LockTimeouts {
    /// Halvings by table.
    halvings: HashMap<u32, u32>,
}

impl LockTimeouts {
    /// A scope with the lock timeout for a table.
    pub fn scope(&self, table: u32) -> GucScope {
        let halvings = self.halvings.get(&table).copied().unwrap_or(0);
        let scope = GucScope::open();
        let timeout = (lock_timeout() >> halvings).max(lock_timeout().min(MIN_LOCK_TIMEOUT));
        set_lock_timeout(&scope, timeout);
        scope
    }

    /// Code of a table could not get a lock.
    pub fn was_blocked(&mut self, table: u32) {
        let halvings = self.halvings.entry(table).or_default();
        *halvings = (*halvings + 1).min(MAX_HALVINGS);
    }

    /// Code of a table needed no lock, or got it in time.
    pub fn was_free(&mut self, table: u32) {
        if let Some(halvings) = self.halvings.get_mut(&table) {
            *halvings -= 1;
            if *halvings == 0 {
                self.halvings.remove(&table);
            }
        }
    }
}

/// In ms. Half of `deadlock_timeout`: in a deadlock between the worker and a client, the worker
/// gives up before PostgreSQL cancels the client.
fn lock_timeout() -> i32 {
    // SAFETY: reads a setting.
    (unsafe { pg_sys::DeadlockTimeout } / 2).clamp(1, MAX_LOCK_TIMEOUT)
}

fn set_lock_timeout(scope: &GucScope, ms: i32) {
    scope.set(c"lock_timeout", &CString::new(ms.to_string()).unwrap_or_default());
}
