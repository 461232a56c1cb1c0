//! Object-access hook: detects new databases, triggers and altered tables that may need a worker.
//!
//! A copy of a database with watches has work immediately. A restored dump creates the triggers of
//! a watched table last; attaching a partition creates the partition's triggers. Triggers may be
//! disabled and enabled, tables altered, and superusers demoted. Called by PostgreSQL in every
//! backend. It only records events, which `enqueue` handles at commit. Never raises; of the
//! catalogs it reads only whether an altered role was a superuser.

use crate::{hooks::enqueue, shared};
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// The hook that was installed before this one.
    static PREVIOUS: Cell<pg_sys::object_access_hook_type> = const { Cell::new(None) };
}

/// Installs the hook; in the postmaster, while preloading: backends inherit it.
pub fn init() {
    // SAFETY: a global that is changed while libraries are loaded, by one thread.
    unsafe {
        PREVIOUS.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(on_access);
    }
}

/// Not guarded: errors of the previous hook pass unchanged. A guard would replace them by an error
/// with less information.
unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub_object: i32,
    argument: *mut core::ffi::c_void,
) {
    // SAFETY: passes the arguments on; no value here would have to be dropped by a passing error.
    unsafe {
        if let Some(previous) = PREVIOUS.get() {
            previous(access, class, object, sub_object, argument);
        }
        let is_created = access == pg_sys::ObjectAccessType::OAT_POST_CREATE;
        // Most accesses are function calls, which must stay cheap.
        if is_created || access == pg_sys::ObjectAccessType::OAT_POST_ALTER {
            on_change(is_created, class, object);
        }
    }
}

/// Records an object that was created or else altered.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_change(is_created: bool, class: pg_sys::Oid, object: pg_sys::Oid) {
    // SAFETY: reads a global. Databases without the extension are skipped.
    let is_registered = || shared::database(unsafe { pg_sys::MyDatabaseId }.to_u32()).is_some();
    if is_created && class == pg_sys::DatabaseRelationId {
        enqueue::announce_database_at_commit(object.to_u32());
    } else if class == pg_sys::TriggerRelationId && is_registered() {
        enqueue::check_trigger_at_commit(object, is_created);
    } else if !is_created && class == pg_sys::RelationRelationId && is_registered() {
        // A table that could not be filled because of its columns, key or owner may be valid again.
        enqueue::check_owner_at_commit(object);
    } else if !is_created && class == pg_sys::AuthIdRelationId {
        // SAFETY: a look-up of an existing role, which still finds it as it was before.
        if shared::preloaded() && unsafe { pg_sys::superuser_arg(object) } {
            enqueue::check_role_at_commit(object);
        }
    }
}
