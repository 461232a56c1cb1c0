//! Checks the condition of a watch in the session that gives it.
//!
//! Called by `plan`, with the caller's rights.

use crate::pg::condition::{ConditionSource, ROW, RowCondition};
use crate::pg::identity;
use crate::pg::report::refuse;
use crate::pg::table::TableDescription;
use pgrx::prelude::*;

/// What a condition is, for errors.
pub const HINT: &str = "It is a boolean expression over the columns of one row, such as \
                    condition => 'published AND deleted_at IS NULL'. An empty text removes it.";

/// The condition; raises if it cannot be used, or if the table's owner may not evaluate it.
pub fn require(table: &TableDescription, text: &str, source: ConditionSource<'_>) -> RowCondition {
    let is_stored = matches!(source, ConditionSource::Stored);
    let what = if is_stored { "the condition of the watch" } else { "condition" };
    let condition = parse(table, text, source, (what, HINT));
    require_rights(table, &condition);
    condition
}

/// The condition; raises if it cannot be used. `what` and `hint`: how the error names it, and what
/// to do.
pub fn parse(
    table: &TableDescription,
    text: &str,
    source: ConditionSource<'_>,
    (what, hint): (&str, &str),
) -> RowCondition {
    RowCondition::parse(table.oid, text, source).unwrap_or_else(|error| {
        let message = format!("{what} cannot be used: {}", error.message);
        refuse(error.code, message, error.detail, error.hint.or(Some(hint.into())))
    })
}

/// Has PostgreSQL check the owner's rights on the functions of a condition, on no row.
fn require_rights(table: &TableDescription, condition: &RowCondition) {
    let row = ROW.to_string_lossy();
    let statement =
        format!("SELECT ({}) FROM ONLY {} AS {row} LIMIT 0", condition.text, table.name);
    let _owner = identity::as_owner(table.owner);
    if let Err(error) = Spi::run(&statement) {
        pgrx::error!("pg_caption: {error}");
    }
}
