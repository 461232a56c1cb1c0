//! `caption.engine_status()`: what the engine says of itself, or why there is none.
//! `caption.database`: which databases are served, and why not.

use crate::{engine::client, settings, shared};
use pg_caption_supervisor::database_status;
use pg_caption_wire::EngineStatus;
use pgrx::JsonB;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// Patience with an engine that does not answer; a status must come soon or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// `caption.engine_status()`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn engine_status() -> JsonB {
    shared::require_ready();
    let (launcher, engine) = shared::processes();
    let status = client::status(Instant::now() + PATIENCE).unwrap_or_else(|failure| EngineStatus {
        pid: engine.max(0) as u32,
        state: "absent".into(),
        failure: Some(failure),
        ..EngineStatus::default()
    });
    let mut value = serde_json::to_value(&status)
        .unwrap_or_else(|error| pgrx::error!("the engine's status cannot be shown: {error}"));
    if let Some(object) = value.as_object_mut() {
        object.insert("launcher".into(), launcher.into());
    }
    JsonB(value)
}

/// What decides for every database whether it is served.
pub fn server() -> database_status::Server {
    database_status::Server {
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
    let connectable = Spi::get_one::<Vec<pg_sys::Oid>>(
        "SELECT pg_catalog.array_agg(oid) FROM pg_catalog.pg_database WHERE datallowconn",
    );
    let connectable =
        connectable.unwrap_or_else(|error| pgrx::error!("{error}")).unwrap_or_default();
    let rows = databases.iter().map(|database| {
        let facts = database_status::Database { connectable: connectable.contains(&pg_sys::Oid::from(database.oid)), ..database.facts() };
        let (state, why) = database_status::state(&server, &facts);
        let worker = Some(database.worker).filter(|worker| *worker != 0);
        serde_json::json!({ "oid": database.oid, "state": state.name(), "why": why, "worker": worker })
    });
    JsonB(rows.collect())
}
