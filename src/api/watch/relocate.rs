//! `caption.move_watch`: a watch with all that is recorded about it moves to another table, which
//! has taken the place of the watched one.
//!
//! Called by SQL. Requires the rights of the owners of both tables.

use super::arguments::require_value;
use super::plan::WatchPlan;
use super::{control, register, require_writable};
use crate::hooks::enqueue;
use crate::pg::condition::ConditionSource;
use crate::pg::latest_snapshot::LatestSnapshot;
use crate::pg::report::{refuse, select_one, spi};
use crate::pg::table::{self, BOOKKEEPING, LEDGER};
use crate::pg::{identity, triggers};
use pgrx::prelude::*;

const RELATION: &str = "It must be an existing table.";

/// `caption.move_watch(from_relation, to_relation)`.
#[pg_extern(sql = false, volatile)]
fn move_watch(from_relation: Option<pg_sys::Oid>, to_relation: Option<pg_sys::Oid>) {
    require_writable();
    let from = require_value(from_relation, "from_relation", RELATION);
    let to = require_value(to_relation, "to_relation", RELATION);
    table::lock(from);
    table::lock(to);
    let _snapshot = LatestSnapshot::push();
    let source = control::require_watched(Some(from));
    require_unwatched(to);
    let options = register::options(from, false).unwrap_or_else(|| refuse_backfill(&source.name));
    let plan = WatchPlan::new(to, &options, ConditionSource::Stored);
    require_same_key(&plan, &register::keys(from));
    triggers::drop(from, &source.name);
    plan.replace_triggers();
    let is_paused = is_paused(from);
    move_bookkeeping(from, to);
    register::register(&plan);
    if is_paused {
        set_paused(to);
    }
    enqueue::announce_at_commit();
    pgrx::notice!("the watch of table {} moved to {}", source.name, plan.table.name);
}

fn refuse_backfill(table: &str) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {table} has a backfill and no watch"),
        None,
        Some("CALL caption.backfill(…) for the other table.".into()),
    )
}

fn require_unwatched(relation: pg_sys::Oid) {
    if register::options(relation, false).is_some() || register::options(relation, true).is_some() {
        let name = table::describe(relation).name;
        refuse(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("table {name} is watched already"),
            None,
            Some(format!(
                "To replace its watch, first run: SELECT caption.unwatch('{}').",
                name.replace('\'', "''")
            )),
        );
    }
}

/// Raises if the ledger's keys would not find the rows of the new table.
fn require_same_key(plan: &WatchPlan<'_>, keys: &[String]) {
    if plan.keys != keys {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} has another key than the watch", plan.table.name),
            Some(format!(
                "Its key is ({}), that of the watch ({}).",
                plan.keys.join(", "),
                keys.join(", ")
            )),
            Some("Call caption.unwatch() for the one table, caption.watch() for the other.".into()),
        );
    }
}

fn is_paused(relation: pg_sys::Oid) -> bool {
    let _extension = identity::as_extension();
    let paused = "SELECT w.paused FROM caption.watch w WHERE w.relation = $1";
    select_one(paused, &[relation.into()]) == Some(true)
}

fn set_paused(relation: pg_sys::Oid) {
    let _extension = identity::as_extension();
    spi(Spi::run_with_args(
        "UPDATE caption.watch SET paused = true WHERE relation = $1",
        &[relation.into()],
    ));
}

fn move_bookkeeping(from: pg_sys::Oid, to: pg_sys::Oid) {
    let _extension = identity::as_extension();
    control::lock_state(from);
    // That of an earlier watch of the other table.
    let forget = format!("DELETE FROM caption.{LEDGER} WHERE relation = $1");
    spi(Spi::run_with_args(&forget, &[to.into()]));
    for name in BOOKKEEPING {
        let statement = format!("UPDATE caption.{name} SET relation = $2 WHERE relation = $1");
        spi(Spi::run_with_args(&statement, &[from.into(), to.into()]));
    }
}
