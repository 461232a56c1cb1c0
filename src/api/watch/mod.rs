//! `caption.watch`: everything is validated before anything is changed.
//!
//! Called by SQL. `arguments` checks the values, `plan` checks them against the catalogs,
//! `register` records the watch; `control` has the companions `unwatch`, `pause`, `resume`,
//! `retry`, `recaption` and `prune`.

mod arguments;
mod control;
mod plan;
mod register;

use crate::pg::latest_snapshot::LatestSnapshot;
use crate::{hooks::enqueue, pg::table, pg::triggers, shared};
use arguments::{RawArguments, WatchArguments};
use pgrx::AnyElement;
use pgrx::prelude::*;
use plan::WatchPlan;
use std::ffi::CStr;

/// `caption.watch(…)`.
#[pg_extern(sql = false, volatile)]
fn watch(
    relation: Option<pg_sys::Oid>,
    image_url: Option<&CStr>,
    fills: Option<AnyElement>,
    max_tokens: Option<i32>,
    overwrite: Option<bool>,
    on_replica: Option<bool>,
) {
    shared::require_ready();
    require_writable();
    let raw = RawArguments { relation, image_url, fills, max_tokens, overwrite, on_replica };
    let arguments = WatchArguments::from(raw);
    // Before the table is described: it keeps its name, columns and owner from here on.
    table::lock(arguments.relation);
    let _snapshot = LatestSnapshot::push();
    let plan = WatchPlan::new(&arguments);
    triggers::drop(plan.table.oid, &plan.table.name);
    triggers::create(&plan.triggers());
    register::register(&plan);
    enqueue::announce_at_commit();
}

/// Raises PostgreSQL's own error in a read-only transaction, hence on a standby.
fn require_writable() {
    // SAFETY: checks the state of the transaction; the name is a static C string.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"a change of a watch".as_ptr()) };
}
