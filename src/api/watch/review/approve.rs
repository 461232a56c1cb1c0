//! `caption.approve`: writes drafts into their table.
//!
//! Called by SQL. Each row is written in a subtransaction, so that one that its table refuses stops
//! no other.

use super::super::pin_path;
use super::drafts::{ReviewedTable, RowTexts, attempt, refuse_row};
use crate::pg::report::{refuse, spi};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;

/// Rows that are read in one step.
const PAGE: i64 = 200;

/// `caption.approve(relation, keys, min_confidence, condition, column_name)`: what could not be
/// written.
#[pg_extern(sql = false, volatile)]
#[allow(clippy::type_complexity)]
fn approve(
    relation: Option<pg_sys::Oid>,
    keys: Option<Vec<Option<JsonB>>>,
    min_confidence: Option<f32>,
    condition: Option<&str>,
    column_name: Option<&str>,
) -> TableIterator<'static, (name!(key, JsonB), name!(column_name, String), name!(error, String))> {
    let (pinned, caller_path) = pin_path();
    if min_confidence.is_some_and(|confidence| !(0.0..=1.0).contains(&confidence)) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "min_confidence must be between 0 and 1",
            None,
            Some("Texts without a confidence are approved without it only.".into()),
        );
    }
    let of = ReviewedTable::open(relation, caller_path, true);
    if let Some(column) = column_name {
        of.require_column(column);
    }
    let selection = of.selection(keys, condition);
    // The pages are read before rows are written: the statement sees no row twice.
    let statement = format!(
        "SELECT w.key, array_agg(w.column_name::text ORDER BY w.column_name) \
           FROM {} JOIN caption.written_text AS w ON w.key = {} \
          WHERE w.relation = {}::regclass AND w.entry#>>'{{draft,state}}' = 'draft' \
            AND ($2::real IS NULL OR (w.entry#>>'{{draft,confidence}}')::real >= $2) \
            AND ($3::text IS NULL OR w.column_name = $3){} \
          GROUP BY w.key",
        selection.table(),
        selection.key(),
        of.table.oid.to_u32(),
        selection.conditions()
    );
    let arguments =
        [selection.listed().into(), min_confidence.into(), column_name.map(str::to_owned).into()];
    let (mut rows, mut texts, mut problems) = (0, 0, Vec::new());
    spi(Spi::connect_mut(|client| {
        let mut cursor = client.try_open_cursor_mut(&*statement, &arguments)?;
        loop {
            let page = cursor.fetch(PAGE)?;
            let page = page.map(|row| {
                let key = row.get::<JsonB>(1)?.map_or(Value::Null, |key| key.0);
                Ok((key, row.get::<Vec<String>>(2)?.unwrap_or_default()))
            });
            let page = page.collect::<Result<Vec<_>, pgrx::spi::Error>>()?;
            if page.is_empty() {
                return Ok::<_, pgrx::spi::Error>(());
            }
            for (key, columns) in page {
                pgrx::check_for_interrupts!();
                let drafts: RowTexts = columns.iter().map(|name| (name.clone(), None)).collect();
                let result = attempt(|| {
                    let by_key = selection.by_ledger_key();
                    match of.row(&selection, &by_key, JsonB(key.clone()).into()) {
                        Some(row) => of.write(&selection, &row, &drafts),
                        None => refuse_row("the row does not exist"),
                    }
                });
                match result {
                    Ok(()) => (rows, texts) = (rows + 1, texts + columns.len() as i64),
                    Err(error) => {
                        let shown = of.shown_key(&key);
                        let row = |column| (JsonB(shown.clone()), column, error.clone());
                        problems.extend(columns.into_iter().map(row));
                    }
                }
            }
        }
    }));
    of.conclude(rows, &[("approved", texts)], problems.len());
    drop(pinned);
    TableIterator::new(problems)
}
