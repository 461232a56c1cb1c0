//! Whether a watched table was redefined since its watch was read: renamed, given to somebody else, changed in its columns or triggers. PostgreSQL tells of it
//! when a lock is taken or a transaction begins; a worker then reads the watches anew before it goes on with that table.

use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// Tables as they were read last, and whether they have changed since.
    static TABLES: RefCell<HashMap<u32, bool>> = RefCell::default();
}

/// Listens from now on, for the life of the process.
pub fn listen() {
    // SAFETY: registers a function that lives as long as the library, once per process.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(on_change), pg_sys::Datum::from(0)) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    TABLES.with(|tables| {
        // Held only within this file, where nothing of PostgreSQL is called: always free here.
        if let Ok(mut tables) = tables.try_borrow_mut() {
            for (oid, changed) in tables.iter_mut() {
                *changed |= relation == pg_sys::InvalidOid || *oid == relation.to_u32();
            }
        }
    });
}

/// These tables are about to be read.
pub fn expect(tables: impl Iterator<Item = u32>) {
    TABLES.with(|known| *known.borrow_mut() = tables.map(|oid| (oid, false)).collect());
}

/// Whether a table has changed since.
pub fn has_changed(table: u32) -> bool {
    TABLES.with(|tables| tables.borrow().get(&table).copied().unwrap_or(false))
}

/// Whether some table has.
pub fn some_changed() -> bool {
    TABLES.with(|tables| tables.borrow().values().any(|changed| *changed))
}
