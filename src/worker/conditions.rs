//! The conditions of watches, and their signing functions: checked when the watches are read, here
//! evaluated for rows that were read.
//!
//! They run as the table's owner, with the owner's settings, and only after they were checked: a
//! restored dump may contain any text in their place, and functions may have been replaced.

use super::locks::try_lock;
use super::owner_settings::OwnerSettings;
use super::planning::SessionSettings;
use super::transaction::{RaisedError, attempt, attempt_in_time, rehearse, spi};
use super::{checks, examine, foreign_code};
use crate::pg::condition::{ConditionSource, ROW, RowCondition};
use crate::pg::{identity, sign_function, triggers};
use crate::settings;
use pg_caption_queue::{CurrentRow, RowMatch, TableBusy, WatchedTable};
use pg_caption_wire::{Failure, FailureClass};
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// How code of a table's owner runs.
pub struct OwnerCode<'s> {
    pub session: &'s SessionSettings,
    pub owner_settings: &'s mut OwnerSettings,
}

/// Tables whose condition and signing function were checked since the watches were read.
#[derive(Default)]
pub struct CheckedConditions(HashSet<u32>);

/// Why a condition or a signing function cannot be used for any row.
pub enum ConditionProblem {
    /// Until the owner changes it; the reason as `caption.progress` shows it.
    Final(String),
    /// Until a lock is released, or the server has room.
    Passing,
}

impl CheckedConditions {
    /// The watches are about to be read.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Checks condition and signing function of a table that is locked by this transaction, once.
    ///
    /// # Errors
    /// See [`ConditionProblem`].
    pub fn require(
        &mut self,
        table: &WatchedTable,
        code: &mut OwnerCode<'_>,
    ) -> Result<(), ConditionProblem> {
        let is_plain = table.condition.is_none() && table.sign.is_none();
        if is_plain || self.0.contains(&table.oid) {
            return Ok(());
        }
        let problem = |raised: RaisedError| match raised.is_passing() {
            true => ConditionProblem::Passing,
            false => ConditionProblem::Final(unusable(&raised.message)),
        };
        rehearse(|| examine_code(table)).map_err(problem)?.map_err(ConditionProblem::Final)?;
        if let Some(condition) = table.condition.as_deref() {
            // PostgreSQL checks the owner's rights on functions when a statement starts.
            attempt_in_time(|| matches(table, condition, &[], code)).map_err(problem)?;
        }
        self.0.insert(table.oid);
        Ok(())
    }

    /// Checks the code of a watch that was just read, unless its table is locked.
    ///
    /// # Errors
    /// The reason why the table cannot be filled.
    pub fn check_early(
        &mut self,
        table: &WatchedTable,
        code: &mut OwnerCode<'_>,
    ) -> Result<(), String> {
        let is_plain = table.condition.is_none() && table.sign.is_none();
        if is_plain || !try_lock(table, pg_sys::AccessShareLock) {
            return Ok(());
        }
        match self.require(table, code) {
            Err(ConditionProblem::Final(problem)) => Err(problem),
            Ok(()) | Err(ConditionProblem::Passing) => Ok(()),
        }
    }
}

fn unusable(reason: &str) -> String {
    format!(
        "its condition cannot be used: {reason}; call caption.watch() with another condition, or \
         with condition => '' for none"
    )
}

/// The entry of a table in `caption.watch`, in place of the trigger that a backfill has not.
fn watch_entry(relation: pg_sys::Oid) -> pg_sys::ObjectAddress {
    let class = spi(Spi::get_one("SELECT 'caption.watch'::regclass::oid"));
    pg_sys::ObjectAddress {
        classId: class.unwrap_or(pg_sys::InvalidOid),
        objectId: relation,
        objectSubId: 0,
    }
}

/// Parses a stored condition and finds a signing function. In a subtransaction that is rolled back:
/// for a superuser's table both are recorded as dependencies of the trigger for as long as the
/// owners of functions are looked up.
fn examine_code(table: &WatchedTable) -> Result<(), String> {
    let (relation, owner) = (pg_sys::Oid::from(table.oid), pg_sys::Oid::from(table.owner));
    let condition = match table.condition.as_deref() {
        None => None,
        Some(text) => {
            let _owner = identity::as_owner(owner);
            let condition = RowCondition::parse(relation, text, ConditionSource::Stored)
                .map_err(|error| unusable(&error.message))?;
            Some(condition)
        }
    };
    let columns = condition.as_ref().map(|condition| condition.columns.as_slice());
    if table.has_triggers
        && let Some(column) = checks::unknown_to_triggers(relation, columns.unwrap_or_default())
    {
        return Err(format!(
            "its condition names another column, formerly named \"{column}\"; call caption.watch() \
             with a new condition"
        ));
    }
    let sign = match table.sign.as_deref() {
        None => None,
        Some(signature) => Some(find_sign_function(owner, signature)?),
    };
    if checks::is_superuser(table.owner) {
        if table.has_triggers {
            triggers::depend_on_code(relation, condition.as_ref(), sign);
        } else if let Some(condition) = &condition {
            // `foreign_code` reads it before it is rolled back.
            condition.record_dependencies(watch_entry(relation));
        }
        if let Some(code) = foreign_code::find(relation) {
            return Err(checks::foreign_problem(&code));
        }
    }
    Ok(())
}

fn find_sign_function(owner: pg_sys::Oid, signature: &str) -> Result<pg_sys::Oid, String> {
    let problem = |what: &str| {
        let signature: String = signature.chars().take(200).collect();
        format!(
            "the function {signature}, which signs its URLs, {what}; call caption.watch() with \
             another one, or with sign => '-' for none"
        )
    };
    let Some(function) = sign_function::find(signature) else {
        return Err(problem("does not exist"));
    };
    match sign_function::may_call(owner, function) {
        true => Ok(function),
        false => Err(problem("may not be called by the owner of the table")),
    }
}

/// Which rows of some keys satisfy the condition; deleted rows are missing.
///
/// # Errors
/// Raises what the condition raises: call it in [`attempt_in_time`].
fn matches(
    table: &WatchedTable,
    condition: &str,
    keys: &[String],
    code: &mut OwnerCode<'_>,
) -> Vec<(String, bool)> {
    let row = ROW.to_string_lossy();
    // In a sub-select of its own: the condition may name columns k and v.
    let statement = format!(
        "SELECT k.v::pg_catalog.text, m.is_true \
           FROM pg_catalog.jsonb_array_elements($1) AS k (v) \
          CROSS JOIN LATERAL (SELECT ({condition}) IS TRUE FROM {} AS {row} WHERE {}) \
                AS m (is_true)",
        table.name,
        examine::by_key(table, "k.v")
    );
    let _owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    spi(Spi::connect_mut(|client| {
        let arguments = [examine::json_array(keys).into()];
        // Planned with the worker's settings, run with those of the owner.
        let mut cursor = client.try_open_cursor_mut(statement.as_str(), &arguments)?;
        let _session = code.session.scope();
        let _settings = code.owner_settings.scope(table.owner);
        cursor
            .fetch(keys.len() as i64 + 1)?
            .map(|row| Ok((row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or(false))))
            .collect::<Result<_, pgrx::spi::Error>>()
    }))
}

/// Evaluates the condition for rows that were read. Rows for which it raises an error are marked.
/// Once it has taken twice the longest time of a statement, the rest is tried later.
///
/// # Errors
/// [`TableBusy`]: a lock, or the condition cannot be evaluated for any row. In the latter case
/// `broken` is set.
pub fn judge(
    table: &WatchedTable,
    rows: &mut [(String, CurrentRow)],
    code: &mut OwnerCode<'_>,
    broken: &mut bool,
) -> Result<(), TableBusy> {
    let Some(condition) = table.condition.as_deref() else { return Ok(()) };
    let keys: Vec<String> = rows.iter().map(|(key, _)| key.clone()).collect();
    let (began, time) = (Instant::now(), 2 * settings::write_timeout());
    let mut judged: HashMap<String, RowMatch> = HashMap::new();
    let mut parts: Vec<&[String]> = vec![&keys];
    while let Some(part) = parts.pop().filter(|part| !part.is_empty()) {
        if began.elapsed() >= time {
            let late = |key: &String| (key.clone(), RowMatch::Raised(too_slow()));
            judged.extend(part.iter().map(late));
            continue;
        }
        match attempt_in_time(|| matches(table, condition, part, code)) {
            Ok(read) => judged.extend(read.into_iter().map(|(key, is_true)| {
                (key, if is_true { RowMatch::Matching } else { RowMatch::Excluded })
            })),
            Err(raised) if raised.is_passing() => return Err(TableBusy),
            Err(_)
                if part.len() == keys.len()
                    && attempt(|| matches(table, condition, &[], code)).is_err() =>
            {
                *broken = true;
                return Err(TableBusy);
            }
            Err(raised) if part.len() == 1 => {
                judged.insert(part[0].clone(), RowMatch::Raised(failure(&raised)));
            }
            Err(_) => {
                let (left, right) = part.split_at(part.len() / 2);
                parts.extend([left, right]);
            }
        }
    }
    for (key, current) in rows {
        // A row that was deleted since needs nothing.
        current.matches = judged.get(key).cloned().unwrap_or(RowMatch::Excluded);
    }
    Ok(())
}

/// Evaluates the condition for one row that this transaction has locked.
///
/// # Errors
/// What it raised.
pub fn judge_locked(
    table: &WatchedTable,
    key: &str,
    code: &mut OwnerCode<'_>,
) -> Result<RowMatch, RaisedError> {
    let Some(condition) = table.condition.as_deref() else { return Ok(RowMatch::Matching) };
    let key = [key.to_owned()];
    let read = attempt(|| matches(table, condition, &key, code))?;
    let is_true = read.first().is_some_and(|(_, is_true)| *is_true);
    Ok(if is_true { RowMatch::Matching } else { RowMatch::Excluded })
}

/// The failure of a row for which the condition raised an error.
pub fn failure(raised: &RaisedError) -> Failure {
    if raised.code == PgSqlErrorCode::ERRCODE_QUERY_CANCELED {
        return too_slow();
    }
    let mut failure = Failure::new(
        FailureClass::Reject,
        "condition_failed",
        format!("the condition of the watch cannot be evaluated: {}", raised.message),
    )
    .hint("Change the row, or the condition with caption.watch(), then call caption.retry().");
    failure.detail = raised.detail.clone();
    failure
}

fn too_slow() -> Failure {
    Failure::new(
        FailureClass::Retry,
        "condition_timeout",
        "the condition of the watch takes too long",
    )
    .hint("Make it faster, or raise pg_caption.write_timeout.")
}
