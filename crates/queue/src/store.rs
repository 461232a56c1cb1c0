//! What a worker needs from its database, within one short transaction that the caller has begun.
//! The extension implements it with SQL, the model test with maps.

use crate::{
    AckedPages, CurrentRow, PrunePage, PruneStep, RowHistory, RowJob, RowKey, RowOutcome,
    RowResult, RowsRead, Settlement, WatchedTable,
};
use std::collections::HashMap;
use std::time::Instant;

/// A row of `caption.queue`.
#[derive(Debug, Clone)]
pub struct QueueRow {
    /// Its id.
    pub id: i64,
    /// OID of the watched table.
    pub relation: u32,
    /// Keys as JSON texts; a key may occur twice.
    pub keys: Vec<String>,
}

/// The next rows of a table in key order.
#[derive(Debug)]
pub struct BackfillChunk {
    /// Key and row.
    pub rows: Vec<(String, CurrentRow)>,
    /// The table ends here.
    pub ended: bool,
}

/// Nothing was read: the table is locked, or was redefined since its watch was read, or an open
/// transaction has changed its watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableBusy;

impl From<TableBusy> for ReadError {
    fn from(TableBusy: TableBusy) -> Self {
        ReadError::Busy
    }
}

/// Why rows could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// For now: see [`TableBusy`].
    Busy,
    /// Its rows cannot be read at all. The table waits for its owner; where documented, the reason
    /// is recorded.
    Stopped,
}

/// The database of one worker, in a transaction.
pub trait QueueStore {
    /// The current time: code of a watched table may take long.
    fn now(&mut self) -> Instant;

    /// Rows of the queue beyond an id, of these tables, in the order of their ids, at most `limit`.
    fn queue(&mut self, after: i64, tables: &[u32], limit: usize) -> Vec<QueueRow>;

    /// Due rows of `caption.deferred`, longest due first, at most `limit` of each table.
    fn due(&mut self, tables: &[u32], limit: usize) -> Vec<RowKey>;

    /// The next rows of a table beyond a key, at most `limit`.
    ///
    /// # Errors
    /// See [`ReadError`]; the reason of `Stopped` is recorded.
    fn chunk(
        &mut self,
        table: &WatchedTable,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BackfillChunk, ReadError>;

    /// The rows of some keys, one for each occurrence of a key; deleted rows are missing.
    /// Unreadable rows are recorded as failed.
    ///
    /// # Errors
    /// [`TableBusy`].
    fn rows(
        &mut self,
        table: &WatchedTable,
        keys: &[String],
    ) -> Result<Vec<(String, CurrentRow)>, TableBusy>;

    /// Ledger and deferrals of some keys; keys without either are missing.
    fn history(&mut self, table: &WatchedTable, keys: &[String]) -> HashMap<String, RowHistory>;

    /// Whether a table can be written until the transaction ends.
    fn may_write(&mut self, table: &WatchedTable) -> bool;

    /// Locks and reads the row of a settlement, and carries out the update of its plan. The outcome
    /// is not recorded yet. An error in the table's own code rolls the write back and makes
    /// another plan.
    fn write(&mut self, settlement: &Settlement<'_>) -> RowResult;

    /// Records the outcome of a job in `caption.deferred`, `caption.failed` and the ledger.
    fn record(&mut self, job: &RowJob, outcome: &RowOutcome);

    /// Removes the deferral of a row.
    fn undefer(&mut self, row: &RowKey);

    /// Removes complete pages from the queue and advances backfills; a backfill that was restarted
    /// meanwhile stays as it is.
    fn acknowledge(&mut self, acked: &AckedPages, tables: &[WatchedTable]);

    /// Adds to the number of filled rows of a table, and sets its rate.
    fn count_filled(&mut self, relation: u32, filled: i64, per_minute: f32);

    /// Tables of which a prune pass is due or unfinished.
    fn prune_due(&mut self, tables: &[u32]) -> Vec<u32>;

    /// The next keys of the prune pass of a table, at most `limit`. The table and its watch stay as
    /// they are until the transaction ends.
    ///
    /// # Errors
    /// [`TableBusy`].
    fn prune_page(&mut self, table: &WatchedTable, limit: usize) -> Result<PrunePage, TableBusy>;

    /// The rows of some keys; nothing is recorded. Keys in neither part of the result have no row.
    ///
    /// # Errors
    /// See [`ReadError`]; no reason is recorded.
    fn existing_rows(
        &mut self,
        table: &WatchedTable,
        keys: &[String],
    ) -> Result<RowsRead, ReadError>;

    /// Removes bookkeeping and advances the prune pass.
    fn prune(&mut self, table: &WatchedTable, step: &PruneStep);
}
