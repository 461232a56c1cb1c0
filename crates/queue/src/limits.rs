//! How much a worker takes on at once.

use std::time::Duration;

/// Bounds of what is in hand; the defaults are what the extension uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Queue rows read at once; each holds up to a few hundred keys.
    pub queue_rows: usize,
    /// Deferred rows of one table read at once.
    pub deferred_rows: usize,
    /// Table rows in one chunk of the walk.
    pub chunk: usize,
    /// Chunks of one table's walk in hand at once.
    pub chunks: usize,
    /// Jobs ready to be sent below which more are read. Those of a host that has all the places it
    /// may have do not count.
    pub ready: usize,
    /// Jobs ready to be sent, of whatever host, from which on no more are read.
    pub most_ready: usize,
    /// Jobs that the engine takes from us at once.
    pub window: usize,
    /// Replies settled in one transaction.
    pub together: usize,
    /// How long one transaction goes on settling: the rows that it has written are locked until it
    /// ends, and with them whatever their triggers have touched. Together with the longest wait for
    /// a lock below `deadlock_timeout`.
    pub settling: Duration,
    /// Captions kept for rows that somebody holds, beyond those of the last moment: fewer than
    /// deferred rows that are looked through.
    pub held: usize,
    /// Entries of the ledger, or failures, that one batch of a pass looks at.
    pub tidied: usize,
}

impl Limits {
    /// What the extension uses.
    pub const DEFAULT: Limits = Limits {
        queue_rows: 5,
        deferred_rows: 200,
        chunk: 500,
        chunks: 40,
        ready: 64,
        most_ready: 1500,
        window: 64,
        together: 50,
        settling: Duration::from_millis(200),
        held: 400,
        tidied: 200,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
