//! `caption.database`: which databases are served, and why others are not.
//!
//! Called by SQL, and by `progress` for the server-wide facts. Changes nothing.

use crate::pg::report::select_one;
use crate::{settings, shared};
use pg_caption_supervisor::database_status;
use pgrx::JsonB;
use pgrx::prelude::*;

/// The facts about the server that decide for every database whether it is served.
pub fn server() -> database_status::ServerFacts {
    database_status::ServerFacts {
        // SAFETY: reads shared memory.
        in_recovery: unsafe { pg_sys::RecoveryInProgress() },
        launcher: shared::processes().0 != 0,
        enabled: settings::enabled(),
        busy: shared::databases().iter().filter(|database| database.worker != 0).count(),
        max_workers: settings::max_workers(),
        no_slot: shared::no_slot(),
    }
}

/// `caption.database_report()`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn database_report() -> JsonB {
    shared::require_ready();
    let (databases, server) = (shared::databases(), server());
    let connectable: Vec<pg_sys::Oid> =
        select_one("SELECT array_agg(oid) FROM pg_database WHERE datallowconn", &[])
            .unwrap_or_default();
    let rows = databases.iter().map(|database| {
        let facts = database_status::DatabaseFacts {
            connectable: connectable.contains(&pg_sys::Oid::from(database.oid)),
            ..database.facts()
        };
        let (state, why) = database_status::database_state(&server, &facts);
        let worker = Some(database.worker).filter(|worker| *worker != 0);
        serde_json::json!({
            "oid": database.oid,
            "state": state.name(),
            "why": why,
            "worker": worker,
        })
    });
    JsonB(rows.collect())
}
