//! `caption.watch`: everything is validated before anything is changed.
//!
//! Called by SQL. `arguments` checks the values, `plan` checks them against the catalogs,
//! `register` records the watch; `control` has the companions `unwatch`, `pause`, `resume`,
//! `retry` and `prune`; `recaption` and `withdraw` concern rows of a `selection`; `review`
//! has the drafts of a watch; `redefine` keeps it in step with its table, and `relocate` moves it
//! to another one. `estimate` and `preview` say what a watch would do.

mod arguments;
mod backfill;
mod changes;
mod condition;
pub mod context;
mod control;
mod dry_run;
mod estimate;
mod image_column;
mod plan;
mod preview;
mod recaption;
pub mod redefine;
mod register;
mod relocate;
mod remote_notice;
pub mod review;
mod selection;
mod sign;
mod thresholds;
mod withdraw;

use crate::pg::condition::ConditionSource;
use crate::pg::guc_scope::{GucScope, current};
use crate::pg::latest_snapshot::LatestSnapshot;
use crate::pg::report::{notice, warn};
use crate::{hooks::enqueue, pg::table, shared};
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
    sign: Option<pg_sys::Oid>,
    context: Option<AnyElement>,
    follow_context: Option<bool>,
    blank: Option<&str>,
    review: Option<bool>,
    condition: Option<&str>,
    notify: Option<&str>,
    replace: Option<bool>,
) {
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
        sign,
        context,
        follow_context,
        blank,
        review,
        condition,
        notify,
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
    plan.replace_triggers();
    let swapped = redefine::swapped(plan.table.oid);
    register::register(&plan);
    if let Some(before) = &before {
        thresholds::judge_again(plan.table.oid, &before.fills, &options.fills);
    }
    enqueue::announce_at_commit();
    let (relation, name) = (plan.table.oid, plan.table.name.clone());
    let condition = plan.condition.map(|found| found.text);
    if let Some(before) = before {
        options.condition = condition;
        changes::report(&name, &before, &options);
    } else if let Some(from) = swapped {
        notice(
            format!("another table was watched under the name {name}: {from}"),
            Some("What that watch has written counts as text of users here.".into()),
            None,
        );
    }
    if options.review {
        review::announce(&name);
    }
    warn_about_effects(relation, &name, options.on_replica);
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

/// Warns where the watch has no effect now, or less than expected.
fn warn_about_effects(relation: pg_sys::Oid, table: &str, on_replica: bool) {
    if !shared::preloaded() {
        warn(
            format!("table {table} is watched, but pg_caption is not running"),
            Some("The library is not in shared_preload_libraries.".into()),
            Some("Rows are queued meanwhile, and filled once the server preloads it.".into()),
        );
    }
    remote_notice::report();
    if !on_replica && table::is_subscribed(relation) {
        warn(
            format!("rows that logical replication applies to table {table} are not filled"),
            Some("The table belongs to a subscription.".into()),
            Some(
                "Call caption.watch() with on_replica => true, unless the publisher fills it."
                    .into(),
            ),
        );
    }
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
