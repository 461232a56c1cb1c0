//! `caption.reject` and `caption.revise`: drafts that are not written, or not as they are.
//!
//! Called by SQL. They change the ledger only.

use super::super::arguments::require_value;
use super::super::pin_path;
use super::drafts::{ReviewedTable, pending, refuse_row, revised, with_draft};
use crate::hooks::enqueue;
use crate::pg::report::{refuse, spi};
use pg_caption_queue::{DRAFT, MAX_HASHED_BYTES, PENDING, REJECTED};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Value, json};

/// Longest reason, characters.
const MAX_REASON: usize = 1000;

const REJECT: &str = "\
    UPDATE caption.ledger \
       SET outputs = jsonb_set(outputs, ARRAY[$3, 'draft'], (outputs#>ARRAY[$3, 'draft']) || $4) \
     WHERE relation = $1 AND key = ANY ($2) AND outputs#>>ARRAY[$3, 'draft', 'state'] = 'draft'";

/// `caption.reject(relation, keys, condition, column_name, reason)`: the number of texts.
#[pg_extern(sql = false, volatile)]
fn reject(
    relation: Option<pg_sys::Oid>,
    keys: Option<Vec<Option<JsonB>>>,
    condition: Option<&str>,
    column_name: Option<&str>,
    reason: Option<&str>,
) -> i64 {
    let (pinned, caller_path) = pin_path();
    let of = ReviewedTable::open(relation, caller_path, true);
    if let Some(column) = column_name {
        of.require_column(column);
    }
    let selection = of.selection(keys, condition);
    let note = rejection(reason);
    let mut texts = 0;
    for column in of.columns.iter().filter(|name| column_name.is_none_or(|only| only == *name)) {
        let statement = format!(
            "SELECT w.key FROM {} JOIN caption.written_text AS w ON w.key = {} \
              WHERE w.relation = {}::regclass AND w.column_name = {} \
                AND w.entry#>>'{{draft,state}}' = 'draft'{}",
            selection.table(),
            selection.key(),
            of.table.oid.to_u32(),
            pgrx::spi::quote_literal(column),
            selection.conditions()
        );
        texts += selection.for_each_page(&statement, |keys| {
            let note = JsonB(note.clone());
            let arguments = [of.table.oid.into(), keys.into(), column.as_str().into(), note.into()];
            spi(Spi::run_with_args(REJECT, &arguments));
        });
    }
    enqueue::announce_at_commit();
    drop(pinned);
    texts
}

/// What a rejection changes in a draft.
pub fn rejection(reason: Option<&str>) -> Value {
    let reason: Option<String> = reason
        .map(|reason| reason.trim().chars().take(MAX_REASON).collect::<String>())
        .filter(|reason| !reason.is_empty());
    json!({ "state": REJECTED, "reason": reason })
}

/// `caption.revise(relation, key, column_name, text)`.
#[pg_extern(sql = false, volatile)]
fn revise(
    relation: Option<pg_sys::Oid>,
    key: Option<JsonB>,
    column_name: Option<&str>,
    text: Option<&str>,
) {
    let (pinned, caller_path) = pin_path();
    let of = ReviewedTable::open(relation, caller_path, true);
    let key = require_value(key, "key", "Keys are objects, as caption.texts() shows them.");
    let column = require_value(column_name, "column_name", "It is a column of the watch.");
    let text = require_value(text, "text", "caption.reject() leaves the column empty.");
    of.require_column(column);
    require_text(text);
    let selection = of.selection(Some(vec![Some(key)]), None);
    let statement = selection.keys_statement();
    let found = selection.for_each_page(&statement, |keys| {
        for JsonB(key) in keys {
            let entry = of.entries(&key).get(column).cloned().unwrap_or_default();
            let mut draft = entry.get(DRAFT).cloned().unwrap_or_default();
            // A rejected draft with another text waits for a review again.
            if let Some(draft) = draft.as_object_mut() {
                draft.insert("state".into(), PENDING.into());
                draft.remove("reason");
            }
            let Some(draft) = pending(&json!({ DRAFT: draft })) else {
                refuse_row(&format!("column \"{column}\" of this row has no draft"))
            };
            of.put(&key, column, with_draft(&entry, revised(draft, text)), false);
        }
    });
    if found == 0 {
        refuse(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            format!("table {} has no row with this key", of.table.name),
            None,
            None,
        );
    }
    drop(pinned);
}

/// Raises for a text that no draft can have.
pub fn require_text(text: &str) {
    if text.trim().is_empty() || text.len() > MAX_HASHED_BYTES {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "text is empty or too long",
            Some(format!("A text has 1 to {MAX_HASHED_BYTES} bytes.")),
            Some("caption.reject() leaves the column empty.".into()),
        );
    }
}
