//! The watched tables of a database, checked against the catalogs each time they are read.

use super::checks::{CheckedWatch, UncheckedWatch, check, is_superuser};
use super::conditions::{CheckedConditions, OwnerCode};
use super::transaction::{attempt, spi};
use super::{prune, rescan, thresholds};
use crate::pg::backfill_lock;
use crate::pg::table::BOOKKEEPING;
use crate::shared;
use pg_caption_queue::{MAX_CONTEXT_COLUMNS, WatchedTable};
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

/// Queue rows of transactions that began before their table was unwatched.
const CLEAN_QUEUE: &str = "DELETE FROM caption.queue q WHERE NOT EXISTS ( \
    SELECT FROM caption.watch w WHERE w.relation::oid = q.relation)";

/// In a copy of a database backfills restart, since the transactions that queued rows are unknown.
const ADOPT: &str = "UPDATE caption.watch_state t \
       SET database = d.oid, \
           backfill_run = t.backfill_run + CASE WHEN t.database IS NULL THEN 0 ELSE 1 END, \
           backfilled = CASE WHEN t.database IS NULL THEN t.backfilled ELSE 0 END, \
           backfill_after = CASE WHEN t.database IS NULL THEN t.backfill_after END, \
           backfill_done = t.backfill_done AND t.database IS NULL \
      FROM pg_catalog.pg_database d \
     WHERE d.datname = current_database() \
       AND t.relation = ANY (ARRAY( \
           SELECT o.relation FROM caption.watch_state o \
            WHERE o.database IS DISTINCT FROM d.oid \
              FOR NO KEY UPDATE SKIP LOCKED))";

/// Through JSON, a time has the same text whatever DateStyle is set.
const WATCHES: &str = "SELECT w.relation::oid, \
           format('%s%I.%I', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, \
                  n.nspname, c.relname), \
           c.relowner, w.image::text, w.fills, w.keys::text[], w.max_tokens, w.overwrite, \
           w.paused, t.backfill_after::text, coalesce(t.backfill_done, false), \
           coalesce(t.backfill_run, 0), to_jsonb(t.recaption_before)#>>'{}', \
           (extract(epoch FROM w.superuser_since) * 1000)::int8, w.base_url, \
           w.condition, w.backfill, w.batch, w.xmin::text, w.sign, \
           w.context::text[], w.follow_context, w.blank = 'keep', w.review \
      FROM caption.watch w \
      JOIN pg_catalog.pg_class c ON c.oid = w.relation \
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
      LEFT JOIN caption.watch_state t ON t.relation = w.relation";

const ADD_STATE: &str = "INSERT INTO caption.watch_state (relation) \
    SELECT $1 WHERE NOT EXISTS (SELECT FROM caption.watch_state WHERE relation = $1) \
    ON CONFLICT DO NOTHING RETURNING relation";

/// A transaction that locks the row changes the watch, and wakes the worker at commit.
const SET_PROBLEM: &str = "UPDATE caption.watch_state SET problem = $2 WHERE relation = ( \
           SELECT t.relation FROM caption.watch_state t \
            WHERE t.relation = $1 AND t.problem IS DISTINCT FROM $2 \
              FOR NO KEY UPDATE SKIP LOCKED) \
    RETURNING relation";

/// Whether the extension is installed in this database.
pub fn installed() -> bool {
    // SAFETY: a catalog look-up in a transaction.
    unsafe { pg_sys::get_extension_oid(c"pg_caption".as_ptr(), true) != pg_sys::InvalidOid }
}

/// Removes bookkeeping of dropped tables, and failures beyond their retention. Locked rows stay
/// until the next time.
pub fn clean() {
    let minutes = crate::settings::retention_minutes();
    let of_dropped_tables = BOOKKEEPING.map(|table| {
        format!(
            "DELETE FROM caption.{table} x WHERE NOT EXISTS ( \
                    SELECT FROM pg_catalog.pg_class c \
                     WHERE c.oid OPERATOR(pg_catalog.=) x.relation::pg_catalog.oid)"
        )
    });
    let old_failures = format!(
        "DELETE FROM caption.failed WHERE at < pg_catalog.clock_timestamp() \
            - pg_catalog.make_interval(mins => {minutes})"
    );
    for statement in of_dropped_tables.into_iter().chain([CLEAN_QUEUE.into(), old_failures]) {
        let Err(raised) = attempt(|| spi(Spi::run(&statement))) else { continue };
        // The extension was just dropped, with everything.
        if raised.code == PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE {
            return;
        }
        if raised.code != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE {
            pgrx::log!(
                "pg_caption: could not remove bookkeeping of dropped tables or old failures: {}",
                raised.message
            );
        }
    }
}

/// Prepares reading the watches: restarts backfills where rows may be missing from the queue.
/// Returns the watched tables.
pub fn begin() -> Vec<u32> {
    pause_abandoned();
    spi(Spi::run(ADOPT));
    rescan::restart_backfills();
    thresholds::judge_again();
    let watched = "SELECT w.relation::oid FROM caption.watch w";
    spi(Spi::connect(|client| {
        client
            .select(watched, None, &[])?
            .map(|row| Ok(row.get::<pg_sys::Oid>(1)?.map_or(0, |oid| oid.to_u32())))
            .collect()
    }))
}

const RUNNING_BACKFILLS: &str =
    "SELECT array_agg(w.relation::oid) FROM caption.watch w WHERE w.backfill AND NOT w.paused";

/// A transaction that locks the row changes or ends the backfill, and wakes the worker at commit.
const PAUSE: &str = "UPDATE caption.watch SET paused = true WHERE relation::oid = ( \
    SELECT w.relation::oid FROM caption.watch w \
     WHERE w.relation::oid = $1 AND w.backfill FOR NO KEY UPDATE SKIP LOCKED)";

/// Pauses the backfills whose caller has left.
fn pause_abandoned() {
    let running: Option<Vec<pg_sys::Oid>> = spi(Spi::get_one(RUNNING_BACKFILLS));
    for relation in running.into_iter().flatten() {
        if !backfill_lock::is_taken(relation) {
            spi(Spi::run_with_args(PAUSE, &[relation.into()]));
        }
    }
}

/// All watches of this database. A watch that fails a check is left out, with the reason in its
/// state.
pub fn load(conditions: &mut CheckedConditions, code: &mut OwnerCode<'_>) -> Vec<WatchedTable> {
    let mut watched = Vec::new();
    for (oid, mut watch) in read() {
        forget_superuser(oid, &mut watch);
        // An open transaction may be adding or removing the row: this table waits for its end,
        // others do not.
        let added = attempt(|| add_state(oid));
        if let Err(raised) = added {
            pgrx::debug1!("pg_caption: {} waits: {}", watch.watched.name, raised.message);
        }
        match check(oid, &watch) {
            Ok(CheckedWatch { fills, keys, holds_pictures }) => {
                let url = quote_identifier(&watch.url);
                let table = WatchedTable { url, holds_pictures, fills, keys, ..watch.watched };
                if let Err(problem) = conditions.check_early(&table, code) {
                    if is_current(oid, &watch.version) {
                        stop(oid, &table.name, problem);
                    }
                    continue;
                }
                // Unreadable rows stay the problem until the stopped backfill has read them.
                if table.backfill_done {
                    set_problem(oid, None);
                }
                watched.push(table);
            }
            Err(problem) if is_current(oid, &watch.version) => {
                stop(oid, &watch.watched.name, problem)
            }
            // Its transaction wakes this worker again.
            Err(_) => {}
        }
    }
    watched
}

/// Whether a watch has the version that was read. Otherwise its table, which is read later, was
/// altered together with it, and the two do not match.
fn is_current(relation: pg_sys::Oid, read: &Option<String>) -> bool {
    let version = "SELECT w.xmin::text FROM caption.watch w WHERE w.relation = $1";
    let version = spi(Spi::connect_mut(|client| {
        match client.update(version, Some(1), &[relation.into()])?.next() {
            Some(row) => row.get::<String>(1),
            None => Ok(None),
        }
    }));
    version == *read
}

/// Adds the state of a watch without one, which comes from a dump. Its ledger does, too, perhaps
/// before the rows: the first pass of pruning is a day away.
fn add_state(relation: pg_sys::Oid) {
    let is_new = spi(Spi::connect_mut(|client| {
        let rows = client.update(ADD_STATE, None, &[relation.into()])?;
        Ok::<_, pgrx::spi::Error>(!rows.is_empty())
    }));
    if is_new {
        prune::note_checked(relation);
    }
}

/// A superuser's watch counts only while the table belongs to superusers. Later it has to be
/// confirmed, since another role may have added code meanwhile.
fn forget_superuser(relation: pg_sys::Oid, watch: &mut UncheckedWatch) {
    let Some(at) = watch.by_superuser else { return };
    let owner = watch.watched.owner;
    if is_superuser(owner) && !shared::was_demoted_since(owner, at) {
        return;
    }
    watch.by_superuser = None;
    let statement = "UPDATE caption.watch SET superuser_since = NULL WHERE relation = $1";
    // Where another transaction has locked it, the next reader of the watches removes it.
    if let Err(raised) = attempt(|| spi(Spi::run_with_args(statement, &[relation.into()]))) {
        pgrx::debug1!("pg_caption: {} waits: {}", watch.watched.name, raised.message);
    }
}

fn read() -> Vec<(pg_sys::Oid, UncheckedWatch)> {
    spi(Spi::connect(|client| {
        let rows = client.select(WATCHES, None, &[])?;
        rows.map(|row| {
            let relation = row.get(1)?.unwrap_or(pg_sys::InvalidOid);
            let watch = UncheckedWatch {
                url: row.get(4)?.unwrap_or_default(),
                fills: row.get::<pgrx::JsonB>(5)?.map(|json| json.0).unwrap_or_default(),
                max_tokens: row.get::<i32>(7)?.unwrap_or(64) as u32,
                keys: row.get(6)?.unwrap_or_default(),
                by_superuser: row.get(14)?,
                version: row.get(19)?,
                watched: WatchedTable {
                    oid: relation.to_u32(),
                    name: row.get(2)?.unwrap_or_default(),
                    owner: row.get::<pg_sys::Oid>(3)?.unwrap_or(pg_sys::InvalidOid).to_u32(),
                    url: String::new(),
                    base_url: row.get(15)?,
                    condition: row.get(16)?,
                    holds_pictures: false,
                    sign: row.get(20)?,
                    context: context(row.get(21)?),
                    follow_context: row.get(22)?.unwrap_or(false),
                    keeps_blank: row.get(23)?.unwrap_or(false),
                    fills: Vec::new(),
                    keys: Vec::new(),
                    overwrite: row.get(8)?.unwrap_or(false),
                    review: row.get(24)?.unwrap_or(false),
                    has_triggers: !row.get(17)?.unwrap_or(false),
                    batch: row.get::<i32>(18)?.map(|batch| batch.max(1) as usize),
                    paused: row.get(9)?.unwrap_or(false),
                    backfill_after: row.get(10)?,
                    backfill_done: row.get(11)?.unwrap_or(false),
                    backfill_run: row.get(12)?.unwrap_or(0),
                    recaption_before: row.get(13)?,
                },
            };
            Ok((relation, watch))
        })
        .collect::<Result<_, pgrx::spi::Error>>()
    }))
}

/// A restored dump may hold any number of columns.
fn context(columns: Option<Vec<String>>) -> Vec<String> {
    columns.into_iter().flatten().take(MAX_CONTEXT_COLUMNS).collect()
}

/// Notes why a table is not being filled, and logs it if the reason is new.
pub fn stop(relation: pg_sys::Oid, name: &str, problem: String) {
    if set_problem(relation, Some(problem.clone())) {
        pgrx::log!(
            "pg_caption: table {} is not being filled: {problem}",
            name.trim_start_matches("ONLY ")
        );
    }
}

/// Notes why a table is not being filled. Returns whether the reason is new.
pub fn set_problem(relation: pg_sys::Oid, problem: Option<String>) -> bool {
    spi(Spi::connect_mut(|client| {
        let rows = client.update(SET_PROBLEM, None, &[relation.into(), problem.into()])?;
        Ok::<_, pgrx::spi::Error>(!rows.is_empty())
    }))
}
