//! Records a watch in the extension's tables.
//!
//! Called by `watch`, after the triggers were created.

use super::plan::WatchPlan;
use crate::pg::identity;
use crate::pg::report::spi;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;

const INSERT_WATCH: &str = "\
    INSERT INTO caption.watch \
           (relation, image_url, fills, keys, max_tokens, overwrite, on_replica, superuser_since) \
    SELECT $1::regclass, $2::name, $3, $4::name[], $5, $6, $7, \
           CASE WHEN r.rolsuper THEN clock_timestamp() END \
      FROM pg_roles r WHERE r.oid = $8 \
    ON CONFLICT (relation) DO UPDATE \
       SET image_url = excluded.image_url, fills = excluded.fills, keys = excluded.keys, \
           max_tokens = excluded.max_tokens, overwrite = excluded.overwrite, \
           on_replica = excluded.on_replica, superuser_since = excluded.superuser_since, \
           paused = false";

/// The run's number must be new for the table, also after `unwatch` has removed the previous one: a
/// worker that has finished a run of the same number would skip the new one.
const RESTART_BACKFILL: &str = "\
    INSERT INTO caption.watch_state AS s (relation, backfill_run) \
    VALUES ($1, (pg_current_xact_id()::text::int8 % 1073741824)::int4) \
    ON CONFLICT (relation) DO UPDATE \
       SET backfill_run = s.backfill_run + 1, backfill_after = NULL, backfill_done = false, \
           backfilled = 0, problem = NULL";

/// Records the watch and restarts the backfill: columns, styles or the key may have changed.
pub fn register(plan: &WatchPlan<'_>) {
    let (arguments, table) = (plan.arguments, &plan.table);
    let fills = arguments.fills.iter().cloned();
    let fills = fills.map(|(column, style)| (column, Value::String(style))).collect();
    let _extension = identity::as_extension();
    spi(Spi::run_with_args(
        INSERT_WATCH,
        &[
            table.oid.into(),
            arguments.image_url.as_str().into(),
            JsonB(Value::Object(fills)).into(),
            plan.keys.clone().into(),
            arguments.max_tokens.into(),
            arguments.overwrite.into(),
            arguments.on_replica.into(),
            table.owner.into(),
        ],
    ));
    spi(Spi::run_with_args(RESTART_BACKFILL, &[table.oid.into()]));
}
