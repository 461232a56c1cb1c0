//! Whether a watched table was redefined since its watch was read: renamed, given to somebody else,
//! changed in its columns or triggers, or some role was. PostgreSQL tells of it when a lock is
//! taken or a transaction begins; a worker then reads the watches anew before it goes on with that
//! table.

use pg_caption_queue::Watched;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// Tables as they were read last, and whether they have changed since.
    static TABLES: RefCell<HashMap<u32, bool>> = RefCell::default();
}

/// Listens from now on, for the life of the process.
pub fn listen() {
    // SAFETY: registers functions that live as long as the library, once per process.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_change), pg_sys::Datum::from(0));
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::AUTHOID as i32,
            Some(on_role_change),
            pg_sys::Datum::from(0),
        );
    }
}

/// An owner may have become a superuser.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_role_change(argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    // SAFETY: nothing is asked of the arguments.
    unsafe { on_change(argument, pg_sys::InvalidOid) }
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

/// What lies below a partitioned table, however deep; nothing for others. Waits for nobody.
pub fn partitions(table: &Watched) -> Vec<pg_sys::Oid> {
    if table.name.starts_with("ONLY ") {
        return Vec::new();
    }
    // SAFETY: reads the catalogs in a transaction, without locks; the list is of OIDs, lives in the
    // transaction's memory, and is not kept.
    unsafe {
        let found = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(
                pg_sys::Oid::from(table.oid),
                pg_sys::NoLock as i32,
                std::ptr::null_mut(),
            )
        });
        let Some(list) = found.as_ref() else { return Vec::new() };
        // The first one is the table itself.
        (1..list.length as usize).map(|at| (*list.elements.add(at)).oid_value).collect()
    }
}

unsafe extern "C-unwind" {
    // catalog/pg_inherits.h, which the generated bindings leave out.
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock: i32,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}
