//! Rows that were uncertain under another `pg_caption.min_confidence`: they are judged again once
//! the setting may accept them. Each failure keeps the setting that it was judged by.

use super::transaction::spi;
use crate::settings;
use pgrx::prelude::*;
use std::cell::Cell;

thread_local! {
    /// The setting of the last [`judge_again`]; `None`: there was none.
    static JUDGED: Cell<Option<Option<f32>>> = const { Cell::new(None) };
}

/// Rows with a fallback are captioned again, too. Where each fill has a threshold of its own the
/// setting decides nothing.
///
/// A NULL is the threshold of the model, which may be higher or lower. Under a higher one, a row
/// that was uncertain stays so.
const JUDGE_AGAIN: &str = "\
    WITH judged AS ( \
           DELETE FROM caption.failed f \
            WHERE f.code = 'low_confidence' AND f.threshold IS DISTINCT FROM $1 \
              AND (f.threshold <= $1) IS NOT TRUE \
              AND f.relation IN ( \
                  SELECT w.relation::oid FROM caption.watch w, jsonb_each(w.fills) AS c \
                   WHERE jsonb_typeof(c.value) = 'string' \
                      OR c.value->'min_confidence' IS NULL) \
        RETURNING f.relation, f.key), \
      fallbacks AS ( \
           UPDATE caption.ledger l SET recaption = 1 FROM judged j \
            WHERE l.relation::oid = j.relation AND l.key = j.key \
              AND jsonb_path_exists(l.outputs, '$.* ? (@.source == \"fallback\")')), \
      numbered AS ( \
           SELECT j.relation, j.key, row_number() OVER (PARTITION BY j.relation) AS number \
             FROM judged j) \
    INSERT INTO caption.queue (relation, keys, n) \
    SELECT n.relation, json_agg(n.key), count(*) FROM numbered n \
     GROUP BY n.relation, n.number / 200";

/// Whether the setting has changed since the last [`judge_again`].
pub fn has_changed() -> bool {
    JUDGED.get() != Some(settings::min_confidence())
}

/// Queues rows again that were judged by another setting; before the queue is read.
pub fn judge_again() {
    if has_changed() {
        let setting = settings::min_confidence();
        spi(Spi::run_with_args(JUDGE_AGAIN, &[setting.into()]));
        JUDGED.set(Some(setting));
    }
}
