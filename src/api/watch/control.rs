//! The companions of `caption.watch` that concern all rows: `unwatch`, `pause`, `resume`, `retry`,
//! `prune`.
//!
//! Called by SQL. Each one requires the rights of the table's owner.

use super::arguments::require_relation;
use super::{redefine, require_writable};
use crate::pg::latest_snapshot::LatestSnapshot;
use crate::pg::report::{refuse, spi};
use crate::pg::table::{self, BOOKKEEPING, LEDGER, TableDescription};
use crate::{hooks::enqueue, pg::identity, pg::triggers, shared};
use pgrx::prelude::*;

const IS_WATCHED: &str = "SELECT EXISTS (SELECT FROM caption.watch WHERE relation = $1)";

/// The table, if it is watched and the caller may change its watch; raises otherwise.
pub fn require_watched(relation: Option<pg_sys::Oid>) -> TableDescription {
    require_writable();
    let table = table::describe(require_relation(relation));
    table::require_ownership(&table);
    let exists: Option<bool> = {
        let _extension = identity::as_extension();
        spi(Spi::get_one_with_args(IS_WATCHED, &[table.oid.into()]))
    };
    if exists != Some(true) {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("table {} is not watched", table.name),
            None,
            Some(unwatched_hint(table.oid)),
        );
    }
    table
}

/// `caption.unwatched_hint(relation)`: what to do about a table that is not watched.
#[pg_extern(sql = false, stable, parallel_safe)]
fn unwatched_hint(relation: pg_sys::Oid) -> String {
    if let Some(from) = redefine::swapped(relation) {
        let to = table::describe(relation).name;
        let hint = redefine::move_hint(&from, &to);
        return format!("The watch of this name is on table {from}. {hint}");
    }
    if table::has_triggers(relation) {
        return "It has triggers of a watch, as in a schema-only copy. Call caption.watch()."
            .into();
    }
    "See caption.watch() and the table caption.watch.".into()
}

/// Locks the table's row in `caption.watch_state`. A worker skips the table until this transaction
/// ends.
pub fn lock_state(relation: pg_sys::Oid) {
    spi(Spi::run_with_args(
        "SELECT FROM caption.watch_state WHERE relation = $1 FOR UPDATE",
        &[relation.into()],
    ));
}

/// `caption.unwatch(relation, forget)`.
#[pg_extern(sql = false, volatile)]
fn unwatch(relation: Option<pg_sys::Oid>, forget: Option<bool>) {
    // Before the table is described: it keeps its name from here on.
    table::lock(require_relation(relation));
    let _snapshot = LatestSnapshot::push();
    let table = require_watched(relation);
    triggers::drop(table.oid, &table.name);
    remove(table.oid, forget != Some(true));
    enqueue::announce_at_commit();
}

/// Removes what is recorded about a watch.
pub fn remove(relation: pg_sys::Oid, keeps_ledger: bool) {
    let _extension = identity::as_extension();
    lock_state(relation);
    let is_kept = |name: &&str| *name == LEDGER && keeps_ledger;
    for name in BOOKKEEPING.into_iter().filter(|name| !is_kept(name)) {
        let statement = format!("DELETE FROM caption.{name} WHERE relation = $1");
        spi(Spi::run_with_args(&statement, &[relation.into()]));
    }
}

/// `caption.pause(relation)`.
#[pg_extern(sql = false, volatile)]
fn pause(relation: Option<pg_sys::Oid>) {
    set_paused(relation, true);
}

/// `caption.resume(relation)`.
#[pg_extern(sql = false, volatile)]
fn resume(relation: Option<pg_sys::Oid>) {
    set_paused(relation, false);
}

fn set_paused(relation: Option<pg_sys::Oid>, paused: bool) {
    let relation = require_watched(relation).oid;
    let _extension = identity::as_extension();
    // Waits for a write of the worker: after the commit of a pause nothing is written.
    lock_state(relation);
    spi(Spi::run_with_args(
        "UPDATE caption.watch SET paused = $2 WHERE relation = $1",
        &[relation.into(), paused.into()],
    ));
    if !paused {
        spi(Spi::run_with_args(
            "UPDATE caption.watch_state SET problem = NULL WHERE relation = $1",
            &[relation.into()],
        ));
    }
    enqueue::announce_at_commit();
}

/// Moves keys of failed and deferred rows to the queue, 200 a row. Rows with a fallback are
/// captioned again.
const REQUEUE: &str = "\
    WITH failed AS (DELETE FROM caption.failed WHERE relation = $1 RETURNING key), \
         again AS (UPDATE caption.ledger l SET recaption = 1 FROM failed f \
                    WHERE l.relation = $1 AND l.key = f.key \
                      AND jsonb_path_exists(l.outputs, '$.* ? (@.source == \"fallback\" || \
                                                             @.draft.source == \"fallback\")')), \
         deferred AS (DELETE FROM caption.deferred WHERE relation = $1 RETURNING key), \
         keys AS (SELECT key, row_number() OVER () AS number \
                    FROM (SELECT key FROM failed UNION SELECT key FROM deferred) k), \
         queued AS (INSERT INTO caption.queue (relation, keys, n) \
                    SELECT $1, jsonb_agg(key), count(*) FROM keys GROUP BY number / 200 \
                    RETURNING n) \
    SELECT coalesce(sum(n), 0)::int8 FROM queued";

/// `caption.retry(relation)`.
#[pg_extern(sql = false, volatile)]
fn retry(relation: Option<pg_sys::Oid>) -> i64 {
    shared::require_ready();
    let relation = require_watched(relation).oid;
    let _extension = identity::as_extension();
    lock_state(relation);
    let queued: Option<i64> = spi(Spi::get_one_with_args(REQUEUE, &[relation.into()]));
    enqueue::announce_at_commit();
    queued.unwrap_or(0)
}

/// `caption.prune(relation)`.
#[pg_extern(sql = false, volatile)]
fn prune(relation: Option<pg_sys::Oid>) {
    shared::require_ready();
    let relation = require_watched(relation).oid;
    let _extension = identity::as_extension();
    // A pass in progress restarts: rows that it has checked may have been deleted since.
    spi(Spi::run_with_args(
        "UPDATE caption.watch_state SET pruned_at = NULL, prune_after = NULL WHERE relation = $1",
        &[relation.into()],
    ));
    enqueue::announce_at_commit();
}
