//! The functions behind `caption.backfill`: a watch without triggers that ends by itself.
//!
//! The worker fills the table, as it does for every watch, while the session that called the
//! procedure holds the lock of `pg::backfill_lock`. Called by the procedure; each function requires
//! the rights of the table's owner.

use super::arguments::{RawArguments, WatchArguments, WatchOptions, require_relation};
use super::plan::WatchPlan;
use super::{pin_path, register, require_writable, without_dropped};
use crate::hooks::enqueue;
use crate::pg::condition::ConditionSource;
use crate::pg::report::{optional, refuse, spi};
use crate::pg::table::{self, TableDescription};
use crate::pg::{backfill_lock, identity};
use crate::shared;
use pgrx::AnyElement;
use pgrx::prelude::*;

/// `caption.begin_backfill(…)`: registers the backfill, or resumes it. `false`: the table is
/// watched, and that watch fills it.
#[pg_extern(sql = false, volatile)]
fn begin_backfill(
    relation: Option<pg_sys::Oid>,
    image: Option<&str>,
    fills: Option<AnyElement>,
    condition: Option<&str>,
    batch: Option<i32>,
) -> bool {
    shared::require_ready();
    let (pinned, caller_path) = pin_path();
    require_writable();
    require_batch(batch);
    let arguments = WatchArguments::from(RawArguments {
        relation,
        image,
        fills,
        condition,
        replace: Some(true),
        ..RawArguments::default()
    });
    let table = table::describe(arguments.relation);
    table::require_ownership(&table);
    if let Some(watch) = register::options(table.oid, false) {
        let is_other = arguments.options(Some(watch.clone())) != watch || batch.is_some();
        refuse_or_wait(&table, is_other);
        return false;
    }
    if !backfill_lock::take(table.oid) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!("another session runs a backfill of table {}", table.name),
            None,
            Some("See caption.progress, or CALL caption.wait(…) to wait for it.".into()),
        );
    }
    // The table keeps its name, columns and owner until the backfill is registered. Its writers are
    // not in the way: no trigger is created.
    // SAFETY: a lock request in a transaction, which fails on no table.
    unsafe { pg_sys::LockRelationOid(table.oid, pg_sys::AccessShareLock as i32) };
    let before = register::options(table.oid, true);
    let kept = before.clone().map(|before| without_dropped(table.oid, before));
    let options = arguments.options(kept);
    let source = match arguments.has_condition() {
        true => ConditionSource::User { search_path: &caller_path },
        false => ConditionSource::Stored,
    };
    let plan = WatchPlan::new(table.oid, &options, source);
    register_or_resume(&plan, before, batch);
    enqueue::announce_at_commit();
    drop(pinned);
    true
}

fn require_batch(batch: Option<i32>) {
    if batch.is_some_and(|batch| batch < 1) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "batch must be positive",
            None,
            Some("It is the number of rows in progress; NULL leaves it to the worker.".into()),
        );
    }
}

/// A watched table is filled already.
fn refuse_or_wait(table: &TableDescription, is_other: bool) {
    let name = &table.name;
    if is_other {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {name} is watched with other options"),
            Some("A watch fills all its rows, so no backfill of its own is needed.".into()),
            Some("Change the watch with caption.watch(), or end it with caption.unwatch().".into()),
        );
    }
    pgrx::notice!("table {name} is watched: this call waits until the watch has filled it");
}

/// After an interrupted call with the same options the backfill continues where it was.
fn register_or_resume(plan: &WatchPlan<'_>, before: Option<WatchOptions>, batch: Option<i32>) {
    let relation = plan.table.oid;
    let is_new = before.is_none();
    let condition = plan.condition.as_ref().map(|condition| condition.text.clone());
    if before == Some(WatchOptions { condition, ..plan.options.clone() }) {
        pgrx::notice!("the backfill of table {} continues", plan.table.name);
    } else {
        register::register(plan);
    }
    let _extension = identity::as_extension();
    spi(Spi::run_with_args(
        "UPDATE caption.watch \
            SET backfill = true, paused = false, batch = coalesce($2, batch) WHERE relation = $1",
        &[relation.into(), batch.into()],
    ));
    spi(Spi::run_with_args(
        "UPDATE caption.watch_state SET problem = NULL WHERE relation = $1",
        &[relation.into()],
    ));
    if is_new {
        // Those of an earlier backfill: its rows are tried again.
        spi(Spi::run_with_args(
            "DELETE FROM caption.failed WHERE relation = $1",
            &[relation.into()],
        ));
    }
}

/// What is left to do; no row: no backfill of this table is registered.
const IS_FINISHED: &str = "\
    SELECT caption.is_idle(w.relation) FROM caption.watch w WHERE w.relation = $1 AND w.backfill";

/// Bookkeeping that ends with a backfill. Failures stay to be read, and the ledger for a later
/// watch.
const ENDED: [&str; 4] = ["queue", "deferred", "watch_state", "watch"];

/// `caption.end_backfill(relation)`: ends a backfill that is finished and pauses another. Returns
/// whether it is finished; NULL: it was ended by another session, or is a watch now.
#[pg_extern(sql = false, volatile)]
fn end_backfill(relation: Option<pg_sys::Oid>) -> Option<bool> {
    let relation = require_relation(relation);
    if !exists(relation) {
        return None;
    }
    table::require_ownership(&table::describe(relation));
    let _extension = identity::as_extension();
    spi(Spi::run_with_args(
        "SELECT FROM caption.watch_state WHERE relation = $1 FOR UPDATE",
        &[relation.into()],
    ));
    let is_finished: Option<bool> =
        optional(Spi::get_one_with_args(IS_FINISHED, &[relation.into()]));
    match is_finished {
        Some(true) => ENDED.iter().for_each(|name| {
            let statement = format!("DELETE FROM caption.{name} WHERE relation = $1");
            spi(Spi::run_with_args(&statement, &[relation.into()]));
        }),
        Some(false) => spi(Spi::run_with_args(
            "UPDATE caption.watch SET paused = true WHERE relation = $1",
            &[relation.into()],
        )),
        None => {}
    }
    backfill_lock::release_at_commit();
    enqueue::announce_at_commit();
    is_finished
}

fn exists(relation: pg_sys::Oid) -> bool {
    let found: Option<bool> = optional(Spi::get_one_with_args(
        "SELECT true FROM pg_class WHERE oid = $1",
        &[relation.into()],
    ));
    found == Some(true)
}
