//! What a worker notes of the model behind the engine: why it answers no request, and what its
//! server was used for. The latter is written into `caption.used`, at most every [`INTERVAL`].
//!
//! Called by `run`. The engine counts, calls included; a row belongs to one engine and repeats its
//! totals, so writing it twice changes nothing.

use super::store::WorkerStore;
use super::transaction::{attempt, spi};
use crate::engine::client::{self, EngineClient};
use crate::engine::model_status;
use crate::shared;
use pg_caption_wire::{EngineStatus, Failure, RemoteUsage};
use pgrx::JsonB;
use pgrx::prelude::*;
use std::time::Duration;

/// The shortest time between two writes.
pub const INTERVAL: Duration = Duration::from_secs(10);

const WRITE: &str = "INSERT INTO caption.used AS u \
       (day, model, style, run, requests, images, input_tokens, output_tokens, failures, cost) \
    SELECT date '1970-01-01' + x.day, x.model, x.style, $2, x.requests, x.images, \
           x.input_tokens, x.output_tokens, x.failures, x.cost \
      FROM jsonb_to_recordset($1) \
           AS x (day int, model text, style text, requests bigint, images bigint, \
                 input_tokens bigint, output_tokens bigint, failures bigint, cost numeric) \
    ON CONFLICT (day, model, style, run) DO UPDATE \
       SET requests = excluded.requests, images = excluded.images, \
           input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens, \
           failures = excluded.failures, cost = excluded.cost \
     WHERE u.requests <> excluded.requests OR u.images <> excluded.images \
        OR u.failures <> excluded.failures";

const FORGET: &str = "DELETE FROM caption.used \
     WHERE day < (now() AT TIME ZONE 'UTC')::date - interval '13 months'";

/// The worker's notes.
pub struct UsageWriter {
    database: u32,
    /// The engine owes its status.
    is_asked: bool,
    reported: Option<Box<EngineStatus>>,
    /// Whether a trouble may be published. One of an earlier worker is unknown.
    may_have_trouble: bool,
}

impl UsageWriter {
    /// Of the worker of a database.
    pub fn new(database: u32) -> UsageWriter {
        UsageWriter { database, is_asked: false, reported: None, may_have_trouble: true }
    }

    /// Publishes why the engine answers no request, or that it does.
    pub fn note_trouble(&mut self, failure: Option<&Failure>) {
        match failure {
            Some(failure) => {
                let detail = failure.detail.as_ref().map(|detail| format!(": {detail}"));
                let reason = format!("{}{}", failure.message, detail.unwrap_or_default());
                shared::set_model_trouble(Some(reason.trim_end_matches('.')));
            }
            None if !self.may_have_trouble => return,
            None => shared::set_model_trouble(None),
        }
        self.may_have_trouble = failure.is_some();
    }

    /// A new connection owes no status.
    pub fn connected(&mut self) {
        self.is_asked = false;
    }

    /// Asks the engine for its counts, if it is time.
    pub fn ask(&mut self, client: &mut EngineClient) {
        if !self.is_asked && self.is_due() {
            client.request_status();
            self.is_asked = true;
        }
    }

    fn is_due(&self) -> bool {
        model_status::serves_remotely() && shared::is_usage_due(self.database, INTERVAL)
    }

    /// The engine has answered.
    pub fn report(&mut self, status: Box<EngineStatus>) {
        self.is_asked = false;
        self.reported = Some(status);
    }

    /// The counts to be written.
    pub fn reported(&mut self) -> Option<Box<EngineStatus>> {
        self.reported.take()
    }

    /// Writes the counts; in a transaction. What is locked is written the next time.
    pub fn write(&self, status: &EngineStatus) {
        shared::note_usage_written(self.database);
        let counts: &[RemoteUsage] =
            status.model.as_ref().and_then(|model| model.remote.as_ref()).map_or(&[], |m| &m.usage);
        if counts.is_empty() {
            return;
        }
        let Ok(counts) = serde_json::to_value(counts) else { return };
        let written = attempt(|| {
            let arguments = [JsonB(counts.clone()).into(), status.run.as_str().into()];
            spi(Spi::run_with_args(WRITE, &arguments));
            spi(Spi::run(FORGET));
        });
        if let Err(raised) = written {
            pgrx::log!("pg_caption: could not write caption.used: {}", raised.message);
        }
    }

    /// Writes the counts before the worker leaves, if it is time.
    pub fn finish(&self, store: &mut WorkerStore) {
        if self.is_due()
            && let Ok(status) = client::status()
        {
            store.transaction(|_| self.write(&status));
        }
    }
}

/// A session was answered: a worker writes the use of a model's server, if it is time.
pub fn announce_usage() {
    if !model_status::serves_remotely() {
        return;
    }
    // SAFETY: both read globals. A standby writes nothing.
    let (database, is_standby) =
        unsafe { (pg_sys::MyDatabaseId.to_u32(), pg_sys::RecoveryInProgress()) };
    if !is_standby && shared::is_usage_due(database, INTERVAL) {
        shared::announce_work(database, false);
    }
}
