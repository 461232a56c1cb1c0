//! Bookkeeping of rows: deferrals, failures, the ledger, the queue and the counters. All within the
//! running transaction, as the extension's owner.

use super::transaction::{attempt, oids, spi};
use crate::settings;
use pg_caption_queue::{AckedPages, LedgerChange, LedgerEntry, RowKey, RowOutcome, WatchedTable};
use pg_caption_wire::Failure;
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::Value;
use std::time::Duration;

const DEFER: &str = "INSERT INTO caption.deferred AS d \
           (relation, key, due, host, attempts, code, message) \
    VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3), $4, $5, $6, $7) \
    ON CONFLICT (relation, key) DO UPDATE SET \
           due = excluded.due, host = excluded.host, attempts = excluded.attempts, \
           code = excluded.code, message = excluded.message";

const UNDEFER: &str = "DELETE FROM caption.deferred WHERE relation = $1 AND key = $2";

const FAIL: &str = "INSERT INTO caption.failed AS f \
           (relation, key, class, code, message, detail, attempts, hint, threshold) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
    ON CONFLICT (relation, key) DO UPDATE SET \
           class = excluded.class, code = excluded.code, message = excluded.message, \
           detail = excluded.detail, attempts = excluded.attempts, at = excluded.at, \
           hint = excluded.hint, threshold = excluded.threshold";

const HAS_FAILED: &str = "SELECT EXISTS ( \
    SELECT FROM caption.failed WHERE relation = $1 AND key = $2 AND code = $3)";

const FORGIVE: &str = "DELETE FROM caption.failed WHERE relation = $1 AND key = $2";

const CONFIRM: &str = "UPDATE caption.ledger SET at = clock_timestamp(), recaption = 0 \
     WHERE relation = $1 AND key = $2";

/// A request to caption the row again has had its answer.
const SETTLE_RECAPTION: &str = "UPDATE caption.ledger SET recaption = 0 \
     WHERE relation = $1 AND key = $2 AND recaption > 0";

const PUT_LEDGER: &str = "INSERT INTO caption.ledger AS l \
           (relation, key, url, outputs, model, etag, last_modified, sha256) \
    SELECT $1, $2, $3, jsonb_object_agg(o.key, CASE \
                WHEN o.key = ANY ($9) \
                THEN o.value || jsonb_build_object('at', clock_timestamp()) \
                WHEN o.key = ANY ($10) \
                THEN jsonb_set(o.value, '{draft,at}', to_jsonb(clock_timestamp())) \
                ELSE o.value END), $5, $6, $7, $8 \
      FROM jsonb_each($4) o \
    ON CONFLICT (relation, key) DO UPDATE SET \
           url = excluded.url, outputs = excluded.outputs, model = excluded.model, \
           at = excluded.at, etag = excluded.etag, last_modified = excluded.last_modified, \
           sha256 = excluded.sha256, recaption = 0";

const AMEND_LEDGER: &str = "UPDATE caption.ledger SET outputs = (outputs - $4) || ( \
           SELECT jsonb_object_agg( \
                      o.key, o.value || jsonb_build_object('at', clock_timestamp())) \
             FROM jsonb_each($3) o) \
     WHERE relation = $1 AND key = $2";

const REMOVE_FROM_LEDGER: &str =
    "UPDATE caption.ledger SET outputs = outputs - $3 WHERE relation = $1 AND key = $2";

/// The ids are unique; the tables are there for the index.
const DELETE_PAGES: &str = "DELETE FROM caption.queue WHERE relation = ANY ($1) AND id = ANY ($2)";

const ADVANCE_BACKFILL: &str = "UPDATE caption.watch_state \
       SET backfill_after = coalesce($2, backfill_after), backfill_done = $3, \
           backfilled = backfilled + $4, updated_at = clock_timestamp() \
     WHERE relation = $1 AND backfill_run = $5";

const COUNT_FILLED: &str = "UPDATE caption.watch_state \
       SET filled = filled + $2, per_minute = $3, updated_at = clock_timestamp() \
     WHERE relation = $1";

/// Any role may listen: the payload has the table's name and a number.
const NOTIFY: &str = "SELECT pg_notify(w.notify, jsonb_build_object( \
           'table', format('%I.%I', n.nspname, c.relname), 'rows', $2)::text) \
      FROM caption.watch w \
      JOIN pg_catalog.pg_class c ON c.oid = w.relation \
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE w.relation = $1 AND octet_length(w.notify) BETWEEN 1 AND 63 AND $2 > 0";

/// Records the outcome of a row. A failure that cannot be stored is replaced by a fixed text. A key
/// that is too long for an index of the extension is logged, and other rows continue. Any other
/// error ends the worker; the row is examined again.
pub fn outcome(row: &RowKey, outcome: &RowOutcome) {
    let Err(raised) = attempt(|| record_or_raise(row, outcome)) else { return };
    // The failure's own texts may be the cause.
    let plain = outcome.with_plain_failure();
    let is_recorded = |plain: &RowOutcome| attempt(|| record_or_raise(row, plain)).is_ok();
    if !raised.is_passing() && plain.as_ref().is_some_and(is_recorded) {
        return;
    }
    if raised.code != PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED {
        pgrx::ereport!(
            ERROR,
            raised.code,
            format!("pg_caption: {}", raised.message),
            raised.detail.unwrap_or_default()
        );
    }
    pgrx::log!(
        "pg_caption: could not record the outcome of row {} of the table with OID {}: {}",
        shortened(&row.key),
        row.relation,
        raised.message
    );
}

fn record_or_raise(row: &RowKey, outcome: &RowOutcome) {
    match outcome {
        RowOutcome::Done => forgive(row),
        RowOutcome::Kept => undefer(row),
        RowOutcome::Confirmed => {
            forgive(row);
            spi(Spi::run_with_args(CONFIRM, &[relation(row).into(), key(row).into()]));
        }
        RowOutcome::Deferred { failure, attempts, pause } => defer(row, failure, *attempts, *pause),
        RowOutcome::Failed { failure, attempts } => fail(row, failure, *attempts),
    }
}

fn relation(row: &RowKey) -> pg_sys::Oid {
    pg_sys::Oid::from(row.relation)
}

/// The key as a value for SQL.
pub fn key(row: &RowKey) -> JsonB {
    JsonB(serde_json::from_str(&row.key).unwrap_or(Value::Null))
}

/// Enough of a key to find its row.
pub fn shortened(key: &str) -> String {
    key.chars().take(100).collect()
}

fn defer(row: &RowKey, failure: &Failure, attempts: i32, pause: Duration) {
    spi(Spi::run_with_args(
        DEFER,
        &[
            relation(row).into(),
            key(row).into(),
            pause.as_secs_f64().into(),
            failure.host.clone().into(),
            attempts.into(),
            failure.code.clone().into(),
            failure.message.clone().into(),
        ],
    ));
}

/// Removes the deferral of a row.
pub fn undefer(row: &RowKey) {
    spi(Spi::run_with_args(UNDEFER, &[relation(row).into(), key(row).into()]));
}

fn fail(row: &RowKey, failure: &Failure, attempts: i32) {
    undefer(row);
    spi(Spi::run_with_args(
        FAIL,
        &[
            relation(row).into(),
            key(row).into(),
            failure.class.name().into(),
            failure.code.clone().into(),
            failure.message.clone().into(),
            failure.detail.clone().into(),
            attempts.into(),
            failure.hint.clone().into(),
            settings::min_confidence().filter(|_| failure.code == "low_confidence").into(),
        ],
    ));
    spi(Spi::run_with_args(SETTLE_RECAPTION, &[relation(row).into(), key(row).into()]));
}

/// Whether a row has failed with this code.
pub fn has_failed_with(row: &RowKey, code: &str) -> bool {
    let arguments = [relation(row).into(), key(row).into(), code.into()];
    spi(Spi::get_one_with_args(HAS_FAILED, &arguments)).unwrap_or(false)
}

/// Removes deferral and failure of a row.
fn forgive(row: &RowKey) {
    undefer(row);
    spi(Spi::run_with_args(FORGIVE, &[relation(row).into(), key(row).into()]));
}

/// Changes the ledger of a row.
pub fn ledger(row: &RowKey, change: LedgerChange) {
    let (relation, key) = (relation(row), key(row));
    match change {
        LedgerChange::Put(entry) => {
            let LedgerEntry { url, outputs, written, drafted, model, .. } = entry;
            let LedgerEntry { sha256, etag, last_modified, .. } = entry;
            let outputs = JsonB(Value::Object(outputs));
            spi(Spi::run_with_args(
                PUT_LEDGER,
                &[
                    relation.into(),
                    key.into(),
                    url.into(),
                    outputs.into(),
                    model.into(),
                    etag.into(),
                    last_modified.into(),
                    sha256.into(),
                    written.into(),
                    drafted.into(),
                ],
            ));
        }
        LedgerChange::Amend { outputs, removed } => {
            let outputs = JsonB(Value::Object(outputs));
            let arguments = [relation.into(), key.into(), outputs.into(), removed.into()];
            spi(Spi::run_with_args(AMEND_LEDGER, &arguments));
        }
        LedgerChange::Remove(columns) => {
            let arguments = [relation.into(), key.into(), columns.into()];
            spi(Spi::run_with_args(REMOVE_FROM_LEDGER, &arguments));
        }
    }
}

/// Deletes complete pages from the queue and advances backfills; a backfill that was restarted
/// meanwhile stays as it is.
pub fn acknowledge(acked: &AckedPages, tables: &[WatchedTable]) {
    if !acked.queue.is_empty() {
        let (mut relations, rows): (Vec<u32>, Vec<i64>) = acked.queue.iter().copied().unzip();
        relations.dedup();
        spi(Spi::run_with_args(DELETE_PAGES, &[oids(&relations).into(), rows.into()]));
    }
    for (relation, last, rows) in &acked.backfills {
        let last = last.as_deref().and_then(|key| serde_json::from_str(key).ok()).map(JsonB);
        let is_done = last.is_none();
        let run = tables
            .iter()
            .find(|table| table.oid == *relation)
            .map_or(-1, |table| table.backfill_run);
        spi(Spi::run_with_args(
            ADVANCE_BACKFILL,
            &[
                pg_sys::Oid::from(*relation).into(),
                last.into(),
                is_done.into(),
                (*rows).into(),
                run.into(),
            ],
        ));
    }
}

/// Adds to the number of filled rows of a table, sets its rate, and notifies the channel of the
/// watch.
pub fn count_filled(relation: u32, filled: i64, per_minute: f32) {
    let arguments = [pg_sys::Oid::from(relation).into(), filled.into(), per_minute.into()];
    spi(Spi::run_with_args(COUNT_FILLED, &arguments));
    let arguments = [pg_sys::Oid::from(relation).into(), filled.into()];
    spi(Spi::run_with_args(NOTIFY, &arguments));
}
