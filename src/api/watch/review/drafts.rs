//! A watched table with its drafts: rows found by key, read and written with the caller's rights.
//!
//! Called by the other files of this folder.

use super::super::control::{lock_state, require_watched};
use super::super::selection::RowSelection;
use crate::hooks::enqueue;
use crate::pg::guc_scope::GucScope;
use crate::pg::identity;
use crate::pg::report::{refuse, select_one, spi};
use crate::pg::row_sql;
use crate::pg::table::TableDescription;
use crate::worker::transaction::{self, RaisedError};
use pg_caption_queue::{APPROVED, DRAFT, FillText, PENDING, without_draft};
use pgrx::JsonB;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use serde_json::{Map, Value, json};
use std::ffi::CString;

const WATCH: &str = "\
    SELECT w.image::text, a.atttypid = 'bytea'::regtype, \
           ARRAY(SELECT jsonb_object_keys(w.fills))::text[], w.overwrite, w.base_url, \
           coalesce(w.blank = 'keep', false) \
      FROM caption.watch w \
      JOIN pg_attribute a \
        ON a.attrelid = w.relation AND a.attname = w.image AND NOT a.attisdropped \
     WHERE w.relation = $1";

const ENTRIES: &str = "SELECT outputs FROM caption.ledger WHERE relation = $1 AND key = $2";

const PUT: &str = "\
    UPDATE caption.ledger \
       SET outputs = jsonb_set(outputs, ARRAY[$3], CASE WHEN $5 \
                THEN $4 || jsonb_build_object('at', clock_timestamp()) ELSE $4 END) \
     WHERE relation = $1 AND key = $2";

/// Texts of a row to write: column and text; `None`: its draft as it is.
pub type RowTexts = Vec<(String, Option<String>)>;

/// A watched table whose drafts are reviewed.
pub struct ReviewedTable {
    pub table: TableDescription,
    pub image: String,
    pub holds_pictures: bool,
    /// The filled columns.
    pub columns: Vec<String>,
    pub base_url: Option<String>,
    overwrite: bool,
    keeps_blank: bool,
    caller_path: CString,
}

/// A row of the table.
pub struct ReviewedRow {
    /// Its key as the ledger has it.
    pub key: Value,
    /// Hash of its URL.
    url: String,
    /// In the order of [`ReviewedTable::columns`].
    texts: Vec<FillText>,
}

impl ReviewedTable {
    /// A table that the caller may review; raises otherwise. With `writes`, the worker leaves its
    /// drafts alone until the transaction ends.
    pub fn open(relation: Option<pg_sys::Oid>, caller_path: CString, writes: bool) -> Self {
        let table = require_watched(relation);
        let _extension = identity::as_extension();
        if writes {
            lock_state(table.oid);
        }
        let found = spi(Spi::connect_mut(|client| {
            let Some(row) = client.update(WATCH, Some(1), &[table.oid.into()])?.next() else {
                return Ok(None);
            };
            Ok::<_, pgrx::spi::Error>(Some((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<bool>(2)?.unwrap_or_default(),
                row.get::<Vec<String>>(3)?.unwrap_or_default(),
                row.get::<bool>(4)?.unwrap_or_default(),
                row.get::<String>(5)?,
                row.get::<bool>(6)?.unwrap_or_default(),
            )))
        }));
        let Some((image, holds_pictures, columns, overwrite, base_url, keeps_blank)) = found else {
            refuse(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("the image column of table {} does not exist", table.name),
                None,
                Some("Call caption.watch() again.".into()),
            )
        };
        ReviewedTable {
            table,
            image,
            holds_pictures,
            columns,
            base_url,
            overwrite,
            keeps_blank,
            caller_path,
        }
    }

    /// The rows that a caller selects.
    pub fn selection(
        &self,
        keys: Option<Vec<Option<JsonB>>>,
        condition: Option<&str>,
    ) -> RowSelection {
        RowSelection::new(&self.table, keys, condition, &self.caller_path)
    }

    /// Raises unless the watch fills the column.
    pub fn require_column(&self, column: &str) {
        if !self.columns.iter().any(|known| known == column) {
            refuse(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("the watch of table {} does not fill \"{column}\"", self.table.name),
                Some(format!("It fills: {}.", self.columns.join(", "))),
                None,
            );
        }
    }

    /// The URL of a row `t`, as the ledger identifies it: an expression.
    pub fn url(&self) -> String {
        row_sql::url(&quote_identifier(&self.image), self.holds_pictures)
    }

    /// The filled columns, quoted.
    pub fn quoted_columns(&self) -> impl Iterator<Item = String> {
        self.columns.iter().map(quote_identifier)
    }

    /// Digests of the texts of a row `t`: an expression.
    pub fn text_digests(&self, columns: impl Iterator<Item = String>) -> String {
        row_sql::text_digests(columns, self.keeps_blank)
    }

    /// Locks and reads the row that `condition` finds by `$1`; `None`: the caller sees none.
    pub fn row(
        &self,
        selection: &RowSelection,
        condition: &str,
        key: DatumWithOid<'_>,
    ) -> Option<ReviewedRow> {
        let url = format!("coalesce({}, '')", self.url());
        let statement = format!(
            "SELECT {}, {}, {} FROM {} WHERE {condition} FOR NO KEY UPDATE",
            selection.key(),
            row_sql::digest(&url),
            self.text_digests(self.quoted_columns()),
            selection.table(),
        );
        spi(Spi::connect_mut(|client| {
            let Some(row) = client.update(&statement, Some(1), &[key])?.next() else {
                return Ok(None);
            };
            let texts: Vec<Option<String>> = row.get(3)?.unwrap_or_default();
            Ok::<_, pgrx::spi::Error>(Some(ReviewedRow {
                key: row.get::<JsonB>(1)?.map_or(Value::Null, |key| key.0),
                url: row.get(2)?.unwrap_or_default(),
                texts: texts.into_iter().map(FillText::from_column).collect(),
            }))
        }))
    }

    /// The ledger's entries of a row, by column.
    pub fn entries(&self, key: &Value) -> Map<String, Value> {
        let _extension = identity::as_extension();
        let arguments = [self.table.oid.into(), JsonB(key.clone()).into()];
        spi(Spi::connect_mut(|client| {
            let row = client.update(ENTRIES, Some(1), &arguments)?.next();
            let outputs = row.map(|row| row.get::<JsonB>(1)).transpose()?.flatten();
            Ok::<_, pgrx::spi::Error>(outputs.and_then(|outputs| outputs.0.as_object().cloned()))
        }))
        .unwrap_or_default()
    }

    /// Replaces the entry of a column; `now`: its text was written now.
    pub fn put(&self, key: &Value, column: &str, entry: Value, now: bool) {
        let _extension = identity::as_extension();
        let key = JsonB(key.clone());
        let arguments =
            [self.table.oid.into(), key.into(), column.into(), JsonB(entry).into(), now.into()];
        spi(Spi::run_with_args(PUT, &arguments));
    }

    /// Writes drafts of a locked row. Raises with the reason where one cannot be written.
    pub fn write(&self, selection: &RowSelection, row: &ReviewedRow, texts: &RowTexts) {
        let entries = self.entries(&row.key);
        let mut written: Vec<(&str, String, Value)> = Vec::new();
        for (column, text) in texts {
            let entry = entries.get(column).cloned().unwrap_or_default();
            let draft = pending(&entry).unwrap_or_else(|| refuse_row("there is no draft"));
            if draft.get("url").and_then(Value::as_str) != Some(row.url.as_str()) {
                refuse_row("the picture of the row has changed since the draft was made");
            }
            if self.is_of_a_user(row, column, &entry) {
                refuse_row("the column has a text that a user wrote");
            }
            let drafted = draft.get("written").and_then(Value::as_str).unwrap_or_default();
            let text = text.as_deref().unwrap_or(drafted).to_owned();
            let draft = revised(draft, &text);
            written.push((column, text, draft));
        }
        let stored = self.update(selection, &row.key, &written);
        for ((column, _, draft), stored) in written.into_iter().zip(stored) {
            self.put(&row.key, column, approved(draft, &stored), true);
        }
    }

    /// Whether a column has a text that is not in the ledger and stays.
    fn is_of_a_user(&self, row: &ReviewedRow, column: &str, entry: &Value) -> bool {
        let at = self.columns.iter().position(|known| known == column);
        let text = at.and_then(|at| row.texts.get(at)).unwrap_or(&FillText::Empty);
        if self.overwrite && *text != FillText::Blank {
            return false;
        }
        !text.is_empty() && entry.get("text").and_then(Value::as_str) != Some(&text.ledger_hash())
    }

    /// Updates the row as the caller would; returns its texts after that.
    fn update(
        &self,
        selection: &RowSelection,
        key: &Value,
        texts: &[(&str, String, Value)],
    ) -> Vec<FillText> {
        let columns = || texts.iter().map(|(column, ..)| quote_identifier(*column));
        let assigned: Vec<String> =
            columns().enumerate().map(|(n, column)| format!("{column} = ${}", n + 2)).collect();
        let statement = format!(
            "UPDATE {} SET {} WHERE {} RETURNING {}",
            selection.table(),
            assigned.join(", "),
            selection.by_ledger_key(),
            self.text_digests(columns()),
        );
        let mut arguments: Vec<DatumWithOid<'_>> = vec![JsonB(key.clone()).into()];
        arguments.extend(texts.iter().map(|(_, text, _)| DatumWithOid::from(text.as_str())));
        // The table's own triggers find what they find in the caller's session.
        let path = GucScope::open();
        path.set(c"search_path", &self.caller_path);
        let stored: Option<Vec<Option<String>>> = spi(Spi::connect_mut(|client| {
            let rows = client.update(&statement, Some(1), &arguments)?;
            rows.into_iter().next().map(|row| row.get(1)).transpose().map(Option::flatten)
        }));
        drop(path);
        let stored = stored
            .unwrap_or_else(|| refuse_row("a trigger or a policy of the table skipped the update"));
        stored.into_iter().map(FillText::from_column).collect()
    }

    /// The key as users see it.
    pub fn shown_key(&self, key: &Value) -> Value {
        let arguments = [self.table.oid.into(), JsonB(key.clone()).into()];
        let shown = select_one::<JsonB>("SELECT caption.key_object($1, $2)", &arguments);
        shown.map_or(Value::Null, |shown| shown.0)
    }

    /// Reports how many texts and rows were written, and what could not be.
    pub fn conclude(&self, rows: i64, done: &[(&str, i64)], problems: usize) {
        {
            let _extension = identity::as_extension();
            let count = "UPDATE caption.watch_state SET filled = filled + $2 WHERE relation = $1";
            spi(Spi::run_with_args(count, &[self.table.oid.into(), rows.into()]));
        }
        enqueue::announce_at_commit();
        let done: Vec<String> = done
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        let done = if done.is_empty() { "none changed".into() } else { done.join(", ") };
        match problems {
            0 => pgrx::notice!("texts of table {}: {done}", self.table.name),
            count => pgrx::notice!("texts of table {}: {done}, {count} refused", self.table.name),
        }
    }
}

/// The draft of an entry that waits for its review.
pub fn pending(entry: &Value) -> Option<Map<String, Value>> {
    let draft = entry.get(DRAFT)?.as_object()?;
    (draft.get("state")?.as_str() == Some(PENDING)).then(|| draft.clone())
}

/// A draft with another text. The text that the model wrote is kept.
pub fn revised(mut draft: Map<String, Value>, text: &str) -> Value {
    let before = draft.get("written").cloned().unwrap_or_default();
    if before.as_str() != Some(text) {
        draft.entry("original").or_insert(before);
        draft.insert("written".into(), text.into());
    }
    Value::Object(draft)
}

/// The entry of an approved draft. A text that a reviewer changed counts as a user's.
fn approved(mut draft: Value, stored: &FillText) -> Value {
    if let Some(entry) = draft.as_object_mut() {
        let original = entry.remove("original");
        let original = original.as_ref().and_then(Value::as_str);
        let hash =
            original.map_or(stored.ledger_hash(), |text| FillText::of(Some(text)).ledger_hash());
        if let Some(original) = original {
            entry.insert("written".into(), original.into());
        }
        entry.remove("image");
        entry.insert("text".into(), json!(hash));
        entry.insert("state".into(), APPROVED.into());
    }
    draft
}

/// A ledger entry with another draft.
pub fn with_draft(entry: &Value, draft: Value) -> Value {
    let mut entry = without_draft(entry).unwrap_or_else(|| json!({}));
    entry[DRAFT] = draft;
    entry
}

/// Raises an error about one row.
pub fn refuse_row(message: &str) -> ! {
    refuse(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, None, None)
}

/// Runs `body` in a subtransaction. A cancel of the session passes.
///
/// # Errors
/// What `body` raised, as text.
pub fn attempt<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    transaction::attempt(body).map_err(|RaisedError { code, message, detail }| {
        if matches!(
            code,
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
        ) {
            refuse(code, message, detail, None);
        }
        message
    })
}
