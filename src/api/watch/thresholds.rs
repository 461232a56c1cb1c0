//! A changed `min_confidence` of a fill: rows that were uncertain are judged again, also those that
//! have a fallback.
//!
//! Called by `watch`, which restarts the backfill: that finds the rows with empty columns. A change
//! of the setting is the worker's (`worker::thresholds`).

use super::arguments::FillMap;
use crate::pg::identity;
use crate::pg::report::spi;
use pgrx::prelude::*;

/// Marks uncertain rows that have a fallback; the backfill finds them by it.
const JUDGE_AGAIN: &str = "\
    UPDATE caption.ledger l SET recaption = 1 \
      FROM caption.failed f \
     WHERE f.relation = $1 AND f.code = 'low_confidence' \
       AND l.relation = $1 AND l.key = f.key \
       AND EXISTS (SELECT FROM unnest($2) AS c (name) \
                    WHERE l.outputs->c.name->>'source' = 'fallback')";

/// Whether a threshold may accept what another one refused. `None` is that of the server.
fn may_accept(before: Option<f64>, after: Option<f64>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => after < before,
        (before, after) => before != after,
    }
}

/// Judges rows again after a change of fills.
pub fn judge_again(relation: pg_sys::Oid, before: &FillMap, after: &FillMap) {
    let is_changed = |(column, fill): &&(String, _)| {
        let fill: &pg_caption_style::FillDefinition = fill;
        before.iter().any(|(known, old)| {
            known == column && may_accept(old.min_confidence, fill.min_confidence)
        })
    };
    let changed: Vec<String> =
        after.iter().filter(is_changed).map(|(column, _)| column.clone()).collect();
    if !changed.is_empty() {
        let _extension = identity::as_extension();
        spi(Spi::run_with_args(JUDGE_AGAIN, &[relation.into(), changed.into()]));
    }
}
