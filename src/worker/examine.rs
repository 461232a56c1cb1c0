//! Reads rows by key as their table's owner, and their bookkeeping. `pg_caption_queue` decides
//! which rows need a text.

use super::transaction::spi;
use crate::pg::identity;
use pg_caption_queue::{CurrentRow, RowHistory, WatchedTable};
use pg_caption_wire::KnownPicture;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;
use std::collections::HashMap;

const HISTORY: &str = "SELECT k.v::text, l.outputs, coalesce(d.attempts, 0), \
           coalesce(l.at < $3::timestamptz, false), l.url, l.etag, l.last_modified, l.model \
      FROM jsonb_array_elements($2) AS k (v) \
      LEFT JOIN caption.ledger l ON l.relation = $1 AND l.key = k.v \
      LEFT JOIN caption.deferred d ON d.relation = $1 AND d.key = k.v \
     WHERE l.key IS NOT NULL OR d.key IS NOT NULL";

/// `CAST(k.v->>0 AS integer)`, with the key column's type.
fn cast(table: &WatchedTable, at: usize, json: &str) -> String {
    format!("CAST({json} OPERATOR(pg_catalog.->>) {at} AS {})", table.keys[at].kind)
}

/// The fills' texts as an array expression.
fn texts(table: &WatchedTable) -> String {
    let columns: Vec<String> = table
        .fills
        .iter()
        .map(|fill| format!("t.{}::pg_catalog.text", pgrx::spi::quote_identifier(&fill.column)))
        .collect();
    format!("ARRAY[{}]", columns.join(", "))
}

/// The key of `t` as canonical JSON, the same text as the trigger writes.
fn key_json(table: &WatchedTable) -> String {
    let columns: Vec<String> =
        table.keys.iter().map(|key| format!("pg_catalog.format('%s', t.{})", key.column)).collect();
    format!("pg_catalog.jsonb_build_array({})", columns.join(", "))
}

/// Keys as one JSON array.
pub fn json_array(keys: &[String]) -> JsonB {
    JsonB(Value::Array(keys.iter().filter_map(|key| serde_json::from_str(key).ok()).collect()))
}

/// Condition for the row `t` with the key that a JSON expression gives.
pub fn by_key(table: &WatchedTable, json: &str) -> String {
    let equal = |at: usize| format!("t.{} = {}", table.keys[at].column, cast(table, at, json));
    (0..table.keys.len()).map(equal).collect::<Vec<_>>().join(" AND ")
}

/// Statement that reads one row by its key, `$1` as JSON; with `lock` it also locks the row.
pub fn read_one(table: &WatchedTable, lock: bool) -> String {
    format!(
        "SELECT t.{}::pg_catalog.text, {} FROM {} t WHERE {}{}",
        table.url,
        texts(table),
        table.name,
        by_key(table, "$1"),
        if lock { " FOR NO KEY UPDATE SKIP LOCKED" } else { "" }
    )
}

/// Statement that reads many rows by key: `$1` is a JSON array of keys.
fn read_many(table: &WatchedTable) -> String {
    format!(
        "SELECT k.v::pg_catalog.text, t.{}::pg_catalog.text, {} \
           FROM pg_catalog.jsonb_array_elements($1) AS k (v) JOIN {} t ON {}",
        table.url,
        texts(table),
        table.name,
        by_key(table, "k.v")
    )
}

/// Statement that reads the next chunk of a backfill: `$1` is the last key passed, if any; `$2` the
/// number of rows.
fn read_chunk(table: &WatchedTable, from_start: bool) -> String {
    let columns =
        table.keys.iter().map(|key| format!("t.{}", key.column)).collect::<Vec<_>>().join(", ");
    let after = if from_start {
        String::new()
    } else {
        let last: Vec<String> = (0..table.keys.len()).map(|at| cast(table, at, "$1")).collect();
        format!(" WHERE ({columns}) > ({})", last.join(", "))
    };
    format!(
        "SELECT {}::pg_catalog.text, t.{}::pg_catalog.text, {} FROM {} t{after} \
          ORDER BY {columns} LIMIT $2",
        key_json(table),
        table.url,
        texts(table),
        table.name
    )
}

/// Rows of a watched table by key; deleted rows are missing.
///
/// # Errors
/// Raises errors of the owner's own code: call it in [`super::transaction::attempt`].
pub fn rows(table: &WatchedTable, keys: &[String]) -> Vec<(String, CurrentRow)> {
    let json = json_array(keys);
    let _owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    spi(Spi::connect_mut(|client| read(client.update(&read_many(table), None, &[json.into()])?)))
}

/// The next chunk of a backfill, in key order.
///
/// # Errors
/// As [`rows`].
pub fn chunk(table: &WatchedTable, after: Option<&str>, limit: i64) -> Vec<(String, CurrentRow)> {
    let last = after.and_then(|key| serde_json::from_str(key).ok()).map(JsonB);
    let statement = read_chunk(table, last.is_none());
    let _owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    spi(Spi::connect_mut(|client| {
        read(client.update(&statement, None, &[last.into(), limit.into()])?)
    }))
}

fn read(
    table: pgrx::spi::SpiTupleTable<'_>,
) -> Result<Vec<(String, CurrentRow)>, pgrx::spi::Error> {
    table
        .map(|row| {
            let current = CurrentRow {
                url: row.get::<String>(2)?,
                texts: row.get::<Vec<Option<String>>>(3)?.unwrap_or_default(),
            };
            Ok((row.get::<String>(1)?.unwrap_or_default(), current))
        })
        .collect()
}

/// Ledger entries and deferrals of some keys; keys without either are missing.
pub fn history(table: &WatchedTable, keys: &[String]) -> HashMap<String, RowHistory> {
    let arguments = [
        pg_sys::Oid::from(table.oid).into(),
        json_array(keys).into(),
        table.recaption_before.clone().into(),
    ];
    spi(Spi::connect(|client| {
        let rows = client.select(HISTORY, None, &arguments)?;
        rows.map(|row| {
            let (etag, last_modified) = (row.get(6)?, row.get(7)?);
            let model = row.get::<String>(8)?.filter(|_| etag.is_some() || last_modified.is_some());
            let history = RowHistory {
                ledger: row
                    .get::<JsonB>(2)?
                    .and_then(|outputs| outputs.0.as_object().cloned())
                    .unwrap_or_default(),
                recaption: row.get(4)?.unwrap_or(false),
                url: row.get(5)?.unwrap_or_default(),
                validators: model.map(|model| KnownPicture { etag, last_modified, model }),
                attempts: row.get(3)?.unwrap_or(0),
            };
            Ok((row.get(1)?.unwrap_or_default(), history))
        })
        .collect::<Result<_, pgrx::spi::Error>>()
    }))
}
