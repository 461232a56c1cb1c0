//! Reads rows by key as their table's owner, and the ledger beside them. Which of them need what is
//! decided in `pg_caption_queue`.

use super::transaction::spi;
use crate::pg::identity;
use pg_caption_queue::{Current, Past, Watched};
use pg_caption_wire::KnownPicture;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;
use std::collections::HashMap;

/// `(k.v->>0)::integer`, with the key column's type.
fn cast(watched: &Watched, at: usize, json: &str) -> String {
    format!("CAST({json} OPERATOR(pg_catalog.->>) {at} AS {})", watched.keys[at].kind)
}

/// The fills' texts as an array expression.
fn texts(watched: &Watched) -> String {
    let columns: Vec<String> = watched
        .fills
        .iter()
        .map(|fill| format!("t.{}::pg_catalog.text", pgrx::spi::quote_identifier(&fill.column)))
        .collect();
    format!("ARRAY[{}]", columns.join(", "))
}

/// The key of `t` as canonical JSON, the same text that the trigger writes.
pub fn key_json(watched: &Watched) -> String {
    let columns: Vec<String> = watched
        .keys
        .iter()
        .map(|key| format!("pg_catalog.format('%s', t.{})", key.column))
        .collect();
    format!("pg_catalog.jsonb_build_array({})", columns.join(", "))
}

/// Keys as one JSON array.
pub fn json_array(keys: &[String]) -> JsonB {
    JsonB(Value::Array(keys.iter().filter_map(|key| serde_json::from_str(key).ok()).collect()))
}

/// Condition that finds the row `t` of a key, given as a JSON expression.
pub fn by_key(watched: &Watched, json: &str) -> String {
    let equal = |at: usize| format!("t.{} = {}", watched.keys[at].column, cast(watched, at, json));
    (0..watched.keys.len()).map(equal).collect::<Vec<_>>().join(" AND ")
}

/// Statement that reads one row (and locks it, if `lock`) by its key, given as JSON.
pub fn read_one(watched: &Watched, lock: bool) -> String {
    format!(
        "SELECT t.{}::pg_catalog.text, {} FROM {} t WHERE {}{}",
        watched.url,
        texts(watched),
        watched.name,
        by_key(watched, "$1"),
        if lock { " FOR NO KEY UPDATE SKIP LOCKED" } else { "" }
    )
}

/// Statement that reads many rows by key: `$1` is a JSON array of keys.
fn read_many(watched: &Watched) -> String {
    format!(
        "SELECT k.v::pg_catalog.text, t.{}::pg_catalog.text, {} FROM pg_catalog.jsonb_array_elements($1) AS k (v) JOIN {} t ON {}",
        watched.url,
        texts(watched),
        watched.name,
        by_key(watched, "k.v")
    )
}

/// Statement that reads the next chunk of the walk: `$1` is the last key passed, if any; `$2` the
/// number of rows.
fn read_chunk(watched: &Watched, from_start: bool) -> String {
    let columns =
        watched.keys.iter().map(|key| format!("t.{}", key.column)).collect::<Vec<_>>().join(", ");
    let after = if from_start {
        String::new()
    } else {
        let last = (0..watched.keys.len())
            .map(|at| cast(watched, at, "$1"))
            .collect::<Vec<_>>()
            .join(", ");
        format!(" WHERE ({columns}) > ({last})")
    };
    format!(
        "SELECT {}::pg_catalog.text, t.{}::pg_catalog.text, {} FROM {} t{after} ORDER BY {columns} LIMIT $2",
        key_json(watched),
        watched.url,
        texts(watched),
        watched.name
    )
}

/// Rows of a watched table by key; those that are gone are missing.
///
/// # Errors
/// Raises what the owner's own code raises; call it in [`super::transaction::attempt`].
pub fn rows(watched: &Watched, keys: &[String]) -> Vec<(String, Current)> {
    let json = json_array(keys);
    let _owner = identity::as_owner(pg_sys::Oid::from(watched.owner));
    spi(Spi::connect_mut(|client| {
        read(client.update(&read_many(watched), None, &[json.into()])?)
    }))
}

/// The next chunk of the walk, in key order.
///
/// # Errors
/// As [`rows`].
pub fn chunk(watched: &Watched, after: Option<&str>, limit: i64) -> Vec<(String, Current)> {
    let last = after.and_then(|key| serde_json::from_str(key).ok()).map(JsonB);
    let statement = read_chunk(watched, last.is_none());
    let _owner = identity::as_owner(pg_sys::Oid::from(watched.owner));
    spi(Spi::connect_mut(|client| {
        read(client.update(&statement, None, &[last.into(), limit.into()])?)
    }))
}

fn read(table: pgrx::spi::SpiTupleTable<'_>) -> Result<Vec<(String, Current)>, pgrx::spi::Error> {
    table
        .map(|row| {
            let current = Current {
                url: row.get::<String>(2)?,
                texts: row.get::<Vec<Option<String>>>(3)?.unwrap_or_default(),
            };
            Ok((row.get::<String>(1)?.unwrap_or_default(), current))
        })
        .collect()
}

/// What the ledger and the deferred rows say of some keys; those they do not know are missing.
pub fn history(watched: &Watched, keys: &[String]) -> HashMap<String, Past> {
    let json = json_array(keys);
    spi(Spi::connect(|client| {
        let rows = client.select(
            "SELECT k.v::text, w.outputs, coalesce(d.attempts, 0), coalesce(w.at < $3::timestamptz, false), w.url, w.etag, w.last_modified, w.model FROM jsonb_array_elements($2) AS k (v) \
               LEFT JOIN caption.ledger w ON w.relation = $1 AND w.key = k.v LEFT JOIN caption.deferred d ON d.relation = $1 AND d.key = k.v \
              WHERE w.key IS NOT NULL OR d.key IS NOT NULL",
            None,
            &[pg_sys::Oid::from(watched.oid).into(), json.into(), watched.recaption_before.clone().into()],
        )?;
        rows.map(|row| {
            let (etag, last_modified) = (row.get(6)?, row.get(7)?);
            let model = row.get::<String>(8)?.filter(|_| etag.is_some() || last_modified.is_some());
            let past = Past {
                ours: row
                    .get::<JsonB>(2)?
                    .and_then(|outputs| outputs.0.as_object().cloned())
                    .unwrap_or_default(),
                again: row.get(4)?.unwrap_or(false),
                url: row.get(5)?.unwrap_or_default(),
                seen: model.map(|model| KnownPicture { etag, last_modified, model }),
                attempts: row.get(3)?.unwrap_or(0),
            };
            Ok((row.get(1)?.unwrap_or_default(), past))
        })
        .collect::<Result<_, pgrx::spi::Error>>()
    }))
}
