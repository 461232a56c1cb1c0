//! `caption.recaption`: rows that are captioned again.
//!
//! Called by SQL. All rows are found by the backfill, so that millions of them need no entry in the
//! queue. Selected rows are marked in the ledger and queued.

use super::arguments::require_value;
use super::control::{lock_state, require_watched};
use super::pin_path;
use super::selection::RowSelection;
use crate::hooks::enqueue;
use crate::pg::identity;
use crate::pg::report::spi;
use crate::shared;
use pgrx::JsonB;
use pgrx::prelude::*;

const RESTART_BACKFILL: &str = "\
    INSERT INTO caption.watch_state AS s (relation, recaption_before) \
    VALUES ($1, clock_timestamp() - $2) \
    ON CONFLICT (relation) DO UPDATE \
       SET recaption_before = excluded.recaption_before, backfill_run = s.backfill_run + 1, \
           backfill_after = NULL, backfill_done = false, backfilled = 0, problem = NULL";

/// `$3`: 1, or 2 for rows that are captioned again even if nothing has changed. These forget that
/// texts were withdrawn or drafts rejected.
const MARK: &str = "\
    UPDATE caption.ledger l \
       SET recaption = $3, \
           outputs = CASE WHEN $3 = 2 THEN ( \
                          SELECT jsonb_object_agg(o.key, o.value \
                                     - CASE o.value->>'state' WHEN 'withdrawn' THEN 'state' \
                                            ELSE '' END \
                                     - CASE o.value#>>'{draft,state}' WHEN 'rejected' \
                                            THEN 'draft' ELSE '' END) \
                            FROM jsonb_each(l.outputs) o) \
                          ELSE l.outputs END \
     WHERE l.relation = $1 AND l.at < clock_timestamp() - $2 AND l.outputs <> '{}'";

const QUEUE: &str = "\
    INSERT INTO caption.queue (relation, keys, n) \
    SELECT $1, to_json($2), cardinality($2)";

/// `caption.recaption(relation, older_than, condition, keys, force)`.
#[pg_extern(sql = false, volatile)]
fn recaption(
    relation: Option<pg_sys::Oid>,
    older_than: Option<pgrx::datum::Interval>,
    condition: Option<&str>,
    keys: Option<Vec<Option<JsonB>>>,
    force: Option<bool>,
) {
    shared::require_ready();
    let (pinned, caller_path) = pin_path();
    let table = require_watched(relation);
    let relation = table.oid;
    let older_than = require_value(
        older_than,
        "older_than",
        "It is an interval; the default, '0', selects everything that pg_caption has written.",
    );
    let mark: i16 = if force == Some(true) { 2 } else { 1 };
    let selection = RowSelection::new(&table, keys, condition, &caller_path);
    if selection.is_all() {
        let _extension = identity::as_extension();
        lock_state(relation);
        if mark == 2 {
            let arguments = [relation.into(), older_than.into(), mark.into()];
            spi(Spi::run_with_args(MARK, &arguments));
        }
        spi(Spi::run_with_args(RESTART_BACKFILL, &[relation.into(), older_than.into()]));
    } else {
        let marked = format!("{MARK} AND l.key = ANY ($4)");
        let rows = selection.for_each_page(&selection.keys_statement(), |keys| {
            let again = keys.iter().map(|key| JsonB(key.0.clone())).collect::<Vec<_>>();
            let arguments = [relation.into(), older_than.into(), mark.into(), again.into()];
            spi(Spi::run_with_args(&marked, &arguments));
            spi(Spi::run_with_args(QUEUE, &[relation.into(), keys.into()]));
        });
        match rows {
            1 => pgrx::notice!("1 row of table {} is examined again", table.name),
            _ => pgrx::notice!("{rows} rows of table {} are examined again", table.name),
        }
    }
    enqueue::announce_at_commit();
    drop(pinned);
}
