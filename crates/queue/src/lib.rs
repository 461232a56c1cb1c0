//! The decisions of the queue's workers and of their launcher, without PostgreSQL: what is in hand,
//! when a page of the queue or a chunk of a walk may be struck off, what is done next. The model
//! test (`tests/model`) drives all of it through random faults.

mod dispatcher;
mod examiner;
mod in_flight;
mod job;
mod limits;
pub mod outcome;
mod prune;
mod rates;
mod sources;
mod store;
mod watched;
pub mod worker;

pub use in_flight::{Board, Origin, Page, PageId, Row, Struck};
pub use job::{Current, Job, Past, entry, hash, is_ours, needs};
pub use limits::Limits;
pub use prune::{Kept, Looked, Stand};
pub use sources::Reading;
pub use store::{Busy, Chunk, QueueRow, Settled, Store, Unread};
pub use watched::{Fill, KeyColumn, Watched, active};
