//! What the view `caption.progress` and the procedure `caption.wait` ask: rows in flight, what
//! stands in the way, whether one may wait here at all. Everybody may call these functions, as
//! everybody may read the view: they tell nothing of tables that are not the caller's, and nothing
//! of where models lie.

use crate::pg::report::{optional, refuse};
use crate::{api::status, engine::model_status, shared};
use pg_caption_supervisor::database_status::{self, State};
use pgrx::prelude::*;

/// `caption.in_flight(relation)`: nothing for who is no member of the table's owner.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn in_flight(relation: pg_sys::Oid) -> Option<i32> {
    let may_know = "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1";
    if optional(Spi::get_one_with_args::<bool>(may_know, &[relation.into()])) != Some(true) {
        return None;
    }
    if !shared::preloaded() {
        return Some(0);
    }
    let counted = here().and_then(|database| {
        database.flights.iter().find(|(oid, _)| *oid == relation.to_u32()).map(|(_, n)| *n as i32)
    });
    Some(counted.unwrap_or(0))
}

/// `caption.obstacle()`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn obstacle() -> Option<String> {
    if !shared::preloaded() {
        return Some("pg_caption is not in shared_preload_libraries".into());
    }
    // One that the launcher has not heard of has work: it is asked about a watch that is not done.
    let facts = here().map_or(
        database_status::Database {
            has_work: true,
            connectable: true,
            ..served::Database::default()
        },
        |database| database.facts(),
    );
    match database_status::state(&status::server(), &facts) {
        (State::Served, _) => engine_trouble(),
        (_, why) => why,
    }
}

/// Why the engine writes nothing, if it does not. Its reasons name files of the server.
fn engine_trouble() -> Option<String> {
    if model_status::now().serving.is_some() {
        return None;
    }
    let why = shared::engine_failure()?;
    // SAFETY: a look-up of two roles that exist.
    let may_know = unsafe {
        pg_sys::has_privs_of_role(pg_sys::GetUserId(), pg_sys::Oid::from(pg_sys::ROLE_PG_MONITOR))
    };
    let why = if may_know { why } else { "members of pg_monitor see why".into() };
    Some(format!("the engine cannot serve: {why}"))
}

/// The entry of the caller's database.
fn here() -> Option<shared::Database> {
    // SAFETY: reads a global.
    shared::database(unsafe { pg_sys::MyDatabaseId }.to_u32())
}

/// `caption.require_no_transaction()`.
#[pg_extern(sql = false, volatile)]
fn require_no_transaction() {
    // SAFETY: reads what the procedure that calls us was called from.
    if !unsafe { pg_sys::SPI_inside_nonatomic_context() } {
        refuse(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "caption.wait cannot run in a transaction block or a function",
            Some("Rows of a transaction are filled after its end, and what others commit meanwhile is not seen within it.".into()),
            Some("COMMIT first, then CALL caption.wait(…) as a statement of its own.".into()),
        );
    }
}
