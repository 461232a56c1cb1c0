//! Records a watch in the extension's tables.
//!
//! Called by `watch`, after the triggers were created.

use super::arguments::WatchOptions;
use super::plan::WatchPlan;
use crate::pg::condition::RowCondition;
use crate::pg::identity;
use crate::pg::report::{select_one, spi};
use pg_caption_style::FillDefinition;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;

const INSERT_WATCH: &str = "\
    INSERT INTO caption.watch \
           (relation, image, fills, keys, max_tokens, overwrite, on_replica, base_url, \
            sign, condition, condition_columns, superuser_since, named, context, \
            follow_context, blank, followed, review, notify) \
    SELECT $1::regclass, $2::name, $3, $4::name[], $5, $6, $7, $9, $12, $10, $11::name[], \
           CASE WHEN r.rolsuper THEN clock_timestamp() END, ARRAY[n.nspname, c.relname], \
           $13::name[], $14, CASE WHEN $15 THEN 'keep' END, $16::name[], $17, $18 \
      FROM pg_roles r, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE r.oid = $8 AND c.oid = $1 \
    ON CONFLICT (relation) DO UPDATE \
       SET image = excluded.image, fills = excluded.fills, keys = excluded.keys, \
           max_tokens = excluded.max_tokens, overwrite = excluded.overwrite, \
           on_replica = excluded.on_replica, base_url = excluded.base_url, \
           sign = excluded.sign, review = excluded.review, condition = excluded.condition, \
           condition_columns = excluded.condition_columns, \
           superuser_since = excluded.superuser_since, named = excluded.named, \
           context = excluded.context, follow_context = excluded.follow_context, \
           blank = excluded.blank, followed = excluded.followed, \
           notify = excluded.notify, \
           paused = false, backfill = false, batch = NULL";

/// The run's number must be new for the table, also after `unwatch` has removed the previous one: a
/// worker that has finished a run of the same number would skip the new one.
const RESTART_BACKFILL: &str = "\
    INSERT INTO caption.watch_state AS s (relation, backfill_run) \
    VALUES ($1, (pg_current_xact_id()::text::int8 % 1073741824)::int4) \
    ON CONFLICT (relation) DO UPDATE \
       SET backfill_run = s.backfill_run + 1, backfill_after = NULL, backfill_done = false, \
           backfilled = 0, problem = NULL";

const OPTIONS: &str = "\
    SELECT w.image::text, w.fills, w.max_tokens, w.overwrite, w.on_replica, w.base_url, \
           w.sign, w.condition, w.context::text[], w.follow_context, w.blank = 'keep', w.review, \
           w.notify \
      FROM caption.watch w WHERE w.relation = $1 AND w.backfill = $2";

/// The options of an existing watch, or of a backfill; `None`: the table has none.
pub fn options(relation: pg_sys::Oid, is_backfill: bool) -> Option<WatchOptions> {
    let _extension = identity::as_extension();
    spi(Spi::connect(|client| {
        let Some(row) =
            client.select(OPTIONS, Some(1), &[relation.into(), is_backfill.into()])?.next()
        else {
            return Ok(None);
        };
        let fills = row.get::<JsonB>(2)?.and_then(|fills| fills.0.as_object().cloned());
        // What cannot be read stops the watch; the caller of caption.watch() replaces it.
        let fill = |(column, value): (String, Value)| {
            Some((column, FillDefinition::from_json(&value).ok()?))
        };
        let fills = fills.into_iter().flatten().filter_map(fill);
        Ok::<_, pgrx::spi::Error>(Some(WatchOptions {
            image: row.get(1)?.unwrap_or_default(),
            fills: fills.collect(),
            max_tokens: row.get(3)?.unwrap_or_default(),
            overwrite: row.get(4)?.unwrap_or_default(),
            on_replica: row.get(5)?.unwrap_or_default(),
            base_url: row.get(6)?,
            sign: row.get(7)?,
            condition: row.get(8)?,
            context: row.get(9)?.unwrap_or_default(),
            follow_context: row.get(10)?.unwrap_or_default(),
            keeps_blank: row.get(11)?.unwrap_or_default(),
            review: row.get(12)?.unwrap_or_default(),
            notify: row.get(13)?,
        }))
    }))
}

/// The key columns of a watch.
pub fn keys(relation: pg_sys::Oid) -> Vec<String> {
    let _extension = identity::as_extension();
    let keys = "SELECT w.keys::text[] FROM caption.watch w WHERE w.relation = $1";
    select_one(keys, &[relation.into()]).unwrap_or_default()
}

/// The columns that the condition of a watch names.
pub fn condition_columns(relation: pg_sys::Oid) -> Vec<String> {
    let _extension = identity::as_extension();
    let columns = "SELECT w.condition_columns::text[] FROM caption.watch w WHERE w.relation = $1";
    select_one(columns, &[relation.into()]).unwrap_or_default()
}

const SET_CONDITION: &str = "\
    UPDATE caption.watch SET condition = $2, condition_columns = $3::name[] WHERE relation = $1";

/// Records how the condition of a watch is written now.
pub fn set_condition(relation: pg_sys::Oid, condition: &RowCondition) {
    let _extension = identity::as_extension();
    let (text, columns) = (condition.text.clone(), condition.columns.clone());
    spi(Spi::run_with_args(SET_CONDITION, &[relation.into(), text.into(), columns.into()]));
}

/// Records the watch and restarts the backfill: columns, styles or the key may have changed.
pub fn register(plan: &WatchPlan<'_>) {
    let (options, table) = (plan.options, &plan.table);
    let fills = options.fills.iter();
    let fills = fills.map(|(column, fill)| (column.clone(), fill.to_json())).collect();
    let _extension = identity::as_extension();
    spi(Spi::run_with_args(
        INSERT_WATCH,
        &[
            table.oid.into(),
            options.image.as_str().into(),
            JsonB(Value::Object(fills)).into(),
            plan.keys.clone().into(),
            options.max_tokens.into(),
            options.overwrite.into(),
            options.on_replica.into(),
            table.owner.into(),
            options.base_url.clone().into(),
            plan.condition.as_ref().map(|condition| condition.text.clone()).into(),
            plan.condition.as_ref().map(|condition| condition.columns.clone()).into(),
            options.sign.clone().into(),
            Some(options.context.clone()).filter(|context| !context.is_empty()).into(),
            options.follow_context.into(),
            options.keeps_blank.into(),
            Some(plan.followed.clone()).filter(|followed| !followed.is_empty()).into(),
            options.review.into(),
            options.notify.clone().into(),
        ],
    ));
    spi(Spi::run_with_args(RESTART_BACKFILL, &[table.oid.into()]));
}
