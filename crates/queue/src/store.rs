//! What a worker asks of the database, all within one short transaction that its caller has begun.
//! The extension does it with SQL, the model test with maps.

use crate::prune::{Kept, Looked, Stand};
use crate::{Current, Job, Past, Row, Struck, Watched};
use pg_caption_wire::CaptionOutcome;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A row of `caption.queue`.
#[derive(Debug, Clone)]
pub struct QueueRow {
    /// Its id.
    pub id: i64,
    /// OID of the watched table.
    pub relation: u32,
    /// Keys as JSON texts; the same one may be there twice.
    pub keys: Vec<String>,
}

/// The next rows of a table in key order.
#[derive(Debug)]
pub struct Chunk {
    /// Key and row.
    pub rows: Vec<(String, Current)>,
    /// The table ends here.
    pub ended: bool,
}

/// A table is locked as a whole, was redefined since its watch was read, or an open transaction has
/// changed its watch: nothing was examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl From<Busy> for Unread {
    fn from(Busy: Busy) -> Self {
        Unread::Busy
    }
}

/// Why rows could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// For now: see [`Busy`].
    Busy,
    /// Its rows cannot be read at all, and the reason has been noted: the table waits for somebody
    /// to mend it.
    Stopped,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Nothing of it is left to do here.
    Done {
        /// Its row was written.
        filled: bool,
    },
    /// Somebody else holds the row: try the write again later.
    Locked,
    /// The table's own code met a lock, perhaps after a while of waiting for it: likewise, less and
    /// less often.
    Blocked,
}

/// The database of one worker, in a transaction.
pub trait Store {
    /// The time now: what a row's own code does takes some.
    fn now(&mut self) -> Instant;

    /// Rows of the queue beyond an id, in the order of their ids, at most `limit`, of these tables
    /// only.
    fn queue(&mut self, after: i64, tables: &[u32], limit: usize) -> Vec<QueueRow>;

    /// Deferred rows of these tables that are due, longest due first, at most `limit` of each.
    fn due(&mut self, tables: &[u32], limit: usize) -> Vec<Row>;

    /// The next rows of a table beyond a key, `limit` or fewer.
    ///
    /// # Errors
    /// See [`Unread`].
    fn chunk(
        &mut self,
        table: &Watched,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Chunk, Unread>;

    /// The rows of some keys, as often as each is named; rows that are gone are missing. What
    /// cannot be read has been recorded as failed.
    ///
    /// # Errors
    /// [`Busy`].
    fn rows(&mut self, table: &Watched, keys: &[String]) -> Result<Vec<(String, Current)>, Busy>;

    /// What the ledger and the deferred rows say of some keys; those they do not know are missing.
    fn history(&mut self, table: &Watched, keys: &[String]) -> HashMap<String, Past>;

    /// Whether a table can be written to, and stays so until the transaction ends.
    fn may_write(&mut self, table: &Watched) -> bool;

    /// Writes what an outcome brings, and what it means for its row (see [`crate::outcome`]).
    /// `jitter` is in 0..1.
    fn settle(
        &mut self,
        table: &Watched,
        job: &Job,
        outcome: &CaptionOutcome,
        jitter: f64,
    ) -> Settled;

    /// Puts a row off that somebody holds; nothing is charged.
    fn put_off(&mut self, row: &Row, attempts: i32, pause: Duration);

    /// A row is not waiting any more.
    fn undefer(&mut self, row: &Row);

    /// Removes complete pages from the queue and moves walks on; a walk that was begun anew
    /// meanwhile stays where it is.
    fn strike(&mut self, struck: &Struck, tables: &[Watched]);

    /// Counts rows that were filled, and how many a minute.
    fn tally(&mut self, relation: u32, filled: i64, per_minute: f32);

    /// Which of these tables a pass over their ledger and failures is due for, or has been begun.
    fn untidy(&mut self, tables: &[u32]) -> Vec<u32>;

    /// How far the pass over a table has come, or its start. The table and its watch stay as they
    /// are until the transaction ends.
    ///
    /// # Errors
    /// [`Busy`].
    fn stand(&mut self, table: &Watched) -> Result<Stand, Busy>;

    /// Keys of which something is kept, beyond one of them, in an order that does not change;
    /// `limit` or fewer.
    fn kept(
        &mut self,
        table: &Watched,
        kept: Kept,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<String>;

    /// The rows of some keys, of which nothing is noted. Those that are neither among the rows nor
    /// among the unread are gone.
    ///
    /// # Errors
    /// See [`Unread`]; no reason is noted.
    fn look(&mut self, table: &Watched, keys: &[String]) -> Result<Looked, Unread>;

    /// Forgets what is kept of some keys.
    fn forget(&mut self, table: &Watched, kept: Kept, keys: &[String]);

    /// The pass has come so far; `None`: to its end.
    fn stands(&mut self, table: &Watched, stand: Option<&Stand>);
}
