//! `caption.withdraw`: takes machine-written texts out again.
//!
//! Called by SQL. Texts are emptied with the caller's rights, and the ledger notes it: nothing is
//! written for that picture until a caption is forced. Texts that a user has edited stay.

use super::control::{lock_state, require_watched};
use super::pin_path;
use super::selection::RowSelection;
use crate::hooks::enqueue;
use crate::pg::identity;
use crate::pg::report::spi;
use crate::pg::row_sql;
use pg_caption_queue::{FillText, WITHDRAWN};
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};
use serde_json::json;

const COLUMNS: &str = "\
    SELECT f.name FROM caption.watch w CROSS JOIN jsonb_object_keys(w.fills) AS f (name) \
     WHERE w.relation = $1 ORDER BY f.name";

const NOTE: &str = "\
    UPDATE caption.ledger \
       SET outputs = jsonb_set(outputs, ARRAY[$3], (outputs->$3) || $4) \
     WHERE relation = $1 AND key = ANY ($2) AND outputs ? $3";

/// `caption.withdraw(relation, condition, keys)`: the number of texts.
#[pg_extern(sql = false, volatile)]
fn withdraw(
    relation: Option<pg_sys::Oid>,
    condition: Option<&str>,
    keys: Option<Vec<Option<JsonB>>>,
) -> i64 {
    let (pinned, caller_path) = pin_path();
    let table = require_watched(relation);
    {
        // The worker writes nothing into the table until this transaction ends.
        let _extension = identity::as_extension();
        lock_state(table.oid);
    }
    let selection = RowSelection::new(&table, keys, condition, &caller_path);
    let columns: Vec<String> = spi(Spi::connect(|client| {
        let rows = client.select(COLUMNS, None, &[table.oid.into()])?;
        rows.map(|row| Ok::<_, pgrx::spi::Error>(row.get(1)?.unwrap_or_default())).collect()
    }));
    let note = json!({ "state": WITHDRAWN, "text": FillText::Empty.ledger_hash() });
    let mut texts = 0;
    for column in columns {
        let statement = statement(&selection, table.oid, &column);
        texts += selection.for_each_page(&statement, |keys| {
            let note = JsonB(note.clone());
            let arguments = [table.oid.into(), keys.into(), column.clone().into(), note.into()];
            spi(Spi::run_with_args(NOTE, &arguments));
        });
    }
    enqueue::announce_at_commit();
    drop(pinned);
    texts
}

/// Empties the machine-written texts of one column; returns the keys of their rows.
fn statement(selection: &RowSelection, relation: pg_sys::Oid, column: &str) -> String {
    let quoted = quote_identifier(column);
    format!(
        "UPDATE {} SET {quoted} = DEFAULT \
           FROM caption.written_text AS w \
          WHERE w.relation = {}::regclass AND w.column_name = {} AND w.key = {} \
            AND t.{quoted}::text <> '' \
            AND {} = w.entry->>'text'{} \
         RETURNING w.key",
        selection.table(),
        relation.to_u32(),
        quote_literal(column),
        selection.key(),
        row_sql::digest(&format!("t.{quoted}::text")),
        selection.conditions()
    )
}
