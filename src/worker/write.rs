//! Write-back: the row, the ledger, the failure and the queue in one transaction, one
//! subtransaction a row.

use super::definitions;
use super::examine;
use super::sources::oids;
use super::transaction::{Raised, attempt, attempt_in_time, spi};
use super::{planning, runaway};
use crate::{pg::identity, settings};
use pg_caption_queue::outcome::{self, Verdict};
use pg_caption_queue::{Current, Job, Row, Settled, Struck, Watched, entry, hash};
use pg_caption_wire::{CaptionOutcome, Failure, FailureClass};
use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use serde_json::Value;
use std::time::Duration;

/// Settles one job in the running transaction. `jitter` is in 0..1.
pub fn settle(table: &Watched, job: &Job, outcome: &CaptionOutcome, jitter: f64) -> Settled {
    let (texts, verdict) = outcome::verdict(job, outcome, settings::max_attempts(), jitter);
    let outdated = outcome::outdated(table, job, &texts, verdict);
    let mut settled = Settled::Done { filled: false };
    if !texts.is_empty() || !outdated.is_empty() {
        let source = match outcome {
            CaptionOutcome::Done { model, image, .. } => Some(Source {
                model: &model.digest,
                etag: image.etag.as_deref(),
                last_modified: image.last_modified.as_deref(),
            }),
            _ => None,
        };
        // SAFETY: reads a global.
        if runaway::is_known(unsafe { pg_sys::MyDatabaseId }.to_u32(), &job.row) {
            let message = "the table's own code goes on after it was cancelled (pg_caption.write_timeout), which only the end of a worker ends";
            carry_out(
                &job.row,
                Verdict::Failed(
                    &Failure::new(FailureClass::Reject, runaway::CODE, message),
                    job.attempts + 1,
                ),
            );
            return Settled::Done { filled: false };
        }
        let _writing = runaway::Writing::new(&job.row);
        let written = attempt_in_time(|| {
            let _patience = planning::patience_with(table.oid);
            write_row(table, job, &texts, &outdated, source)
        });
        match written {
            Ok(Settled::Locked) => return Settled::Locked,
            Ok(done) => {
                planning::was_free(table.oid);
                settled = done;
            }
            Err(raised) if is_lock(raised.code) => {
                planning::was_blocked(table.oid);
                return Settled::Blocked;
            }
            // Why there is no text says more than why the old one could not be taken away.
            Err(_) if texts.is_empty() => {}
            Err(raised) => return refused_by_table(job, &raised, jitter),
        }
    }
    carry_out(&job.row, verdict);
    settled
}

/// Notes what an outcome means for its row. A key that is too long for an index of ours is said in
/// the log, and the others go on; any other error ends the worker, and the row is looked at again.
fn carry_out(row: &Row, verdict: Verdict<'_>) {
    let Err(raised) = attempt(|| carry_out_or_raise(row, verdict)) else { return };
    if raised.code != PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED {
        pgrx::ereport!(
            ERROR,
            raised.code,
            format!("pg_caption: {}", raised.message),
            raised.detail.unwrap_or_default()
        );
    }
    pgrx::log!(
        "pg_caption: nothing can be noted of row {} of the table with OID {}: {}",
        shortened(&row.key),
        row.relation,
        raised.message
    );
}

/// Enough of a key to find its row by.
pub fn shortened(key: &str) -> String {
    key.chars().take(100).collect()
}

fn carry_out_or_raise(row: &Row, verdict: Verdict<'_>) {
    match verdict {
        Verdict::Forgiven => forgive(row),
        Verdict::StillTrue => still_true(row),
        Verdict::Deferred(failure, attempts, pause) => defer(row, failure, attempts, pause),
        Verdict::Failed(failure, attempts) => {
            record(
                row,
                failure.class.name(),
                &failure.code,
                &failure.message,
                failure.detail.as_deref(),
                attempts,
            );
        }
    }
}

/// Whether an error says that somebody else's transaction stands in the way.
fn is_lock(code: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        code,
        ERRCODE_LOCK_NOT_AVAILABLE
            | ERRCODE_T_R_DEADLOCK_DETECTED
            | ERRCODE_T_R_SERIALIZATION_FAILURE
    )
}

/// What is said where a name was not found.
const UNQUALIFIED: &str = "Captions are written with search_path = pg_catalog: qualify the names in the functions of the table's triggers (public.stock), \
    or set the path with the function: ALTER FUNCTION … SET search_path = public.";

/// The table's own triggers or checks refused the caption.
fn refused_by_table(job: &Job, raised: &Raised, jitter: f64) -> Settled {
    use PgSqlErrorCode::*;
    let transient =
        matches!(raised.code, ERRCODE_OUT_OF_MEMORY | ERRCODE_DISK_FULL | ERRCODE_QUERY_CANCELED);
    let mut failure = Failure::new(
        FailureClass::Reject,
        "write_refused",
        format!("the table refused the caption: {}", raised.message),
    );
    // A broken constraint's detail shows the whole row, which is not for whoever reads failures.
    failure.detail = raised.detail.clone().filter(|_| !is_constraint(raised.code));
    if matches!(
        raised.code,
        ERRCODE_UNDEFINED_TABLE | ERRCODE_UNDEFINED_FUNCTION | ERRCODE_UNDEFINED_OBJECT
    ) {
        failure.detail = Some(UNQUALIFIED.into());
    }
    let verdict = if transient {
        outcome::tried_again(job, &failure, settings::max_attempts(), jitter)
    } else {
        Verdict::Failed(&failure, job.attempts + 1)
    };
    carry_out(&job.row, verdict);
    Settled::Done { filled: false }
}

/// SQLSTATE class 23.
fn is_constraint(code: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        code,
        ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION
            | ERRCODE_RESTRICT_VIOLATION
            | ERRCODE_NOT_NULL_VIOLATION
            | ERRCODE_FOREIGN_KEY_VIOLATION
            | ERRCODE_UNIQUE_VIOLATION
            | ERRCODE_CHECK_VIOLATION
            | ERRCODE_EXCLUSION_VIOLATION
    )
}

/// What captions were made from, and by what.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// Digest of the model.
    model: &'a str,
    etag: Option<&'a str>,
    last_modified: Option<&'a str>,
}

/// What a row holds once it is written.
struct Stored {
    /// Of the texts written, and of those that were there already.
    entries: Vec<(String, Value)>,
    /// Columns emptied.
    emptied: Vec<String>,
    /// Its URL, which the table's own triggers may have changed: the captions are for that one
    /// then, or there would be no end.
    url: String,
}

/// Locks the row, fills what is still empty or ours, empties what is outdated, and writes the
/// ledger. `source`: unless there are no texts.
fn write_row(
    table: &Watched,
    job: &Job,
    texts: &[(usize, &str)],
    outdated: &[usize],
    source: Option<Source<'_>>,
) -> Settled {
    let (filled, alone);
    let stored = {
        let _owner = identity::as_owner(pg_sys::Oid::from(table.owner));
        let found = spi(Spi::connect_mut(|client| {
            // A deferred constraint trigger would otherwise run at commit, as the superuser.
            client.update("SET CONSTRAINTS ALL IMMEDIATE", None, &[])?;
            let rows =
                client.update(&examine::read_one(table, true), Some(1), &[key(&job.row).into()])?;
            match rows.into_iter().next() {
                Some(row) => Ok::<_, pgrx::spi::Error>(Some(Current {
                    url: row.get(1)?,
                    texts: row.get::<Vec<Option<String>>>(2)?.unwrap_or_default(),
                })),
                None => Ok(None),
            }
        }));
        let Some(current) = found else {
            let exists = spi(Spi::connect_mut(|client| {
                Ok::<_, pgrx::spi::Error>(
                    !client
                        .update(&examine::read_one(table, false), Some(1), &[key(&job.row).into()])?
                        .is_empty(),
                )
            }));
            return if exists { Settled::Locked } else { Settled::Done { filled: false } };
        };
        let Some(write) = outcome::write(table, job, &current, texts, outdated) else {
            return Settled::Done { filled: false };
        };
        (filled, alone) = (!write.new.is_empty(), write.alone);
        let mut stored = if filled || !write.emptied.is_empty() {
            store(table, job, &write.new, &write.emptied)
        } else {
            Stored { entries: Vec::new(), emptied: Vec::new(), url: job.url.clone() }
        };
        stored.entries.extend(write.there);
        stored
    };
    match source.filter(|_| !stored.entries.is_empty()) {
        Some(source) => note(job, stored, alone, source),
        None => note_emptied(job, &stored.emptied),
    }
    Settled::Done { filled }
}

/// Writes texts into the row, and gives outdated columns their defaults back.
fn store(table: &Watched, job: &Job, texts: &[(usize, &str)], emptied: &[usize]) -> Stored {
    let column = |cell: usize| quote_identifier(&table.fills[cell].column);
    let texts_set =
        texts.iter().enumerate().map(|(n, (cell, _))| format!("{} = ${}", column(*cell), n + 2));
    let sets: Vec<String> = texts_set
        .chain(emptied.iter().map(|cell| format!("{} = DEFAULT", column(*cell))))
        .collect();
    let returned: Vec<String> =
        texts.iter().map(|(cell, _)| format!("t.{}::pg_catalog.text", column(*cell))).collect();
    let statement = format!(
        "UPDATE {} AS t SET {} WHERE {} RETURNING ARRAY[{}]::pg_catalog.text[], t.{}::pg_catalog.text",
        table.name,
        sets.join(", "),
        examine::by_key(table, "$1"),
        returned.join(", "),
        table.url
    );
    let mut arguments: Vec<pgrx::datum::DatumWithOid<'_>> = vec![key(&job.row).into()];
    arguments.extend(texts.iter().map(|(_, text)| pgrx::datum::DatumWithOid::from(*text)));
    let found = spi(Spi::connect_mut(|client| {
        // Planned when the cursor is opened, by key; run when it is read, and the table's own
        // triggers with it, which plan as in any session.
        let mut cursor = client.try_open_cursor_mut(statement.as_str(), &arguments)?;
        let _ordinary = planning::ordinary();
        match cursor.fetch(1)?.next() {
            Some(row) => Ok(Some((
                row.get::<Vec<Option<String>>>(1)?.unwrap_or_default(),
                row.get::<String>(2)?,
            ))),
            None => Ok::<_, pgrx::spi::Error>(None),
        }
    }));
    // What the table's own triggers made of our text is what we will find there again.
    let Some((stored, url)) = found else {
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            "a trigger of the table skipped the update"
        );
    };
    let url = url.unwrap_or_else(|| job.url.clone());
    let entries = stored
        .into_iter()
        .zip(texts)
        .map(|(text, (cell, _))| {
            (table.fills[*cell].column.clone(), entry(text.as_deref().unwrap_or_default(), &url))
        })
        .collect();
    Stored {
        entries,
        emptied: emptied.iter().map(|cell| table.fills[*cell].column.clone()).collect(),
        url,
    }
}

/// The ledger without the texts that were taken away.
fn note_emptied(job: &Job, emptied: &[String]) {
    spi(Spi::run_with_args(
        "UPDATE caption.ledger SET outputs = outputs - $3 WHERE relation = $1 AND key = $2",
        &[
            pg_sys::Oid::from(job.row.relation).into(),
            key(&job.row).into(),
            emptied.to_vec().into(),
        ],
    ));
}

/// Notes in the ledger what was written, and what the server said of the picture, unless a text of
/// ours that stays (not `alone`) is of another version of it.
fn note(job: &Job, stored: Stored, alone: bool, source: Source<'_>) {
    let Source { model, etag, last_modified } = source;
    let is_same = job.seen.as_ref().is_some_and(|seen| {
        (seen.etag.as_deref(), seen.last_modified.as_deref(), seen.model.as_str())
            == (etag, last_modified, model)
    });
    // Of another URL nothing was said.
    let is_known = (alone || is_same) && stored.url == job.url;
    let (etag, last_modified) = if is_known { (etag, last_modified) } else { (None, None) };
    let mut outputs = job.ours.clone();
    outputs.retain(|column, _| !stored.emptied.contains(column));
    outputs.extend(stored.entries);
    spi(Spi::run_with_args(
        "INSERT INTO caption.ledger AS w (relation, key, url, outputs, model, etag, last_modified) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (relation, key) DO UPDATE SET url = excluded.url, outputs = excluded.outputs, model = excluded.model, at = excluded.at, \
            etag = excluded.etag, last_modified = excluded.last_modified",
        &[
            pg_sys::Oid::from(job.row.relation).into(),
            key(&job.row).into(),
            hash(&stored.url).into(),
            JsonB(Value::Object(outputs)).into(),
            model.into(),
            etag.into(),
            last_modified.into(),
        ],
    ));
}

/// The picture is the one that was captioned, with the same model: its texts count as written now.
fn still_true(row: &Row) {
    forgive(row);
    spi(Spi::run_with_args(
        "UPDATE caption.ledger SET at = clock_timestamp() WHERE relation = $1 AND key = $2",
        &[pg_sys::Oid::from(row.relation).into(), key(row).into()],
    ));
}

fn key(row: &Row) -> JsonB {
    JsonB(serde_json::from_str(&row.key).unwrap_or(Value::Null))
}

/// Whether nobody holds or awaits the whole table (ALTER TABLE, CREATE INDEX, TRUNCATE …): nobody
/// waits for us while we wait for them. The lock is kept until the transaction ends: from here to
/// there the table is as its watch was read, or the answer is no. Partitions, too: a statement
/// would wait for them while it holds the table, and somebody who takes them in another order would
/// be told of a deadlock.
pub fn table_is_free(table: &Watched, write: bool) -> bool {
    let mode = if write { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock };
    // SAFETY: a lock request that does not wait, in a transaction.
    let lock = |oid: pg_sys::Oid| unsafe { pg_sys::ConditionalLockRelationOid(oid, mode as i32) };
    lock(pg_sys::Oid::from(table.oid))
        && !definitions::has_changed(table.oid)
        && definitions::partitions(table).into_iter().all(lock)
}

/// Whether no open transaction has called `watch`, `unwatch`, `pause`, `resume` or `retry` for the
/// table, all of which hold its row of `caption.watch_state`: what they do to our tables would be waited
/// for otherwise. That row is ours until the transaction ends. Asked before anything of the table
/// is read or written. Nor is it ours if it was paused since the watches were read: rows written
/// after that are not to be looked at.
pub fn is_ours(table: &Watched) -> bool {
    let row = spi(Spi::connect_mut(|client| {
        let lock = "SELECT FROM caption.watch_state t WHERE t.relation = $1 AND EXISTS (SELECT FROM caption.watch w WHERE w.relation::oid = $1 AND NOT w.paused) \
                    FOR NO KEY UPDATE OF t SKIP LOCKED";
        Ok::<_, pgrx::spi::Error>(
            client.update(lock, Some(1), &[pg_sys::Oid::from(table.oid).into()])?.len(),
        )
    }));
    row > 0
}

/// A row whose key no longer fits its table, or whose owner's code refuses to be read.
pub fn record_unreadable(row: Row, raised: &Raised) {
    let mut failure = Failure::new(FailureClass::Reject, "unreadable", raised.message.clone());
    failure.detail = raised.detail.clone();
    carry_out(&row, Verdict::Failed(&failure, 1));
}

/// Puts a row off that somebody holds; nothing is charged.
pub fn put_off(row: &Row, failure: &Failure, attempts: i32, pause: Duration) {
    carry_out(row, Verdict::Deferred(failure, attempts, pause));
}

/// Puts a row off.
fn defer(row: &Row, failure: &Failure, attempts: i32, pause: Duration) {
    spi(Spi::run_with_args(
        "INSERT INTO caption.deferred AS d (relation, key, due, host, attempts, code, message) \
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3), $4, $5, $6, $7) \
         ON CONFLICT (relation, key) DO UPDATE SET due = excluded.due, host = excluded.host, attempts = excluded.attempts, code = excluded.code, \
            message = excluded.message",
        &[
            pg_sys::Oid::from(row.relation).into(),
            key(row).into(),
            pause.as_secs_f64().into(),
            failure.host.clone().into(),
            attempts.into(),
            failure.code.clone().into(),
            failure.message.clone().into(),
        ],
    ));
}

/// Records why a row got no caption.
fn record(row: &Row, class: &str, code: &str, message: &str, detail: Option<&str>, attempts: i32) {
    undefer(row);
    spi(Spi::run_with_args(
        "INSERT INTO caption.failed AS f (relation, key, class, code, message, detail, attempts) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (relation, key) DO UPDATE SET class = excluded.class, code = excluded.code, message = excluded.message, detail = excluded.detail, \
            attempts = excluded.attempts, at = excluded.at",
        &[
            pg_sys::Oid::from(row.relation).into(),
            key(row).into(),
            class.into(),
            code.into(),
            message.into(),
            detail.into(),
            attempts.into(),
        ],
    ));
}

/// Whether a row is recorded as failed with this code.
pub fn has_failed_with(row: &Row, code: &str) -> bool {
    let failed =
        "SELECT EXISTS (SELECT FROM caption.failed WHERE relation = $1 AND key = $2 AND code = $3)";
    spi(Spi::get_one_with_args(
        failed,
        &[pg_sys::Oid::from(row.relation).into(), key(row).into(), code.into()],
    ))
    .unwrap_or(false)
}

/// A row got its captions: earlier failures are history.
fn forgive(row: &Row) {
    undefer(row);
    spi(Spi::run_with_args(
        "DELETE FROM caption.failed WHERE relation = $1 AND key = $2",
        &[pg_sys::Oid::from(row.relation).into(), key(row).into()],
    ));
}

/// A row is not waiting any more.
pub fn undefer(row: &Row) {
    spi(Spi::run_with_args(
        "DELETE FROM caption.deferred WHERE relation = $1 AND key = $2",
        &[pg_sys::Oid::from(row.relation).into(), key(row).into()],
    ));
}

/// Removes complete pages from the queue and moves walks on; a walk that was begun anew meanwhile
/// stays where it is.
pub fn strike(struck: &Struck, tables: &[Watched]) {
    if !struck.queue.is_empty() {
        let (mut relations, rows): (Vec<u32>, Vec<i64>) = struck.queue.iter().copied().unzip();
        relations.dedup();
        // The ids are unique by themselves; the tables are for the index.
        spi(Spi::run_with_args(
            "DELETE FROM caption.queue WHERE relation = ANY ($1) AND id = ANY ($2)",
            &[oids(&relations).into(), rows.into()],
        ));
    }
    for (relation, last, rows) in &struck.walks {
        let last = last.as_deref().and_then(|key| serde_json::from_str(key).ok()).map(JsonB);
        let done = last.is_none();
        let walk =
            tables.iter().find(|table| table.oid == *relation).map_or(-1, |table| table.walk);
        spi(Spi::run_with_args(
            "UPDATE caption.watch_state SET backfill_after = coalesce($2, backfill_after), backfill_done = $3, backfilled = backfilled + $4, updated_at = clock_timestamp() \
              WHERE relation = $1 AND backfill_run = $5",
            &[
                pg_sys::Oid::from(*relation).into(),
                last.into(),
                done.into(),
                (*rows).into(),
                walk.into(),
            ],
        ));
    }
}

/// Counts rows that were filled.
pub fn tally(relation: u32, filled: i64, per_minute: f32) {
    spi(Spi::run_with_args(
        "UPDATE caption.watch_state SET filled = filled + $2, per_minute = $3, updated_at = clock_timestamp() WHERE relation = $1",
        &[pg_sys::Oid::from(relation).into(), filled.into(), per_minute.into()],
    ));
}
