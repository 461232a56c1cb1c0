//! The SQL of prune passes: which are due, their positions, their keys, and the removal of obsolete
//! bookkeeping. `pg_caption_queue` decides what is obsolete and when a batch runs. Rows are read as
//! their owner (`examine`), never written.

use super::examine;
use super::transaction::{attempt, attempt_in_time, oids, spi};
use pg_caption_queue::{
    PruneCursor, PrunePage, PruneStep, PruneTarget, ReadError, RowsRead, WatchedTable,
};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;

/// Facts about a table `t.relation` from catalogs and statistics, which cost its writers nothing.
/// `files` changes when the table or a partition is truncated, rewritten, attached or detached;
/// `deleted` counts all deleted rows; `live` estimates the rows. Without `pg_partition_tree`, which
/// waits for locks.
const TABLE_FACTS: &str = "(WITH RECURSIVE part AS ( \
           SELECT t.relation AS oid \
           UNION ALL \
           SELECT i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid) \
    SELECT hashtextextended(string_agg(c.relfilenode::text, ' ' ORDER BY c.oid), 0) AS files, \
           coalesce(sum(pg_stat_get_tuples_deleted(c.oid)), 0)::int8 AS deleted, \
           coalesce(sum(pg_stat_get_live_tuples(c.oid)), 0)::int8 AS live \
      FROM pg_catalog.pg_class c \
     WHERE c.oid = ANY (ARRAY(SELECT part.oid FROM part))) AS f";

/// Tables whose pass is due: a day after the last one, on request, if unfinished, after a change of
/// the table's files, or once a fifth of the table was deleted (as autovacuum counts; at least a
/// thousand rows).
pub fn due(tables: &[u32]) -> Vec<u32> {
    let due = format!(
        "SELECT t.relation FROM caption.watch_state t CROSS JOIN LATERAL {TABLE_FACTS} \
          WHERE t.relation = ANY ($1) \
            AND (t.pruned_at IS NULL \
             OR t.pruned_at < clock_timestamp() - interval '1 day' \
             OR t.prune_after IS NOT NULL \
             OR t.pruned_files IS DISTINCT FROM f.files \
             OR f.deleted - t.pruned_deleted > 1000 + f.live / 5)"
    );
    spi(Spi::connect(|client| {
        let rows = client.select(&due, None, &[oids(tables).into()])?;
        rows.map(|row| {
            Ok::<_, pgrx::spi::Error>(row.get::<pg_sys::Oid>(1)?.map_or(0, |oid| oid.to_u32()))
        })
        .collect()
    }))
}

/// Counts a table as checked now.
pub fn note_checked(relation: pg_sys::Oid) {
    let note = format!(
        "UPDATE caption.watch_state t \
            SET pruned_at = clock_timestamp(), \
                (pruned_files, pruned_deleted) = (SELECT f.files, f.deleted FROM {TABLE_FACTS}) \
          WHERE t.relation = $1"
    );
    spi(Spi::run_with_args(&note, &[relation.into()]));
}

/// The position of the pass of a table. A TRUNCATE since the last batch restarts it.
fn cursor(table: &WatchedTable) -> PruneCursor {
    let position = format!(
        "SELECT t.prune_after FROM caption.watch_state t \
          WHERE t.relation = $1 AND t.pruned_files = (SELECT f.files FROM {TABLE_FACTS})"
    );
    let after = spi(Spi::connect_mut(|client| {
        match client.update(&position, Some(1), &[pg_sys::Oid::from(table.oid).into()])?.next() {
            Some(row) => row.get::<JsonB>(1),
            None => Ok(None),
        }
    }));
    after.map_or_else(PruneCursor::start, |after| PruneCursor::from_json(&after.0))
}

/// The next keys of the pass; the caller has locked the table and its watch.
pub fn page(table: &WatchedTable, limit: usize) -> PrunePage {
    let PruneCursor { target, after } = cursor(table);
    let keys = format!(
        "SELECT k.key::text FROM caption.{} k \
          WHERE k.relation = $1 AND k.key > $2 ORDER BY k.key LIMIT $3",
        target.name()
    );
    // No key is below an empty array.
    let after =
        after.and_then(|key| serde_json::from_str(&key).ok()).unwrap_or(Value::Array(Vec::new()));
    let arguments =
        [pg_sys::Oid::from(table.oid).into(), JsonB(after).into(), (limit as i64).into()];
    let keys = spi(Spi::connect(|client| {
        let rows = client.select(&keys, None, &arguments)?;
        rows.map(|row| Ok::<_, pgrx::spi::Error>(row.get::<String>(1)?.unwrap_or_default()))
            .collect()
    }));
    PrunePage { target, keys }
}

/// The rows of some keys. A locked row exists; a row that its owner cannot read may exist.
///
/// # Errors
/// See [`ReadError`].
pub fn existing_rows(table: &WatchedTable, keys: &[String]) -> Result<RowsRead, ReadError> {
    let mut read = RowsRead::default();
    let mut parts = vec![keys];
    while let Some(part) = parts.pop().filter(|part| !part.is_empty()) {
        match attempt_in_time(|| examine::rows(table, part)) {
            Ok(rows) => read.rows.extend(rows),
            Err(raised) if raised.is_passing() => return Err(ReadError::Busy),
            // No row can be read: row-level security that binds the owner, a revoked privilege.
            Err(_)
                if part.len() == keys.len() && attempt(|| examine::rows(table, &[])).is_err() =>
            {
                return Err(ReadError::Stopped);
            }
            Err(_) if part.len() == 1 => read.unreadable.extend(part.iter().cloned()),
            Err(_) => {
                let (left, right) = part.split_at(part.len() / 2);
                parts.extend([left, right]);
            }
        }
    }
    Ok(read)
}

/// Removes obsolete bookkeeping and advances the pass.
pub fn prune(table: &WatchedTable, step: &PruneStep) {
    if !step.obsolete.is_empty() {
        remove(table, step.target, &step.obsolete);
    }
    // Rows deleted during the pass may be behind its position: they count for the next one.
    let advance = format!(
        "UPDATE caption.watch_state t \
            SET prune_after = $2::jsonb, \
                pruned_at = CASE WHEN $2::jsonb IS NULL THEN clock_timestamp() \
                                 ELSE t.pruned_at END, \
                (pruned_files, pruned_deleted) = ( \
                    SELECT f.files, \
                           CASE WHEN t.prune_after IS NULL THEN f.deleted \
                                ELSE t.pruned_deleted END \
                      FROM {TABLE_FACTS}) \
          WHERE t.relation = $1"
    );
    let next = step.next.as_ref().map(|next| JsonB(next.to_json()));
    spi(Spi::run_with_args(&advance, &[pg_sys::Oid::from(table.oid).into(), next.into()]));
}

fn remove(table: &WatchedTable, target: PruneTarget, keys: &[String]) {
    let remove = format!(
        "DELETE FROM caption.{} x USING jsonb_array_elements($2) AS k (v) \
          WHERE x.relation = $1 AND x.key = k.v",
        target.name()
    );
    let arguments = [pg_sys::Oid::from(table.oid).into(), examine::json_array(keys).into()];
    spi(Spi::run_with_args(&remove, &arguments));
}
