//! How much work a worker takes on.

use std::time::Duration;

/// Bounds of a worker's work in progress. The extension uses [`WorkerLimits::DEFAULT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerLimits {
    /// Queue rows per read; each has up to a few hundred keys.
    pub queue_rows: usize,
    /// Deferred rows of one table per read.
    pub deferred_rows: usize,
    /// Table rows per chunk of a backfill.
    pub chunk_rows: usize,
    /// Unfinished chunks of one table's backfill.
    pub chunks: usize,
    /// Number of sendable jobs below which more are read. Jobs of a host that uses all its places
    /// do not count.
    pub ready: usize,
    /// Number of jobs, of any host, at which reading stops.
    pub max_ready: usize,
    /// Jobs that the engine accepts from one worker.
    pub window: usize,
    /// Replies settled in one transaction.
    pub settle_rows: usize,
    /// How long one transaction settles rows. The rows it has written, and everything their
    /// triggers touched, stay locked until its end. Plus the longest wait for a lock, this must be
    /// below `deadlock_timeout`.
    pub settle_time: Duration,
    /// Captions kept for rows that are locked by other transactions, apart from those locked for a
    /// moment. Must be smaller than the number of deferred rows that one read examines.
    pub locked_rows: usize,
    /// Ledger entries, or failures, that one batch of a prune pass examines.
    pub prune_rows: usize,
}

impl WorkerLimits {
    /// The limits that the extension uses.
    pub const DEFAULT: WorkerLimits = WorkerLimits {
        queue_rows: 5,
        deferred_rows: 200,
        chunk_rows: 500,
        chunks: 40,
        ready: 64,
        max_ready: 1500,
        window: 64,
        settle_rows: 50,
        settle_time: Duration::from_millis(200),
        locked_rows: 400,
        prune_rows: 200,
    };
}

impl Default for WorkerLimits {
    fn default() -> Self {
        WorkerLimits::DEFAULT
    }
}
