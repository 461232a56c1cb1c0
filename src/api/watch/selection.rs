//! Rows of a watched table that a caller selects: by keys as `caption.texts()` shows them, or by a
//! condition.
//!
//! Called by `recaption`, `withdraw` and `review`. Rows are read and written with the caller's
//! rights; the extension's tables only between the pages.

use super::condition;
use crate::pg::condition::{ConditionSource, ROW};
use crate::pg::identity;
use crate::pg::report::{refuse, spi};
use crate::pg::row_sql;
use crate::pg::table::TableDescription;
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};
use serde_json::Value;
use std::ffi::CStr;

/// Keys that are read in one step, as many as a page of the queue has.
const PAGE: i64 = 200;

/// Names and types of the key columns of a watch.
const KEY_COLUMNS: &str = "\
    SELECT k.name::text, format_type(a.atttypid, a.atttypmod) \
      FROM caption.watch w \
     CROSS JOIN unnest(w.keys) WITH ORDINALITY AS k (name, ord) \
      JOIN pg_attribute a \
        ON a.attrelid = w.relation AND a.attname = k.name AND NOT a.attisdropped \
     WHERE w.relation = $1 ORDER BY k.ord";

const CONDITION_HINT: &str = "It is a boolean expression over the columns of one row, such as \
                              condition => 'brand = ''Acme'''.";

/// The selected rows.
pub struct RowSelection {
    /// `FROM` item of the table, with its alias.
    table: String,
    keys: Vec<KeyPart>,
    /// The keys, as one JSON array of objects; `None`: all.
    listed: Option<Value>,
    condition: Option<String>,
}

/// A column of the key.
struct KeyPart {
    name: String,
    kind: String,
}

impl RowSelection {
    /// Without keys and condition all rows. Raises for keys without the key's columns and for a
    /// condition that cannot be used.
    pub fn new(
        table: &TableDescription,
        listed: Option<Vec<Option<JsonB>>>,
        condition: Option<&str>,
        caller_path: &CStr,
    ) -> RowSelection {
        let keys = key_columns(table);
        let listed = listed.map(|listed| Value::Array(checked(&keys, listed)));
        let condition = condition.filter(|text| !text.trim().is_empty());
        let condition = condition.map(|text| {
            let source = ConditionSource::User { search_path: caller_path };
            condition::parse(table, text, source, ("condition", CONDITION_HINT)).text
        });
        let row = ROW.to_string_lossy();
        RowSelection { table: format!("{} AS {row}", table.only()), keys, listed, condition }
    }

    /// Whether neither keys nor a condition are given.
    pub fn is_all(&self) -> bool {
        self.listed.is_none() && self.condition.is_none()
    }

    /// The `FROM` item of the table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The key of a row as the ledger has it: an expression.
    pub fn key(&self) -> String {
        row_sql::key(self.keys.iter().map(|key| quote_identifier(&key.name)))
    }

    /// The list of keys, as `$1` of a statement with [`RowSelection::conditions`].
    pub fn listed(&self) -> Option<JsonB> {
        self.listed.clone().map(JsonB)
    }

    /// Condition for the row whose key is `$1`, as the ledger has it. All names are qualified.
    pub fn by_ledger_key(&self) -> String {
        self.by_key("$1", |at, _| at.to_string())
    }

    /// Condition for the row whose key is `$1`, the text of an object as users see it.
    pub fn by_shown_key(&self) -> String {
        self.by_key("CAST($1 AS pg_catalog.jsonb)", |_, name| quote_literal(name))
    }

    fn by_key(&self, key: &str, member: impl Fn(usize, &str) -> String) -> String {
        let equal = |(at, part): (usize, &KeyPart)| {
            format!(
                "t.{} OPERATOR(pg_catalog.=) CAST({key} OPERATOR(pg_catalog.->>) {} AS {})",
                quote_identifier(&part.name),
                member(at, &part.name),
                part.kind
            )
        };
        self.keys.iter().enumerate().map(equal).collect::<Vec<_>>().join(" AND ")
    }

    /// The columns of the key, quoted, in its order.
    pub fn key_columns(&self) -> Vec<String> {
        self.keys.iter().map(|key| format!("t.{}", quote_identifier(&key.name))).collect()
    }

    /// Whether a value is an object with exactly the columns of the key.
    pub fn is_key(&self, key: &Value) -> bool {
        is_key(&self.keys, key)
    }

    /// Conditions of a `WHERE` clause, each with ` AND ` in front of it. `$1` is the list of keys,
    /// or NULL.
    pub fn conditions(&self) -> String {
        let equal = |key: &KeyPart| {
            format!(
                "t.{} = CAST(k.v->>{} AS {})",
                quote_identifier(&key.name),
                quote_literal(&key.name),
                key.kind
            )
        };
        let equal: Vec<String> = self.keys.iter().map(equal).collect();
        let listed = match self.listed {
            Some(_) => format!(
                " AND EXISTS (SELECT FROM jsonb_array_elements($1) AS k (v) WHERE {})",
                equal.join(" AND ")
            ),
            None => " AND $1::jsonb IS NULL".into(),
        };
        let own = self.condition.as_ref().map(|condition| format!(" AND ({condition})"));
        listed + &own.unwrap_or_default()
    }

    /// Statement that returns the keys of the selected rows.
    pub fn keys_statement(&self) -> String {
        format!("SELECT {} FROM {} WHERE true{}", self.key(), self.table, self.conditions())
    }

    /// Runs a statement that returns keys, as the caller, and passes them in pages to `body`, which
    /// acts as the extension. `$1` of the statement is the list of keys. Returns the number of
    /// keys.
    pub fn for_each_page(&self, statement: &str, mut body: impl FnMut(Vec<JsonB>)) -> i64 {
        let mut count = 0;
        spi(Spi::connect_mut(|client| {
            let mut cursor = client.try_open_cursor_mut(statement, &[self.listed().into()])?;
            loop {
                let rows = cursor.fetch(PAGE)?;
                let key = rows.map(|row| Ok(row.get::<JsonB>(1)?.unwrap_or(JsonB(Value::Null))));
                let page = key.collect::<Result<Vec<JsonB>, pgrx::spi::Error>>()?;
                if page.is_empty() {
                    return Ok::<_, pgrx::spi::Error>(());
                }
                count += page.len() as i64;
                let _extension = identity::as_extension();
                body(page);
            }
        }));
        count
    }
}

fn key_columns(table: &TableDescription) -> Vec<KeyPart> {
    spi(Spi::connect(|client| {
        let rows = client.select(KEY_COLUMNS, None, &[table.oid.into()])?;
        rows.map(|row| {
            Ok::<_, pgrx::spi::Error>(KeyPart {
                name: row.get(1)?.unwrap_or_default(),
                kind: row.get(2)?.unwrap_or_default(),
            })
        })
        .collect()
    }))
}

fn is_key(columns: &[KeyPart], key: &Value) -> bool {
    let is_scalar = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    key.as_object().is_some_and(|key| {
        key.len() == columns.len()
            && columns.iter().all(|column| key.get(&column.name).is_some_and(is_scalar))
    })
}

/// The keys, each an object with exactly the columns of the key; raises otherwise.
fn checked(columns: &[KeyPart], keys: Vec<Option<JsonB>>) -> Vec<Value> {
    let key = |key: Option<JsonB>| match key {
        Some(JsonB(key)) if is_key(columns, &key) => key,
        other => {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let shown = other.map_or("NULL".into(), |JsonB(key)| key.to_string());
            let shown: String = shown.chars().take(100).collect();
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("{shown} is not a key of the table"),
                Some(format!("The columns of its key are: {}.", names.join(", "))),
                Some("Keys are objects, as caption.texts() and caption.failure show them.".into()),
            )
        }
    };
    keys.into_iter().map(key).collect()
}
