//! What becomes of the rows of the queue, without PostgreSQL: which rows need a caption, what is
//! sent to the engine, what an answer means for its row, and when a page of keys is done.
//!
//! `src/worker` carries the decisions out with SQL and a socket. The model test (`tests/model`)
//! drives the same code through random faults.

mod base_url;
mod dispatcher;
mod draft;
mod engine_loss;
mod examiner;
mod follow;
mod in_flight;
mod job;
mod ledger;
mod limits;
mod plan;
mod prune;
mod rates;
mod sources;
mod store;
mod update;
mod watched;
mod worker;

pub use base_url::{BaseUrlError, check_base_url, resolve_url};
pub use draft::{DRAFT, PENDING, REJECTED, draft_version, without_draft};
pub use engine_loss::{EngineLoss, EngineTrial, RequestWork};
pub use follow::FollowedWords;
pub use in_flight::{AckedPages, PageId, RowKey, RowsAhead};
use in_flight::{InFlight, PageOrigin};
pub use job::{
    BLANK, CurrentRow, FillText, MAX_HASHED_BYTES, MAX_URL_CHARS, RowHistory, RowJob, RowMatch,
};
pub use ledger::{APPROVED, WITHDRAWN};
pub use limits::WorkerLimits;
pub use plan::{RefusalKind, RetryPolicy, RowOutcome, RowPlan, RowResult, RowState, Settlement};
pub use prune::{PruneCursor, PrunePage, PruneStep, PruneTarget, RowsRead};
pub use sources::ReadSource;
pub use store::{BackfillChunk, QueueRow, QueueStore, ReadError, TableBusy};
pub use update::{LedgerChange, LedgerEntry, RowUpdate, StoredRow};
pub use watched::{KeyColumn, MAX_CONTEXT_COLUMNS, WatchFill, WatchedTable};
pub use worker::{ConnectionEvent, QueueWorker, WorkerAction, WorkerSignals};
