//! Which rows need what: reads rows by key as their table's owner, and the ledger beside them.

use super::tables::Watched;
use super::transaction::spi;
use crate::identity;
use pg_caption_drain::{PageId, Row};
use pg_caption_wire::Known;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;

/// A row that needs captions.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which row.
    pub row: Row,
    /// Pages to count off when it is done.
    pub page: PageId,
    /// The URL to caption.
    pub url: String,
    /// Indexes into the watch's fills that need a text.
    pub cells: Vec<usize>,
    /// What the ledger says was written before: column to [`entry`].
    pub ours: Map<String, Value>,
    /// `caption.recaption` wants it captioned again although its URL is the same.
    pub again: bool,
    /// What the server said of the picture that all of it was written for.
    pub seen: Option<Known>,
    /// The picture need not be looked at if it is still that one: nothing is missing.
    pub known: Option<Known>,
    /// Charged attempts so far.
    pub attempts: i32,
    /// Engines that died with it in flight.
    pub deaths: u32,
}

/// A row as it is now.
#[derive(Debug)]
pub struct Current {
    /// Its URL.
    pub url: Option<String>,
    /// Its fills, in the watch's order.
    pub texts: Vec<Option<String>>,
}

/// Hash of a URL or a text in the ledger: half a SHA-256, hex.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).fold(String::with_capacity(32), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The ledger's entry for one text: its hash, and the hash of the URL that it was written for.
pub fn entry(text: &str, url: &str) -> Value {
    serde_json::json!({ "text": hash(text), "url": hash(url) })
}

/// Whether the text of a fill is what the ledger says that a machine wrote.
pub fn is_ours(watched: &Watched, current: &Current, ours: &Map<String, Value>, cell: usize) -> bool {
    let text = current.texts.get(cell).and_then(Option::as_deref).unwrap_or_default();
    ours.get(&watched.fills[cell].column).and_then(|entry| entry.get("text")).and_then(Value::as_str) == Some(hash(text).as_str())
}

/// Indexes of the fills that need a text: empty ones, ours of another URL (of this one too, if they are wanted `again`), and a person's where the watch overwrites
/// and has not seen this URL.
pub fn needs(watched: &Watched, current: &Current, ours: &Map<String, Value>, again: bool) -> Vec<usize> {
    let Some(url) = current.url.as_deref().filter(|url| !url.is_empty()) else { return Vec::new() };
    let url = hash(url);
    let is_needed = |at: &usize| {
        let empty = current.texts[*at].as_deref().unwrap_or_default().is_empty();
        let said = ours.get(&watched.fills[*at].column).and_then(|entry| entry.get("url")).and_then(Value::as_str);
        let new_url = said != Some(url.as_str());
        empty || (is_ours(watched, current, ours, *at) && (new_url || again)) || (new_url && watched.overwrite)
    };
    (0..current.texts.len()).filter(is_needed).collect()
}

/// `(k.v->>0)::integer`, with the key column's type.
fn cast(watched: &Watched, at: usize, json: &str) -> String {
    format!("CAST({json} OPERATOR(pg_catalog.->>) {at} AS {})", watched.keys[at].kind)
}

/// The fills' texts as an array expression.
fn texts(watched: &Watched) -> String {
    let columns: Vec<String> = watched.fills.iter().map(|fill| format!("t.{}::pg_catalog.text", pgrx::spi::quote_identifier(&fill.column))).collect();
    format!("ARRAY[{}]", columns.join(", "))
}

/// The key of `t` as canonical JSON, the same text that the trigger writes.
pub fn key_json(watched: &Watched) -> String {
    let columns: Vec<String> = watched.keys.iter().map(|key| format!("pg_catalog.format('%s', t.{})", key.column)).collect();
    format!("pg_catalog.jsonb_build_array({})", columns.join(", "))
}

/// Keys as one JSON array.
fn json_array(keys: &[String]) -> JsonB {
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

/// Statement that reads the next chunk of the walk: `$1` is the last key passed, if any; `$2` the number of rows.
fn read_chunk(watched: &Watched, from_start: bool) -> String {
    let columns = watched.keys.iter().map(|key| format!("t.{}", key.column)).collect::<Vec<_>>().join(", ");
    let after = if from_start {
        String::new()
    } else {
        let last = (0..watched.keys.len()).map(|at| cast(watched, at, "$1")).collect::<Vec<_>>().join(", ");
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
    let _owner = identity::as_owner(watched.owner);
    spi(Spi::connect_mut(|client| read(client.update(&read_many(watched), None, &[json.into()])?)))
}

/// The next chunk of the walk, in key order.
///
/// # Errors
/// As [`rows`].
pub fn chunk(watched: &Watched, after: Option<&str>, limit: i64) -> Vec<(String, Current)> {
    let last = after.and_then(|key| serde_json::from_str(key).ok()).map(JsonB);
    let statement = read_chunk(watched, last.is_none());
    let _owner = identity::as_owner(watched.owner);
    spi(Spi::connect_mut(|client| read(client.update(&statement, None, &[last.into(), limit.into()])?)))
}

fn read(table: pgrx::spi::SpiTupleTable<'_>) -> Result<Vec<(String, Current)>, pgrx::spi::Error> {
    table
        .map(|row| {
            let current = Current { url: row.get::<String>(2)?, texts: row.get::<Vec<Option<String>>>(3)?.unwrap_or_default() };
            Ok((row.get::<String>(1)?.unwrap_or_default(), current))
        })
        .collect()
}

/// What the ledger and the deferred rows say of one key.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Column to [`entry`].
    pub ours: Map<String, Value>,
    /// Captioned last before the time from which `caption.recaption` wants everything captioned again.
    pub again: bool,
    /// Hash of the URL captioned last.
    pub url: String,
    /// What the server said of its picture.
    pub seen: Option<Known>,
    /// Charged attempts so far.
    pub attempts: i32,
}

impl Past {
    /// A job of a row whose `cells` need a text.
    pub fn job(self, row: Row, page: PageId, url: String, cells: Vec<usize>, current: &[Option<String>]) -> Job {
        let seen = self.seen.filter(|_| self.url == hash(&url));
        // A text that is missing is written whether the picture has changed or not: the ledger keeps hashes, not texts.
        let complete =
            self.again && cells.iter().all(|cell| current.get(*cell).is_some_and(|text| text.as_deref().is_some_and(|text| !text.is_empty())));
        let known = seen.clone().filter(|_| complete);
        Job { row, page, url, cells, ours: self.ours, again: self.again, seen, known, attempts: self.attempts, deaths: 0 }
    }
}

/// What the ledger and the deferred rows say of some keys; those they do not know are missing.
pub fn history(watched: &Watched, keys: &[String]) -> HashMap<String, Past> {
    let json = json_array(keys);
    spi(Spi::connect(|client| {
        let rows = client.select(
            "SELECT k.v::text, w.outputs, coalesce(d.attempts, 0), coalesce(w.at < $3::timestamptz, false), w.url, w.etag, w.last_modified, w.model FROM jsonb_array_elements($2) AS k (v) \
               LEFT JOIN caption.written w ON w.relation = $1 AND w.key = k.v LEFT JOIN caption.deferred d ON d.relation = $1 AND d.key = k.v \
              WHERE w.key IS NOT NULL OR d.key IS NOT NULL",
            None,
            &[pg_sys::Oid::from(watched.oid).into(), json.into(), watched.recaption_before.clone().into()],
        )?;
        rows.map(|row| {
            let (etag, last_modified) = (row.get(6)?, row.get(7)?);
            let model = row.get::<String>(8)?.filter(|_| etag.is_some() || last_modified.is_some());
            let past = Past {
                ours: row.get::<JsonB>(2)?.and_then(|outputs| outputs.0.as_object().cloned()).unwrap_or_default(),
                again: row.get(4)?.unwrap_or(false),
                url: row.get(5)?.unwrap_or_default(),
                seen: model.map(|model| Known { etag, last_modified, model }),
                attempts: row.get(3)?.unwrap_or(0),
            };
            Ok((row.get(1)?.unwrap_or_default(), past))
        })
        .collect::<Result<_, pgrx::spi::Error>>()
    }))
}
