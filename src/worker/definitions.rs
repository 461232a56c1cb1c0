//! Whether a watched table was redefined since its watch was read: renamed, given to another owner,
//! or changed in its columns or triggers, or a role changed. PostgreSQL reports it when a lock is
//! taken or a transaction begins. A worker then reads the watches again before it uses the table.

use pg_caption_queue::WatchedTable;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// Watched tables, and whether they have changed since their watches were read. Not a field of
    /// [`Definitions`]: PostgreSQL's invalidation callbacks write it.
    static TABLES: RefCell<HashMap<u32, bool>> = RefCell::default();
}

/// The definitions of the watched tables. Only one exists, made by [`Definitions::listen`].
pub struct Definitions(());

impl Definitions {
    /// Registers for invalidations, for the life of the process.
    pub fn listen() -> Definitions {
        // SAFETY: registers functions that live as long as the library, once per process.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(on_change), pg_sys::Datum::from(0));
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::AUTHOID as i32,
                Some(on_role_change),
                pg_sys::Datum::from(0),
            );
        }
        Definitions(())
    }

    /// The watches of these tables are about to be read.
    pub fn expect(&mut self, tables: impl Iterator<Item = u32>) {
        TABLES.with(|known| *known.borrow_mut() = tables.map(|oid| (oid, false)).collect());
    }

    /// What a watch names has changed, although its table has not.
    pub fn note_change(&mut self, table: u32) {
        TABLES.with(|known| known.borrow_mut().insert(table, true));
    }

    /// Whether a table has changed since.
    pub fn has_changed(&self, table: u32) -> bool {
        TABLES.with(|tables| tables.borrow().get(&table).copied().unwrap_or(false))
    }

    /// Whether any table has changed since.
    pub fn any_changed(&self) -> bool {
        TABLES.with(|tables| tables.borrow().values().any(|changed| *changed))
    }
}

/// An owner may have become a superuser.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_role_change(argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    // SAFETY: the arguments are not used.
    unsafe { on_change(argument, pg_sys::InvalidOid) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    TABLES.with(|tables| {
        // Borrowed only within this file, where no function of PostgreSQL is called: always free.
        if let Ok(mut tables) = tables.try_borrow_mut() {
            for (oid, changed) in tables.iter_mut() {
                *changed |= relation == pg_sys::InvalidOid || *oid == relation.to_u32();
            }
        }
    });
}

/// All partitions of a partitioned table, at every level; none for other tables. Takes no locks.
pub fn partitions(table: &WatchedTable) -> Vec<pg_sys::Oid> {
    if table.name.starts_with("ONLY ") {
        return Vec::new();
    }
    // SAFETY: reads the catalogs in a transaction, without locks; the list contains OIDs, is
    // allocated in the transaction's memory and not kept.
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
