//! The functions behind the view `caption.progress` and the procedure `caption.wait`: rows in
//! flight, what keeps rows from being filled, whether a caller may wait.
//!
//! Any role may call them, as any role may read the view. They reveal nothing about tables of other
//! roles, nor about paths of the server.

use crate::pg::report::{refuse, select_one};
use crate::{api::database, engine::model_status, shared};
use pg_caption_supervisor::database_status::{self, DatabaseState};
use pgrx::prelude::*;

const IS_MEMBER_OF_OWNER: &str =
    "SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = $1";

/// `caption.in_flight(relation)`: NULL unless the caller is a member of the table's owner.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn in_flight(relation: pg_sys::Oid) -> Option<i32> {
    let is_member: Option<bool> = select_one(IS_MEMBER_OF_OWNER, &[relation.into()]);
    if is_member != Some(true) {
        return None;
    }
    if !shared::preloaded() {
        return Some(0);
    }
    let counts = current_database().map(|database| database.in_flight).unwrap_or_default();
    let count = counts.iter().find(|(oid, _)| *oid == relation.to_u32());
    Some(count.map_or(0, |(_, count)| *count as i32))
}

const MAY_MONITOR: &str = "\
    SELECT pg_has_role(c.relowner, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE') \
      FROM pg_class c WHERE c.oid = $1";

/// `caption.rows_ahead(relation)`: NULL unless the caller may see the table's progress.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn rows_ahead(
    relation: pg_sys::Oid,
) -> TableIterator<'static, (name!(read, Option<i32>), name!(completed, Option<i32>))> {
    let may_monitor = select_one::<bool>(MAY_MONITOR, &[relation.into()]) == Some(true);
    if !may_monitor || !shared::preloaded() {
        return TableIterator::once((None, None));
    }
    let known = current_database().map(|database| database.ahead).unwrap_or_default();
    let ahead = known.iter().find(|(table, ..)| *table == relation.to_u32());
    let (_, read, completed) = ahead.copied().unwrap_or_default();
    TableIterator::once((Some(read as i32), Some(completed as i32)))
}

/// `caption.obstacle()`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn obstacle() -> Option<String> {
    if !shared::preloaded() {
        return Some("pg_caption is not in shared_preload_libraries".into());
    }
    // A database that the launcher has not registered yet has work: the view asks about unfinished
    // watches only.
    let unregistered = || database_status::DatabaseFacts {
        has_work: true,
        connectable: true,
        ..database_status::DatabaseFacts::default()
    };
    let facts = current_database().map_or_else(unregistered, |database| database.facts());
    match database_status::database_state(&database::server(), &facts) {
        (DatabaseState::Served, _) => engine_obstacle(),
        (_, why) => why,
    }
}

/// Why no engine serves, if none does. The reason may name files of the server.
fn engine_obstacle() -> Option<String> {
    let failure = match model_status::read().serving {
        Some(_) => shared::model_trouble()?,
        None => shared::engine_failure()?,
    };
    // SAFETY: a look-up of two roles that exist.
    let may_read = unsafe {
        pg_sys::has_privs_of_role(pg_sys::GetUserId(), pg_sys::Oid::from(pg_sys::ROLE_PG_MONITOR))
    };
    let reason = if may_read { failure } else { "members of pg_monitor see why".into() };
    Some(format!("the engine cannot serve: {reason}"))
}

fn current_database() -> Option<shared::DatabaseSlot> {
    // SAFETY: reads a global.
    shared::database(unsafe { pg_sys::MyDatabaseId }.to_u32())
}

/// `caption.require_no_transaction(procedure)`.
#[pg_extern(sql = false, volatile)]
fn require_no_transaction(procedure: &str) {
    shared::require_ready();
    // SAFETY: reads the context that the calling procedure was called in.
    if !unsafe { pg_sys::SPI_inside_nonatomic_context() } {
        refuse(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            format!("{procedure} cannot run in a transaction block or a function"),
            Some(
                "Rows of a transaction are filled after its end, \
                 and later commits of other sessions are not visible within it."
                    .into(),
            ),
            Some(format!("COMMIT first, then CALL {procedure}(…) as a statement of its own.")),
        );
    }
}
