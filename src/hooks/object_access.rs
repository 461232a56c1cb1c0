//! Notices what is created where nobody would tell us: databases (a copy of one with watches has
//! work at once) and triggers (those of a watched table come last when a dump is restored, those of
//! a partition with its attachment), triggers that are switched off and on, and tables that are
//! altered. Called by PostgreSQL in every backend; only remembers, for `enqueue` to look at and
//! announce at commit. Never raises, never reads a catalog.

use crate::{hooks::enqueue, shared};
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// Who was asked before us.
    static BEFORE: Cell<pg_sys::object_access_hook_type> = const { Cell::new(None) };
}

/// Puts us into the chain; in the postmaster, while preloading: backends inherit it.
pub fn init() {
    // SAFETY: a global that is changed while libraries are loaded, by one thread.
    unsafe {
        BEFORE.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(on_access);
    }
}

/// Not guarded: what those before us raise passes as it is. A guard would raise an error of its own
/// in its place, with less in it.
unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub_object: i32,
    argument: *mut core::ffi::c_void,
) {
    // SAFETY: hands on what we were given; there is nothing here that an error which passes would
    // have to drop.
    unsafe {
        if let Some(before) = BEFORE.get() {
            before(access, class, object, sub_object, argument);
        }
        let created = access == pg_sys::ObjectAccessType::OAT_POST_CREATE;
        // Most accesses are calls of functions.
        if created || access == pg_sys::ObjectAccessType::OAT_POST_ALTER {
            look(created, class, object);
        }
    }
}

/// At what was created, or else altered.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look(created: bool, class: pg_sys::Oid, object: pg_sys::Oid) {
    // SAFETY: reads a global. Most databases have no watch, and nothing to do with what happens in
    // them.
    let is_known = || shared::database(unsafe { pg_sys::MyDatabaseId }.to_u32()).is_some();
    if created && class == pg_sys::DatabaseRelationId {
        enqueue::announce_database_at_commit(object.to_u32());
    } else if class == pg_sys::TriggerRelationId && is_known() {
        enqueue::look_at_trigger_at_commit(object, created);
    } else if !created && class == pg_sys::RelationRelationId && is_known() {
        // A table that is not being filled because of its columns, key or owner may be whole again.
        enqueue::announce_at_commit();
    }
}
