//! Passes over what is kept of rows, in SQL: which are due, how far each has come, which keys it
//! looks at, what is forgotten. What is to be forgotten is decided in `pg_caption_queue`, and so is
//! when. Rows are read as their owner (`examine`), never written.

use super::examine;
use super::sources::{is_passing, oids};
use super::transaction::{attempt, attempt_in_time, spi};
use super::write;
use pg_caption_queue::{Busy, Kept, Looked, Stand, Unread, Watched};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;

/// What the catalogs and the statistics say of a table `t.relation`, which costs its writers
/// nothing, unlike a trigger. `files`: a number that is another one once it, or a partition, was
/// truncated, rewritten, attached or detached; `deleted`: rows deleted so far; `live`: about how
/// many there are. Without `pg_partition_tree`, which waits for locks.
const TABLE: &str = "(WITH RECURSIVE part AS (SELECT t.relation AS oid UNION ALL SELECT i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid) \
      SELECT hashtextextended(string_agg(l.relfilenode::text, ' ' ORDER BY l.oid), 0) AS files, coalesce(sum(pg_stat_get_tuples_deleted(l.oid)), 0)::int8 AS deleted, \
             coalesce(sum(pg_stat_get_live_tuples(l.oid)), 0)::int8 AS live \
        FROM pg_catalog.pg_class l WHERE l.oid = ANY (ARRAY(SELECT part.oid FROM part))) AS c";

/// Tables whose pass is due: a day after the last one, when asked for, begun, once the table
/// consists of other files, or once a fifth of it was deleted (as autovacuum counts; a thousand
/// rows at least).
pub fn due(tables: &[u32]) -> Vec<u32> {
    let due = format!(
        "SELECT t.relation FROM caption.watch_state t CROSS JOIN LATERAL {TABLE} \
          WHERE t.relation = ANY ($1) AND (t.pruned_at IS NULL OR t.pruned_at < clock_timestamp() - interval '1 day' OR t.prune_after IS NOT NULL \
             OR t.pruned_files IS DISTINCT FROM c.files OR c.deleted - t.pruned_deleted > 1000 + c.live / 5)"
    );
    spi(Spi::connect(|client| {
        let rows = client.select(&due, None, &[oids(tables).into()])?;
        rows.map(|row| {
            Ok::<_, pgrx::spi::Error>(row.get::<pg_sys::Oid>(1)?.map_or(0, |oid| oid.to_u32()))
        })
        .collect()
    }))
}

/// How far the pass over a table has come; its watch is ours from here to the end of the
/// transaction.
pub fn stand(table: &Watched) -> Result<Stand, Busy> {
    if !write::table_is_free(table, false) || !write::is_ours(table) {
        return Err(Busy);
    }
    // What was looked at before a TRUNCATE says nothing of what is there now.
    let stand = format!(
        "SELECT t.prune_after FROM caption.watch_state t WHERE t.relation = $1 AND t.pruned_files = (SELECT c.files FROM {TABLE})"
    );
    let after = spi(Spi::connect_mut(|client| {
        match client.update(&stand, Some(1), &[pg_sys::Oid::from(table.oid).into()])?.next() {
            Some(row) => row.get::<JsonB>(1),
            None => Ok(None),
        }
    }));
    Ok(after.map_or_else(Stand::start, |after| Stand::from_json(&after.0)))
}

/// The next keys of which something is kept.
pub fn kept(table: &Watched, kept: Kept, after: Option<&str>, limit: usize) -> Vec<String> {
    // No key is below an empty array.
    let keys = format!(
        "SELECT k.key::text FROM caption.{} k WHERE k.relation = $1 AND k.key > $2 ORDER BY k.key LIMIT $3",
        kept.name()
    );
    let after =
        after.and_then(|key| serde_json::from_str(key).ok()).unwrap_or(Value::Array(Vec::new()));
    spi(Spi::connect(|client| {
        let rows = client.select(
            &keys,
            None,
            &[pg_sys::Oid::from(table.oid).into(), JsonB(after).into(), (limit as i64).into()],
        )?;
        rows.map(|row| Ok::<_, pgrx::spi::Error>(row.get::<String>(1)?.unwrap_or_default()))
            .collect()
    }))
}

/// The rows of some keys; a row that is locked is there, one that its owner cannot read is not
/// gone.
pub fn look(table: &Watched, keys: &[String]) -> Result<Looked, Unread> {
    let mut looked = Looked::default();
    let mut parts = vec![keys];
    while let Some(part) = parts.pop().filter(|part| !part.is_empty()) {
        match attempt_in_time(|| examine::rows(table, part)) {
            Ok(rows) => looked.rows.extend(rows),
            Err(raised) if is_passing(&raised) => return Err(Unread::Busy),
            // Whichever rows are asked for: row-level security that binds the owner, a privilege
            // taken away.
            Err(_)
                if part.len() == keys.len() && attempt(|| examine::rows(table, &[])).is_err() =>
            {
                return Err(Unread::Stopped);
            }
            Err(_) if part.len() == 1 => looked.unread.extend(part.iter().cloned()),
            Err(_) => {
                let (left, right) = part.split_at(part.len() / 2);
                parts.extend([left, right]);
            }
        }
    }
    Ok(looked)
}

/// Forgets what is kept of some keys.
pub fn forget(table: &Watched, kept: Kept, keys: &[String]) {
    let forget = format!(
        "DELETE FROM caption.{} x USING jsonb_array_elements($2) AS k (v) WHERE x.relation = $1 AND x.key = k.v",
        kept.name()
    );
    spi(Spi::run_with_args(
        &forget,
        &[pg_sys::Oid::from(table.oid).into(), examine::json_array(keys).into()],
    ));
}

/// The pass over a table has come so far; `None`: to its end.
pub fn stands(table: &Watched, stand: Option<&Stand>) {
    // What is deleted while the pass is being made may lie behind it: it counts for the next one.
    let stands = format!(
        "UPDATE caption.watch_state t SET prune_after = $2::jsonb, pruned_at = CASE WHEN $2::jsonb IS NULL THEN clock_timestamp() ELSE t.pruned_at END, \
                (pruned_files, pruned_deleted) = (SELECT c.files, CASE WHEN t.prune_after IS NULL THEN c.deleted ELSE t.pruned_deleted END FROM {TABLE}) \
          WHERE t.relation = $1"
    );
    spi(Spi::run_with_args(
        &stands,
        &[pg_sys::Oid::from(table.oid).into(), stand.map(|stand| JsonB(stand.to_json())).into()],
    ));
}
