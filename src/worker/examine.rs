//! Reads rows by key as their table's owner, and their bookkeeping. `pg_caption_queue` decides
//! which rows need a text.

use super::transaction::spi;
use crate::hooks::enqueue::MAX_KEY_BYTES;
use crate::pg::{identity, row_sql};
use crate::settings;
use pg_caption_publish::{MAX_READ, cell_text};
use pg_caption_queue::{
    CurrentRow, FillText, FollowedWords, KeyColumn, RowHistory, RowMatch, WatchedTable,
};
use pg_caption_wire::{Failure, KnownPicture};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const HISTORY: &str = "SELECT k.v::text, l.outputs, coalesce(d.attempts, 0), \
           coalesce(l.at < $3::timestamptz OR l.recaption > 0, false), \
           l.url, l.etag, l.last_modified, l.model, coalesce(l.recaption = 2, false), l.sha256 \
      FROM jsonb_array_elements($2) AS k (v) \
      LEFT JOIN caption.ledger l ON l.relation = $1 AND l.key = k.v \
      LEFT JOIN caption.deferred d ON d.relation = $1 AND d.key = k.v \
     WHERE l.key IS NOT NULL OR d.key IS NOT NULL";

/// `CAST(k.v->>0 AS integer)`, with the key column's type.
fn cast(table: &WatchedTable, at: usize, json: &str) -> String {
    format!("CAST({json} OPERATOR(pg_catalog.->>) {at} AS {})", table.keys[at].kind)
}

/// The URL as an expression.
pub fn url(table: &WatchedTable) -> String {
    row_sql::url(&table.url, table.holds_pictures)
}

/// Characters of a context column that are read, tags of HTML included.
const MAX_CONTEXT_READ: usize = 1500;

/// Why a picture of a column is not captioned, if it is too large.
fn refusal(table: &WatchedTable, url: Option<&str>) -> Option<Failure> {
    let size = url.filter(|_| table.holds_pictures)?.strip_prefix(row_sql::PICTURE_SIZE)?;
    Some(Failure::too_large(size.parse().ok()?, settings::max_image_size()))
}

/// Texts as an array expression, each as [`FillText::from_column`] takes it. `columns` are quoted.
pub fn text_digests(table: &WatchedTable, columns: impl Iterator<Item = String>) -> String {
    row_sql::text_digests(columns, table.keeps_blank)
}

/// The column of [`text_digests`].
pub fn fill_texts(column: Option<Vec<Option<String>>>) -> Vec<FillText> {
    column.unwrap_or_default().into_iter().map(FillText::from_column).collect()
}

fn texts(table: &WatchedTable) -> String {
    text_digests(table, table.fills.iter().map(|fill| pgrx::spi::quote_identifier(&fill.column)))
}

/// The words that templates show as an array expression, in the order of
/// [`WatchedTable::word_columns`].
fn words(table: &WatchedTable) -> String {
    let word = |column: &str| {
        let column = pgrx::spi::quote_identifier(column);
        format!("pg_catalog.\"left\"(t.{column}::pg_catalog.text, {MAX_READ})")
    };
    let words: Vec<String> = table.word_columns().into_iter().map(word).collect();
    format!("ARRAY[{}]::pg_catalog.text[]", words.join(", "))
}

/// The column of [`words`].
pub fn row_words(
    table: &WatchedTable,
    column: Option<Vec<Option<String>>>,
) -> BTreeMap<String, String> {
    let columns = table.word_columns().into_iter();
    let words = columns.zip(column.unwrap_or_default());
    words.filter_map(|(column, word)| Some((column.to_owned(), word?))).collect()
}

/// The words of the context, and the digests of those whose change is followed, as two array
/// expressions; see [`followed_words`].
fn followed(table: &WatchedTable) -> String {
    let text = |column: &str, max: usize| {
        let column = pgrx::spi::quote_identifier(column);
        format!("pg_catalog.\"left\"(t.{column}::pg_catalog.text, {max})")
    };
    let context = table.context.iter().map(|column| text(column, MAX_CONTEXT_READ));
    let digests = table.followed_columns().into_iter();
    let digests = digests.map(|column| row_sql::digest(&text(column, MAX_READ)));
    format!(
        "ARRAY[{}]::pg_catalog.text[], ARRAY[{}]::pg_catalog.text[]",
        context.collect::<Vec<_>>().join(", "),
        digests.collect::<Vec<_>>().join(", ")
    )
}

/// The columns of [`followed`].
pub fn followed_words(
    table: &WatchedTable,
    context: Option<Vec<Option<String>>>,
    digests: Option<Vec<Option<String>>>,
) -> FollowedWords {
    let words = table.context.iter().zip(context.unwrap_or_default());
    let words = words.map(|(column, word)| (column.clone(), cell_text(&word.unwrap_or_default())));
    let columns = table.followed_columns().into_iter().map(String::from);
    let digests = columns.zip(digests.unwrap_or_default());
    FollowedWords {
        context: words.filter(|(_, word)| !word.is_empty()).collect(),
        digests: digests.filter_map(|(column, digest)| Some((column, digest?))).collect(),
    }
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
        "SELECT {}, {}, {}, {} FROM {} t WHERE {}{}",
        url(table),
        texts(table),
        words(table),
        followed(table),
        table.name,
        by_key(table, "$1"),
        if lock { " FOR NO KEY UPDATE SKIP LOCKED" } else { "" }
    )
}

/// Statement that reads many rows by key: `$1` is a JSON array of keys.
fn read_many(table: &WatchedTable) -> String {
    format!(
        "SELECT k.v::pg_catalog.text, {}, {}, {} \
           FROM pg_catalog.jsonb_array_elements($1) AS k (v) JOIN {} t ON {}",
        url(table),
        texts(table),
        followed(table),
        table.name,
        by_key(table, "k.v")
    )
}

/// Statement that reads the next chunk of a backfill: `$1` is the last key passed, if any; `$2` the
/// number of rows.
fn read_chunk(table: &WatchedTable, from_start: bool) -> String {
    let columns =
        table.keys.iter().map(|key| format!("t.{}", key.column)).collect::<Vec<_>>().join(", ");
    let mut conditions: Vec<String> =
        table.keys.iter().filter(|key| !is_short(&key.kind)).map(has_valid_length).collect();
    if !from_start {
        let last: Vec<String> = (0..table.keys.len()).map(|at| cast(table, at, "$1")).collect();
        conditions.push(format!("({columns}) > ({})", last.join(", ")));
    }
    let conditions = match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    };
    format!(
        "SELECT {}::pg_catalog.text, {}, {}, {} FROM {} t{conditions} \
          ORDER BY {columns} LIMIT $2",
        row_sql::key(table.keys.iter().map(|key| &key.column)),
        url(table),
        texts(table),
        followed(table),
        table.name
    )
}

/// Whether every value of a type is short as text.
fn is_short(kind: &str) -> bool {
    matches!(kind, "smallint" | "integer" | "bigint" | "oid" | "uuid" | "date" | "boolean")
        || kind.starts_with("timestamp")
}

/// The condition that a key can be stored in the queue; see [`MAX_KEY_BYTES`].
fn has_valid_length(key: &KeyColumn) -> String {
    format!(
        "pg_catalog.octet_length(t.{}::pg_catalog.text) OPERATOR(pg_catalog.<=) {MAX_KEY_BYTES}",
        key.column
    )
}

/// Rows of a watched table by key; deleted rows are missing.
///
/// # Errors
/// Raises errors of the owner's own code: call it in [`super::transaction::attempt`].
pub fn rows(table: &WatchedTable, keys: &[String]) -> Vec<(String, CurrentRow)> {
    let json = json_array(keys);
    let _owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    spi(Spi::connect_mut(|client| {
        read(table, client.update(&read_many(table), None, &[json.into()])?)
    }))
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
        read(table, client.update(&statement, None, &[last.into(), limit.into()])?)
    }))
}

fn read(
    of: &WatchedTable,
    table: pgrx::spi::SpiTupleTable<'_>,
) -> Result<Vec<(String, CurrentRow)>, pgrx::spi::Error> {
    table
        .map(|row| {
            let (url, texts) = (row.get::<String>(2)?, fill_texts(row.get(3)?));
            let refused = refusal(of, url.as_deref());
            let current = CurrentRow {
                url,
                texts,
                words: BTreeMap::new(),
                followed: followed_words(of, row.get(4)?, row.get(5)?),
                matches: RowMatch::Matching,
                refused,
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
            let by = row.get::<String>(8)?;
            let model = by.clone().filter(|_| etag.is_some() || last_modified.is_some());
            let history = RowHistory {
                ledger: row
                    .get::<JsonB>(2)?
                    .and_then(|outputs| outputs.0.as_object().cloned())
                    .unwrap_or_default(),
                recaption: row.get(4)?.unwrap_or(false),
                forced: row.get(9)?.unwrap_or(false),
                url: row.get(5)?.unwrap_or_default(),
                validators: model.map(|model| KnownPicture { etag, last_modified, model }),
                sha256: row.get(10)?,
                model: by.unwrap_or_default(),
                attempts: row.get(3)?.unwrap_or(0),
            };
            Ok((row.get(1)?.unwrap_or_default(), history))
        })
        .collect::<Result<_, pgrx::spi::Error>>()
    }))
}
