//! Writes texts into a row, in one subtransaction: lock and read the row, carry out the plan made
//! from it, update the ledger.

use super::planning::{LockTimeouts, SessionSettings};
use super::runaway::RunawayRows;
use super::transaction::{RaisedError, attempt_in_time, spi};
use super::{examine, memory_limit, record};
use crate::pg::identity;
use pg_caption_queue::{
    CurrentRow, RefusalKind, RowJob, RowPlan, RowState, RowUpdate, Settlement, StoredRow,
    WatchedTable,
};
use pg_caption_wire::{Failure, FailureClass};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

/// Detail of a failure where a name was not found.
const UNQUALIFIED: &str = "Captions are written with search_path = pg_catalog: qualify the names \
    in the functions of the table's triggers (public.stock), or set the path with the function: \
    ALTER FUNCTION … SET search_path = public.";

/// Writes rows of one transaction.
pub struct RowWriter<'s> {
    /// Planner settings for the code of watched tables.
    pub session: &'s SessionSettings,
    /// Lock timeouts for that code.
    pub lock_timeouts: &'s mut LockTimeouts,
    /// Rows that must not be written.
    pub runaway: &'s mut RunawayRows,
}

impl RowWriter<'_> {
    /// Carries out the update of a settlement. Returns its plan, whose outcome is not recorded yet.
    pub fn write<'a>(&mut self, settlement: &'a Settlement<'a>) -> RowPlan<'a> {
        let (table, row) = (settlement.table().oid, &settlement.job().row);
        if let Some(failure) = self.runaway.failure(row) {
            return settlement.plan(RowState::Runaway(&failure));
        }
        let _mark = self.runaway.mark(row);
        let result = attempt_in_time(|| {
            let _timeout = self.lock_timeouts.scope(table);
            lock_and_write(settlement, self.session)
        });
        match result {
            Ok(plan) => {
                if !matches!(plan, RowPlan::Recheck { .. }) {
                    self.lock_timeouts.was_free(table);
                }
                plan
            }
            Err(raised) if raised.is_lock() => {
                self.lock_timeouts.was_blocked(table);
                settlement.plan(RowState::Blocked)
            }
            Err(raised) => {
                let kind = match raised.code {
                    // The table's own code needs too much memory, rather than the server too
                    // little.
                    PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY if memory_limit::was_hit() => {
                        RefusalKind::Final
                    }
                    _ if raised.is_resource() => RefusalKind::Resources,
                    PgSqlErrorCode::ERRCODE_QUERY_CANCELED => RefusalKind::Transient,
                    _ => RefusalKind::Final,
                };
                settlement.plan(RowState::Refused { failure: &refusal(&raised), kind })
            }
        }
    }
}

/// The table's own triggers or constraints refused the caption.
fn refusal(raised: &RaisedError) -> Failure {
    use PgSqlErrorCode::*;
    let mut failure = Failure::new(
        FailureClass::Reject,
        "write_refused",
        format!("the table refused the caption: {}", raised.message),
    );
    // The detail of a violated constraint shows the whole row, which readers of failures may not
    // see.
    failure.detail = raised.detail.clone().filter(|_| !is_constraint(raised.code));
    if matches!(
        raised.code,
        ERRCODE_UNDEFINED_TABLE | ERRCODE_UNDEFINED_FUNCTION | ERRCODE_UNDEFINED_OBJECT
    ) {
        failure.detail = Some(UNQUALIFIED.into());
    }
    failure
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

fn lock_and_write<'a>(settlement: &'a Settlement<'a>, session: &SessionSettings) -> RowPlan<'a> {
    let (table, job) = (settlement.table(), settlement.job());
    let owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    let Some(current) = lock(table, job) else {
        let is_locked = exists(table, job);
        return settlement.plan(if is_locked { RowState::Locked } else { RowState::Gone });
    };
    let plan = settlement.plan(RowState::Current(&current));
    let RowPlan::Write(update, _) = &plan else { return plan };
    let stored = if update.changes_row() {
        store(table, job, update, session)
    } else {
        StoredRow::default()
    };
    drop(owner);
    record::ledger(&job.row, update.ledger(&stored));
    plan
}

/// Locks and reads a row; `None`: it does not exist or another transaction has locked it.
fn lock(table: &WatchedTable, job: &RowJob) -> Option<CurrentRow> {
    spi(Spi::connect_mut(|client| {
        // A deferred constraint trigger would otherwise run at commit, as the superuser.
        client.update("SET CONSTRAINTS ALL IMMEDIATE", None, &[])?;
        let statement = examine::read_one(table, true);
        let rows = client.update(&statement, Some(1), &[record::key(&job.row).into()])?;
        match rows.into_iter().next() {
            Some(row) => Ok::<_, pgrx::spi::Error>(Some(CurrentRow {
                url: row.get(1)?,
                texts: examine::fill_texts(row.get(2)?),
            })),
            None => Ok(None),
        }
    }))
}

fn exists(table: &WatchedTable, job: &RowJob) -> bool {
    spi(Spi::connect_mut(|client| {
        let statement = examine::read_one(table, false);
        let rows = client.update(&statement, Some(1), &[record::key(&job.row).into()])?;
        Ok::<_, pgrx::spi::Error>(!rows.is_empty())
    }))
}

/// Updates the row. Emptied columns get their defaults.
fn store(
    table: &WatchedTable,
    job: &RowJob,
    update: &RowUpdate<'_>,
    session: &SessionSettings,
) -> StoredRow {
    let statement = update_statement(table, update);
    let mut arguments: Vec<DatumWithOid<'_>> = vec![record::key(&job.row).into()];
    arguments.extend(update.texts.iter().map(|(_, text)| DatumWithOid::from(*text)));
    let stored = spi(Spi::connect_mut(|client| {
        // Opening the cursor plans the statement, by key. Reading it runs the statement and the
        // table's own triggers, whose statements are planned as in any session.
        let mut cursor = client.try_open_cursor_mut(statement.as_str(), &arguments)?;
        let _session = session.scope();
        match cursor.fetch(1)?.next() {
            Some(row) => Ok(Some(StoredRow {
                texts: examine::fill_texts(row.get(1)?),
                url: row.get::<String>(2)?,
            })),
            None => Ok::<_, pgrx::spi::Error>(None),
        }
    }));
    let Some(stored) = stored else {
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            "a trigger of the table skipped the update"
        );
    };
    stored
}

fn update_statement(table: &WatchedTable, update: &RowUpdate<'_>) -> String {
    let column = |fill: usize| quote_identifier(&table.fills[fill].column);
    let texts = update.texts.iter().map(|(fill, _)| column(*fill));
    let assigned = texts.clone().enumerate().map(|(n, column)| format!("{column} = ${}", n + 2));
    let emptied = update.emptied.iter().map(|fill| format!("{} = DEFAULT", column(*fill)));
    let assignments: Vec<String> = assigned.chain(emptied).collect();
    format!(
        "UPDATE {} AS t SET {} WHERE {} RETURNING {}, {}",
        table.name,
        assignments.join(", "),
        examine::by_key(table, "$1"),
        examine::text_digests(texts),
        examine::url(table)
    )
}
