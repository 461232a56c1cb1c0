//! `caption.engine_status()`: the engine's status, or why no engine answers.
//!
//! Called by SQL. Answers within seconds, also while no engine runs.

use crate::{engine::client, shared};
use pg_caption_wire::EngineStatus;
use pgrx::JsonB;
use pgrx::prelude::*;

/// `caption.engine_report()`, the JSON behind `caption.engine_status()`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn engine_status() -> JsonB {
    shared::require_ready();
    let (launcher, engine) = shared::processes();
    let status = client::status().unwrap_or_else(|failure| EngineStatus {
        pid: engine.max(0) as u32,
        state: "absent".into(),
        failure: Some(failure),
        ..EngineStatus::default()
    });
    let mut value = serde_json::to_value(&status)
        .unwrap_or_else(|error| pgrx::error!("the engine's status cannot be shown: {error}"));
    if let Some(object) = value.as_object_mut() {
        object.insert("launcher".into(), launcher.into());
        if status.pid == 0 {
            object.insert("pid".into(), serde_json::Value::Null);
        }
    }
    JsonB(value)
}
