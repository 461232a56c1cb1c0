//! The interface between a worker's state machine and its driver.

use crate::ReadSource;
use pg_caption_wire::CaptionOutcome;
use std::time::{Duration, Instant};

/// Everything a worker observes without a query.
#[derive(Debug, Clone, Copy)]
pub struct WorkerSignals {
    /// The clock.
    pub now: Instant,
    /// `pg_caption.enabled`.
    pub enabled: bool,
    /// Raised by every commit that enqueued rows; `None`: shared memory does not know the database.
    pub generation: Option<u64>,
    /// A prepared transaction enqueued rows. Its commit raises no generation.
    pub slow_poll: bool,
    /// A watched table was redefined since the watches were read.
    pub redefined: bool,
    /// Another database waits for a worker slot.
    pub crowded: bool,
    /// Counts the changes of the engine.
    pub epoch: u64,
}

/// What the driver does next, and the method to call with the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerAction {
    /// End if another session needs the database exclusively (DROP, RENAME, as a template). The
    /// launcher starts another worker later if the database still exists.
    CheckDatabase,
    /// Remove bookkeeping of dropped tables, and old failures.
    Clean,
    /// Read the watches: [`super::QueueWorker::watches`].
    ReadWatches,
    /// In a transaction: [`super::QueueWorker::read`].
    Read(ReadSource),
    /// Connect to the engine: [`super::QueueWorker::connected`].
    Connect {
        /// When to give up.
        until: Instant,
    },
    /// While the connection has room: [`super::QueueWorker::next_request`], then
    /// [`super::QueueWorker::sent`] or [`super::QueueWorker::unsent`].
    Send,
    /// Poll the connection once: [`super::QueueWorker::received`].
    Receive,
    /// In a transaction: [`super::QueueWorker::settle`].
    Settle,
    /// In a transaction: [`super::QueueWorker::prune`].
    Prune,
    /// Publish the counts of [`super::QueueWorker::in_flight`] and
    /// [`super::QueueWorker::job_counts`].
    Report,
    /// Wait for the engine, the latch or the timeout.
    Wait(Duration),
    /// Without jobs, wait for the latch or the timeout.
    Idle(Duration),
    /// Find out when deferred rows are due: [`super::QueueWorker::due`].
    ReadDue,
    /// Look for prepared transactions: [`super::QueueWorker::prepared`].
    CheckPrepared,
    /// End, unless the generation has changed.
    Depart {
        /// Everything up to this generation is done.
        generation: u64,
        /// When deferred rows are due, in milliseconds of the Unix epoch; 0: never.
        due_ms: i64,
        /// Prepared transactions are pending. Their commit raises no generation.
        prepared: bool,
    },
    /// End with jobs left, so that another database gets the slot.
    Yield,
    /// End in a database without the extension, unless the generation has changed.
    Forget {
        /// The generation when the extension was found missing.
        generation: u64,
    },
    /// End now.
    Leave,
}

/// What one poll of the connection to the engine gave.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made, never stored")]
pub enum ConnectionEvent {
    /// Nothing for now.
    Nothing,
    /// A message that concerns no job.
    Other,
    /// The connection was closed in order and owes no answer.
    Spent,
    /// The picture of a request is about to be decoded or to reach the model.
    Running {
        /// Id of the request.
        id: u64,
        /// Nothing else has been in decoder or model since.
        alone: bool,
    },
    /// The answer to a request.
    Answer {
        /// Id of the request.
        id: u64,
        /// The answer.
        outcome: CaptionOutcome,
    },
    /// The connection is lost, with all its requests.
    Lost {
        /// The engine refused the connection.
        refused: bool,
    },
}
