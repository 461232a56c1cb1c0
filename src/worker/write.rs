//! Writes texts into a row, in one subtransaction: lock and read the row, carry out the plan made
//! from it, update the ledger.

use super::conditions::{self, OwnerCode};
use super::owner_settings::OwnerSettings;
use super::planning::{LockTimeouts, SessionSettings};
use super::runaway::RunawayRows;
use super::transaction::{RaisedError, attempt_in_time, rehearse_in_time, spi};
use super::{examine, memory_limit, record};
use crate::pg::identity;
use pg_caption_queue::{
    CurrentRow, RefusalKind, RowJob, RowMatch, RowPlan, RowResult, RowState, RowUpdate, Settlement,
    StoredRow, WatchedTable,
};
use pg_caption_wire::{Failure, FailureClass};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

/// Detail of a failure where a name or a setting was not found.
const NOT_FOUND: &str = "Captions are written with the search_path and the settings of the \
    table's owner (ALTER ROLE … SET), for a superuser with search_path = pg_catalog. Names in the \
    functions of the table's triggers can be qualified (public.stock), or get a path with the \
    function (ALTER FUNCTION … SET search_path = public). current_setting('app.user', true) is \
    NULL where the setting is missing.";

/// Writes rows of one transaction.
pub struct RowWriter<'s> {
    /// Planner settings for the code of watched tables.
    pub session: &'s SessionSettings,
    /// Settings of the tables' owners, for the same code.
    pub owner_settings: &'s mut OwnerSettings,
    /// Lock timeouts for that code.
    pub lock_timeouts: &'s mut LockTimeouts,
    /// Rows that must not be written.
    pub runaway: &'s mut RunawayRows,
}

impl RowWriter<'_> {
    /// Carries out the update of a settlement. The outcome is not recorded yet.
    pub fn write(&mut self, settlement: &Settlement<'_>) -> RowResult {
        let row = &settlement.job().row;
        if let Some(failure) = self.runaway.failure(row) {
            return settlement.plan(RowState::Runaway(&failure)).result();
        }
        let _mark = self.runaway.mark(row);
        let raised = match self.attempt(settlement) {
            Ok(result) => return result,
            Err(raised) => raised,
        };
        if refusal_kind(&raised) == RefusalKind::Final
            && let Some((refused, failure)) = self.refused_texts(settlement)
        {
            let others = settlement.without(&refused, failure);
            if let Ok(result) = self.attempt(&others) {
                return result;
            }
        }
        let failure = refusal(&raised, settlement, settlement.fills());
        let kind = refusal_kind(&raised);
        settlement.plan(RowState::Refused { failure: &failure, kind }).result()
    }

    /// Writes, or reports what the table's own code raised. A lock is not such an error.
    fn attempt(&mut self, settlement: &Settlement<'_>) -> Result<RowResult, RaisedError> {
        let table = settlement.table().oid;
        let result = attempt_in_time(|| {
            let _timeout = self.lock_timeouts.scope(table);
            lock_and_write(settlement, self.session, self.owner_settings).result()
        });
        match result {
            Ok(result) => {
                if !matches!(result, RowResult::Recheck { .. }) {
                    self.lock_timeouts.was_free(table);
                }
                Ok(result)
            }
            Err(raised) if raised.is_lock() => {
                self.lock_timeouts.was_blocked(table);
                Ok(settlement.plan(RowState::Blocked).result())
            }
            Err(raised) => Err(raised),
        }
    }

    /// Which texts the table refuses on their own, and why, if it accepts others: a constraint
    /// mostly concerns one column. `None`: all or no single one.
    fn refused_texts(&mut self, settlement: &Settlement<'_>) -> Option<(Vec<usize>, Failure)> {
        let (mut refused, mut reason) = (Vec::new(), None);
        for fill in settlement.fills() {
            let alone = settlement.only(fill);
            let result = rehearse_in_time(|| {
                let _timeout = self.lock_timeouts.scope(settlement.table().oid);
                lock_and_write(&alone, self.session, self.owner_settings);
            });
            match result {
                Ok(()) => {}
                Err(raised) if refusal_kind(&raised) != RefusalKind::Final || raised.is_lock() => {
                    return None;
                }
                Err(raised) => {
                    refused.push(fill);
                    reason.get_or_insert(raised);
                }
            }
        }
        let reason = reason.filter(|_| refused.len() < settlement.fills().count())?;
        let failure = refusal(&reason, settlement, refused.iter().copied());
        Some((refused, failure))
    }
}

/// Whether a write that raised this may succeed later.
fn refusal_kind(raised: &RaisedError) -> RefusalKind {
    match raised.code {
        // The table's own code needs too much memory, rather than the server too little.
        PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY if memory_limit::was_hit() => RefusalKind::Final,
        _ if raised.is_resource() => RefusalKind::Resources,
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED => RefusalKind::Transient,
        _ => RefusalKind::Final,
    }
}

/// The table's own triggers or constraints refused the captions of these columns.
fn refusal(
    raised: &RaisedError,
    settlement: &Settlement<'_>,
    fills: impl Iterator<Item = usize>,
) -> Failure {
    use PgSqlErrorCode::*;
    let column = |fill: usize| format!("\"{}\"", settlement.table().fills[fill].column);
    let columns: Vec<String> = fills.map(column).collect();
    let of = if columns.is_empty() { String::new() } else { format!(" of {}", columns.join(", ")) };
    let mut failure = Failure::new(
        FailureClass::Reject,
        "write_refused",
        format!("the table refused the caption{of}: {}", raised.message),
    )
    .hint("Correct the trigger or the constraint, then call caption.retry().");
    // The detail of a violated constraint shows the whole row, which readers of failures may not
    // see.
    failure.detail = raised.detail.clone().filter(|_| !is_constraint(raised.code));
    if matches!(
        raised.code,
        ERRCODE_UNDEFINED_TABLE | ERRCODE_UNDEFINED_FUNCTION | ERRCODE_UNDEFINED_OBJECT
    ) {
        failure.detail = Some(NOT_FOUND.into());
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

fn lock_and_write<'a>(
    settlement: &'a Settlement<'a>,
    session: &SessionSettings,
    owner_settings: &mut OwnerSettings,
) -> RowPlan<'a> {
    let (table, job) = (settlement.table(), settlement.job());
    let owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    let Some(mut current) = lock(table, job) else {
        let is_locked = exists(table, job);
        return settlement.plan(if is_locked { RowState::Locked } else { RowState::Gone });
    };
    let mut code = OwnerCode { session, owner_settings };
    match conditions::judge_locked(table, &job.row.key, &mut code) {
        Ok(matches) => current.matches = matches,
        Err(raised) if raised.is_lock() => return settlement.plan(RowState::Blocked),
        Err(raised) => {
            let (failure, kind) = (conditions::failure(&raised), refusal_kind(&raised));
            return settlement.plan(RowState::Refused { failure: &failure, kind });
        }
    }
    let plan = settlement.plan(RowState::Current(&current));
    let RowPlan::Write(update, _) = &plan else { return plan };
    let stored = if update.changes_row() {
        store(table, job, update, (session, owner_settings))
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
                words: examine::row_words(table, row.get(3)?),
                followed: examine::followed_words(table, row.get(4)?, row.get(5)?),
                matches: RowMatch::Matching,
                refused: None,
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
    (session, owner_settings): (&SessionSettings, &mut OwnerSettings),
) -> StoredRow {
    let statement = update_statement(table, update);
    let mut arguments: Vec<DatumWithOid<'_>> = vec![record::key(&job.row).into()];
    arguments.extend(update.texts.iter().map(|(_, text)| DatumWithOid::from(text.as_str())));
    let stored = spi(Spi::connect_mut(|client| {
        // Opening the cursor plans the statement, by key. Reading it runs the statement and the
        // table's own triggers, whose statements are planned as in any session.
        let mut cursor = client.try_open_cursor_mut(statement.as_str(), &arguments)?;
        let _session = session.scope();
        let _owner = owner_settings.scope(table.owner);
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
        examine::text_digests(table, texts),
        examine::url(table)
    )
}
