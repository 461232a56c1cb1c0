//! `caption.import_review`: what a reviewer decided on a contact sheet.
//!
//! Called by SQL. Each line is carried out in a subtransaction. A draft that is not the one that
//! the reviewer saw is left alone.

use super::super::arguments::require_value;
use super::super::pin_path;
use super::super::selection::RowSelection;
use super::decide::{rejection, require_text};
use super::drafts::{
    ReviewedRow, ReviewedTable, attempt, pending, refuse_row, revised, with_draft,
};
use crate::pg::report::refuse;
use pg_caption_queue::draft_version;
use pg_caption_sheet::{Decision, ReviewError, ReviewLine, read_review};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;

/// Longest key of a line that is read, bytes.
const MAX_KEY: usize = 10_000;

/// What became of a line.
enum LineResult {
    Approved,
    Rejected,
    Revised,
    Unchanged,
}

/// `caption.import_review(relation, csv)`: what could not be carried out.
#[pg_extern(sql = false, volatile)]
#[allow(clippy::type_complexity)]
fn import_review(
    relation: Option<pg_sys::Oid>,
    csv: Option<&str>,
) -> TableIterator<'static, (name!(key, JsonB), name!(column_name, String), name!(error, String))> {
    let (pinned, caller_path) = pin_path();
    let of = ReviewedTable::open(relation, caller_path, true);
    let csv = require_value(csv, "csv", "It is the content of the file that the page has saved.");
    let lines = read_review(csv).unwrap_or_else(|error| refuse_csv(&error));
    let selection = of.selection(None, None);
    let (mut approved, mut rejected, mut changed, mut problems) = (0, 0, 0, Vec::new());
    for line in lines {
        pgrx::check_for_interrupts!();
        match attempt(|| carry_out(&of, &selection, &line)) {
            Ok(LineResult::Approved) => approved += 1,
            Ok(LineResult::Rejected) => rejected += 1,
            Ok(LineResult::Revised) => changed += 1,
            Ok(LineResult::Unchanged) => {}
            Err(error) => {
                let shown = line.key.chars().take(100).collect::<String>();
                let key = serde_json::from_str(&line.key).unwrap_or(Value::String(shown));
                problems.push((JsonB(key), line.column, error));
            }
        }
    }
    let done = [("approved", approved), ("rejected", rejected), ("changed", changed)];
    of.conclude(approved, &done, problems.len());
    drop(pinned);
    TableIterator::new(problems)
}

fn refuse_csv(error: &ReviewError) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
        format!("the review cannot be read: {error}"),
        None,
        Some("Give the CSV as caption.contact_sheet() saves it, with all its columns.".into()),
    )
}

fn carry_out(of: &ReviewedTable, selection: &RowSelection, line: &ReviewLine) -> LineResult {
    if !of.columns.contains(&line.column) {
        refuse_row("the watch does not fill this column");
    }
    let row = find(of, selection, &line.key);
    let entry = of.entries(&row.key).get(&line.column).cloned().unwrap_or_default();
    let Some(draft) = pending(&entry) else { refuse_row("there is no draft") };
    if draft_version(&draft) != line.version {
        refuse_row("the draft has changed since the page was made");
    }
    let before = draft.get("written").and_then(Value::as_str).unwrap_or_default();
    // A text field of a page has no carriage returns.
    let is_changed = line.text.replace('\r', "") != before.replace('\r', "");
    match line.decision {
        Decision::Approve => {
            if is_changed {
                require_text(&line.text);
            }
            let text = is_changed.then(|| line.text.clone());
            of.write(selection, &row, &vec![(line.column.clone(), text)]);
            LineResult::Approved
        }
        Decision::Reject => {
            let mut draft = Value::Object(draft);
            let note = rejection(Some(&line.reason));
            for (name, value) in note.as_object().into_iter().flatten() {
                draft[name] = value.clone();
            }
            of.put(&row.key, &line.column, with_draft(&entry, draft), false);
            LineResult::Rejected
        }
        Decision::Later if is_changed => {
            require_text(&line.text);
            let entry = with_draft(&entry, revised(draft, &line.text));
            of.put(&row.key, &line.column, entry, false);
            LineResult::Revised
        }
        Decision::Later => LineResult::Unchanged,
    }
}

/// The row of a key, which must have exactly the columns of the table's key.
fn find(of: &ReviewedTable, selection: &RowSelection, key: &str) -> ReviewedRow {
    let names: Option<Value> =
        (key.len() <= MAX_KEY).then(|| serde_json::from_str(key).ok()).flatten();
    if !names.is_some_and(|names| selection.is_key(&names)) {
        refuse_row("this is no key of the table");
    }
    // As text: PostgreSQL reads numbers as they are written.
    let row = of.row(selection, &selection.by_shown_key(), key.to_owned().into());
    row.unwrap_or_else(|| refuse_row("the row does not exist"))
}
