//! `caption.watch`: everything is validated before anything is changed.
//!
//! Called by SQL. `arguments` checks the values, `plan` checks them against the catalogs,
//! `register` records the watch; `control` has the companions `unwatch`, `pause`, `resume`,
//! `retry` and `prune`; `recaption` and `withdraw` concern rows of a `selection`.

mod arguments;
mod backfill;
mod changes;
mod condition;
mod control;
mod plan;
mod recaption;
mod register;
mod selection;
mod withdraw;

use crate::pg::condition::ConditionSource;
use crate::pg::guc_scope::{GucScope, current};
use crate::pg::latest_snapshot::LatestSnapshot;
use crate::{hooks::enqueue, pg::table, pg::triggers, shared};
use arguments::{RawArguments, WatchArguments, WatchOptions};
use pgrx::AnyElement;
use pgrx::prelude::*;
use plan::WatchPlan;
use std::ffi::{CStr, CString};

/// `caption.watch(…)`.
#[pg_extern(sql = false, volatile)]
#[allow(clippy::too_many_arguments)] // The arguments of the SQL function.
fn watch(
    relation: Option<pg_sys::Oid>,
    image: Option<&str>,
    fills: Option<AnyElement>,
    max_tokens: Option<i32>,
    overwrite: Option<bool>,
    on_replica: Option<bool>,
    base_url: Option<&str>,
    condition: Option<&str>,
    replace: Option<bool>,
) {
    shared::require_ready();
    let (pinned, caller_path) = pin_path();
    require_writable();
    let arguments = WatchArguments::from(RawArguments {
        relation,
        image,
        fills,
        max_tokens,
        overwrite,
        on_replica,
        base_url,
        condition,
        replace,
    });
    // Before the table is described: it keeps its name, columns and owner from here on.
    table::lock(arguments.relation);
    let _snapshot = LatestSnapshot::push();
    let before = register::options(arguments.relation, false);
    let kept = before.clone().map(|before| without_dropped(arguments.relation, before));
    let mut options = arguments.options(kept);
    let source = match arguments.has_condition() {
        true => ConditionSource::User { search_path: &caller_path },
        false => ConditionSource::Stored,
    };
    let plan = WatchPlan::new(arguments.relation, &options, source);
    triggers::drop(plan.table.oid, &plan.table.name);
    triggers::create(&plan.triggers());
    if let Some(condition) = &plan.condition {
        triggers::depend_on_condition(plan.table.oid, condition);
    }
    register::register(&plan);
    enqueue::announce_at_commit();
    let (name, condition) = (plan.table.name.clone(), plan.condition.map(|found| found.text));
    if let Some(before) = before {
        options.condition = condition;
        changes::report(&name, &before, &options);
    }
    drop(pinned);
}

/// Pins the `search_path` until the scope ends, and returns the caller's. A condition is looked up
/// in the caller's path, everything else in the pinned one.
fn pin_path() -> (GucScope, CString) {
    let caller_path = current(c"search_path", CStr::to_owned);
    let pinned = GucScope::sealed();
    pinned.set(c"search_path", c"pg_catalog, pg_temp");
    (pinned, caller_path)
}

/// Leaves out the fills of columns that the table no longer has.
fn without_dropped(relation: pg_sys::Oid, mut options: WatchOptions) -> WatchOptions {
    options.fills.retain(|(column, _)| table::has_column(relation, column));
    options
}

/// Raises PostgreSQL's own error in a read-only transaction, hence on a standby.
fn require_writable() {
    // SAFETY: checks the state of the transaction; the name is a static C string.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"a change of a watch".as_ptr()) };
}
