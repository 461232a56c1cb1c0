//! `caption.watch` and its companions: everything is validated before anything is changed.

use crate::pg::report::{refuse, spi};
use crate::pg::table::{self, Column, Table};
use crate::{api::style, hooks::enqueue, pg::identity, pg::triggers, release, shared};
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::Value;
use std::ffi::CStr;

/// Column to style, in the order of the JSON object, every style known.
fn parse_fills(fills: &Value) -> Vec<(String, String)> {
    let bad = |why: &str| -> ! {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("fills {why}"),
            None,
            Some(FILLS.into()),
        )
    };
    let Some(object) = fills.as_object() else { bad("is not a JSON object") };
    if object.is_empty() {
        bad("names no column");
    }
    object
        .iter()
        .map(|(column, name)| {
            let Some(name) = name.as_str() else { bad("names a style that is not a string") };
            style::resolve(name);
            (column.clone(), name.to_string())
        })
        .collect()
}

/// Warns where a column is too short for what a style is to write there: the worker cuts texts to
/// fit.
fn warn_if_narrow(table: &Table, column: &Column, style: &str) {
    let least = style::resolve(style).rules.min_chars;
    if let Some(length) = column.length.filter(|length| *length < least) {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("column \"{}\" of table {} holds {length} characters, style \"{style}\" asks for at least {least}", column.name, table.name),
            "pg_caption",
        )
        .set_detail(format!("Texts are cut to {length} characters."))
        .set_hint("A wider column, or a style of your own with a smaller min_chars (see caption.style), says more.")
        .report(PgLogLevel::WARNING);
    }
}

/// Raises for a NULL where a value is needed; PostgreSQL would skip the call without a word if the
/// functions were STRICT.
fn given<T>(value: Option<T>, name: &str, allowed: &str) -> T {
    value.unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("{name} is NULL"),
            None,
            Some(allowed.into()),
        )
    })
}

const A_TABLE: &str = "It must be a table that there is.";
const FILLS: &str = "It maps columns to styles, e.g. '{\"alt\": \"concise\", \"seo\": \"seo\"}', which is the default.";

/// `caption.watch(…)`.
#[pg_extern(sql = false, volatile)]
fn watch(
    relation: Option<pg_sys::Oid>,
    image_url: Option<&CStr>,
    fills: Option<JsonB>,
    max_tokens: Option<i32>,
    overwrite: Option<bool>,
    on_replica: Option<bool>,
) {
    shared::require_ready();
    require_writable();
    release::warn_caller();
    let relation = given(relation, "relation", A_TABLE);
    let image_url =
        given(image_url, "image_url", "It names the column of the URLs; the default is image_url.")
            .to_string_lossy()
            .into_owned();
    let fills = given(fills, "fills", FILLS);
    let max_tokens = given(max_tokens, "max_tokens", "It is 32 to 256; the default is 64.");
    let overwrite = given(overwrite, "overwrite", "It is true or false, the default.");
    let on_replica = given(on_replica, "on_replica", "It is true or false, the default.");
    style::tokens(max_tokens);
    let table = table::describe(relation);
    let kind = match table.kind.as_str() {
        "r" | "p" => None,
        "v" => Some("a view"),
        "m" => Some("a materialized view"),
        "f" => Some("a foreign table"),
        _ => Some("not a table"),
    };
    if let Some(kind) = kind {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is {kind}", table.name),
            None,
            Some("Ordinary and partitioned tables can be watched.".into()),
        );
    }
    if !table.persistent {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is a temporary table", table.name),
            None,
            Some("Its rows are seen by no other session.".into()),
        );
    }
    if table.ours {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} is a table of pg_caption itself", table.name),
            None,
            None,
        );
    }
    table::require_ownership(&table);
    table::require_no_other_watch(&table);
    let url = table::column(&table, &image_url);
    table::require_text(&table, &url);
    let fills = parse_fills(&fills.0);
    for (name, style) in &fills {
        let filled = table::column(&table, name);
        table::require_text(&table, &filled);
        if filled.generated {
            refuse(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("column \"{name}\" of table {} is generated", table.name),
                None,
                Some("A generated column cannot be filled.".into()),
            );
        }
        warn_if_narrow(&table, &filled, style);
        if *name == image_url {
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("column \"{name}\" cannot hold both the URL and its caption"),
                None,
                None,
            );
        }
    }
    let keys = table::key(&table);
    let key_columns: Vec<Column> = keys.iter().map(|name| table::column(&table, name)).collect();
    for column in &key_columns {
        table::require_comparable(&table, column);
    }
    if let Some((name, _)) = fills.iter().find(|(name, _)| keys.contains(name)) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("column \"{name}\" is part of the key and cannot be filled"),
            None,
            None,
        );
    }
    let key: Vec<triggers::Key> = key_columns
        .iter()
        .map(|column| triggers::Key { name: &column.name, base: column.base_kind })
        .collect();
    triggers::drop(table.oid, &table.name);
    triggers::create(
        &table.name,
        table.kind == "p",
        &image_url,
        &fills,
        &key,
        overwrite,
        on_replica,
    );
    let object: serde_json::Map<String, Value> =
        fills.into_iter().map(|(column, style)| (column, Value::String(style))).collect();
    let _extension = identity::as_extension();
    spi(Spi::run_with_args(
        "INSERT INTO caption.watch AS w (relation, image_url, fills, keys, max_tokens, overwrite, on_replica) \
         VALUES ($1::pg_catalog.regclass, $2::pg_catalog.name, $3, $4::pg_catalog.name[], $5, $6, $7) \
         ON CONFLICT (relation) DO UPDATE SET image_url = excluded.image_url, fills = excluded.fills, keys = excluded.keys, \
            max_tokens = excluded.max_tokens, overwrite = excluded.overwrite, on_replica = excluded.on_replica, paused = false",
        &[
            relation.into(),
            image_url.into(),
            JsonB(Value::Object(object)).into(),
            keys.into(),
            max_tokens.into(),
            overwrite.into(),
            on_replica.into(),
        ],
    ));
    // The objects of 0.1.0 have no place for it.
    if release::objects_are_current() {
        spi(Spi::run_with_args(
            "UPDATE caption.watch w SET superuser = r.rolsuper FROM pg_catalog.pg_roles r \
              WHERE w.relation OPERATOR(pg_catalog.=) $1::pg_catalog.regclass AND r.oid OPERATOR(pg_catalog.=) $2",
            &[relation.into(), table.owner.into()],
        ));
    }
    // The walk over what exists starts anew: columns, styles or the key may have changed. Its
    // number is one that no walk of this table had, also where unwatch() has just removed the last
    // one: by a number that comes again, a worker would take the new walk for the old one, whose
    // end it has seen.
    spi(Spi::run_with_args(
        "INSERT INTO caption.watch_state AS t (relation, backfill_run) \
         VALUES ($1, (pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8 OPERATOR(pg_catalog.%) 1073741824)::pg_catalog.int4) \
         ON CONFLICT (relation) DO UPDATE SET backfill_run = t.backfill_run + 1, backfill_after = NULL, backfill_done = false, backfilled = 0, problem = NULL",
        &[relation.into()],
    ));
    enqueue::announce_at_commit();
}

/// Raises PostgreSQL's own error in a read-only transaction, and so on a standby.
fn require_writable() {
    // SAFETY: looks at the transaction's state; the name is a static C string.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"a change of a watch".as_ptr()) };
}

/// The table, if the caller may change its watch and there is one.
fn watched(relation: Option<pg_sys::Oid>) -> Table {
    shared::require_ready();
    require_writable();
    let relation = given(relation, "relation", A_TABLE);
    let table = table::describe(relation);
    table::require_ownership(&table);
    let _extension = identity::as_extension();
    let exists: Option<bool> = spi(Spi::get_one_with_args(
        "SELECT EXISTS (SELECT FROM caption.watch WHERE relation OPERATOR(pg_catalog.=) $1)",
        &[relation.into()],
    ));
    if exists != Some(true) {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("table {} is not watched", table.name),
            None,
            Some("See caption.watch() and the table caption.watch.".into()),
        );
    }
    table
}

/// Takes the table's row of the tally, so that its worker touches nothing of the table until this
/// transaction ends: it waits for nobody, and skips the table.
fn hold(relation: pg_sys::Oid) {
    spi(Spi::run_with_args(
        "SELECT FROM caption.watch_state WHERE relation OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        &[relation.into()],
    ));
}

/// `caption.unwatch(relation)`.
#[pg_extern(sql = false, volatile)]
fn unwatch(relation: Option<pg_sys::Oid>) {
    let table = watched(relation);
    let relation = table.oid;
    triggers::drop(table.oid, &table.name);
    let _extension = identity::as_extension();
    hold(relation);
    for of in ["watch", "watch_state", "queue", "deferred", "ledger", "failed"] {
        spi(Spi::run_with_args(
            &format!("DELETE FROM caption.{of} WHERE relation OPERATOR(pg_catalog.=) $1"),
            &[relation.into()],
        ));
    }
    enqueue::announce_at_commit();
}

fn set_paused(relation: Option<pg_sys::Oid>, paused: bool) {
    let relation = watched(relation).oid;
    let _extension = identity::as_extension();
    // Once a pause is committed nothing more is written: what the worker is just writing is waited
    // for.
    hold(relation);
    spi(Spi::run_with_args(
        "UPDATE caption.watch SET paused = $2 WHERE relation OPERATOR(pg_catalog.=) $1",
        &[relation.into(), paused.into()],
    ));
    if !paused {
        spi(Spi::run_with_args(
            "UPDATE caption.watch_state SET problem = NULL WHERE relation OPERATOR(pg_catalog.=) $1",
            &[relation.into()],
        ));
    }
    enqueue::announce_at_commit();
}

/// `caption.pause(relation)`.
#[pg_extern(sql = false, volatile)]
fn pause(relation: Option<pg_sys::Oid>) {
    set_paused(relation, true);
}

/// `caption.resume(relation)`.
#[pg_extern(sql = false, volatile)]
fn resume(relation: Option<pg_sys::Oid>) {
    set_paused(relation, false);
}

/// `caption.retry(relation)`.
#[pg_extern(sql = false, volatile)]
fn retry(relation: Option<pg_sys::Oid>) -> i64 {
    let relation = watched(relation).oid;
    let _extension = identity::as_extension();
    hold(relation);
    let queued: Option<i64> = spi(Spi::get_one_with_args(
        "WITH failed AS (DELETE FROM caption.failed WHERE relation OPERATOR(pg_catalog.=) $1 RETURNING key), \
              deferred AS (DELETE FROM caption.deferred WHERE relation OPERATOR(pg_catalog.=) $1 RETURNING key), \
              keys AS (SELECT key, pg_catalog.row_number() OVER () AS r FROM (SELECT key FROM failed UNION SELECT key FROM deferred) k), \
              queued AS (INSERT INTO caption.queue (relation, keys, n) \
                         SELECT $1, pg_catalog.jsonb_agg(key), pg_catalog.count(*) FROM keys GROUP BY r OPERATOR(pg_catalog./) 200 RETURNING n) \
         SELECT coalesce(pg_catalog.sum(n), 0)::pg_catalog.int8 FROM queued",
        &[relation.into()],
    ));
    enqueue::announce_at_commit();
    queued.unwrap_or(0)
}

/// `caption.recaption(relation, older_than)`.
#[pg_extern(sql = false, volatile)]
fn recaption(relation: Option<pg_sys::Oid>, older_than: Option<pgrx::datum::Interval>) {
    let relation = watched(relation).oid;
    let older_than = given(
        older_than,
        "older_than",
        "It is an interval; the default, '0', is everything that pg_caption wrote until now.",
    );
    let _extension = identity::as_extension();
    // The walk finds the rows by the ledger: ten million of them are not ten million entries of the
    // queue.
    spi(Spi::run_with_args(
        "INSERT INTO caption.watch_state AS t (relation, recaption_before) VALUES ($1, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) $2) \
         ON CONFLICT (relation) DO UPDATE SET recaption_before = excluded.recaption_before, backfill_run = t.backfill_run OPERATOR(pg_catalog.+) 1, backfill_after = NULL, \
            backfill_done = false, backfilled = 0, problem = NULL",
        &[relation.into(), older_than.into()],
    ));
    enqueue::announce_at_commit();
}

/// `caption.prune(relation)`.
#[pg_extern(sql = false, volatile)]
fn prune(relation: Option<pg_sys::Oid>) {
    let relation = watched(relation).oid;
    let _extension = identity::as_extension();
    // A pass that is being made begins anew: what it has passed may have gone since.
    spi(Spi::run_with_args(
        "UPDATE caption.watch_state SET pruned_at = NULL, prune_after = NULL WHERE relation OPERATOR(pg_catalog.=) $1",
        &[relation.into()],
    ));
    enqueue::announce_at_commit();
}
