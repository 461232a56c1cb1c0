//! What a worker wants done, and what it is told.

use crate::Reading;
use pg_caption_wire::CaptionOutcome;
use std::time::{Duration, Instant};

/// What can be seen without asking the database.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The clock.
    pub now: Instant,
    /// `pg_caption.enabled`.
    pub enabled: bool,
    /// Raised by every commit that enqueued something; `None`: the database is not known any more.
    pub generation: Option<u64>,
    /// A prepared transaction announced something whose commit nobody will announce.
    pub slow_look: bool,
    /// Some watched table was redefined since the watches were read.
    pub redefined: bool,
    /// A database waits for a worker slot.
    pub crowded: bool,
    /// Counts the changes of the engine.
    pub epoch: u64,
}

/// What to do, and what to call then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Leave if somebody wants the database to itself: the launcher looks again later if it still
    /// exists.
    AskForDatabase,
    /// Remove what belongs to tables that are gone, and old failures.
    Clean,
    /// Read the watches: [`super::Worker::watches`].
    ReadWatches,
    /// In a transaction: [`super::Worker::read`].
    Read(Reading),
    /// Connect to the engine, waiting until then at most: [`super::Worker::connected`].
    Connect {
        /// When to give up.
        until: Instant,
    },
    /// While the connection has room: [`super::Worker::next_request`], then [`super::Worker::sent`]
    /// or [`super::Worker::unsendable`].
    Send,
    /// Look once whether the engine has said something: [`super::Worker::heard`].
    Receive,
    /// In a transaction: [`super::Worker::settle`].
    Settle,
    /// In a transaction: [`super::Worker::tidy`].
    Tidy,
    /// Tell everybody what is going on.
    Show,
    /// Wait for the engine, the latch, or the time to pass.
    Wait(Duration),
    /// With nothing in hand, wait for the latch or the time to pass.
    Idle(Duration),
    /// Find out when deferred rows are due: [`super::Worker::due`].
    ReadDue,
    /// Look for prepared transactions: [`super::Worker::prepared`].
    LookForPrepared,
    /// Leave, unless the generation is another one by now.
    Depart {
        /// Everything up to here is done.
        generation: u64,
        /// When deferred rows are due, in milliseconds of the Unix epoch; 0: never.
        due_ms: i64,
        /// Prepared transactions are pending whose commit nobody will announce.
        prepared: bool,
    },
    /// Leave in the middle of the work, so that other databases get their turn.
    Yield,
    /// Leave a database without the extension, unless the generation is another one by now.
    Forget {
        /// It was seen to be gone then.
        generation: u64,
    },
    /// Leave at once.
    Leave,
}

/// What the connection to the engine said.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, never kept")]
pub enum Heard {
    /// Nothing more, for now.
    Nothing,
    /// Nothing that concerns a job.
    Other,
    /// Nothing more for ever: it was asked to end and owes no answer.
    Spent,
    /// The answer to a request.
    Answer {
        /// Under which it was sent.
        id: u64,
        /// What came of it.
        outcome: CaptionOutcome,
    },
    /// It is gone, and what was in flight with it.
    Lost {
        /// The engine said that it will not talk with us.
        refused: bool,
    },
}
