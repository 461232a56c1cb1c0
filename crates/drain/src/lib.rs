//! The decisions of the queue's workers and of their launcher, without PostgreSQL: what is in hand,
//! when a page of the queue or a chunk of a walk may be struck off, what is done next. The model
//! test (`tests/model`) drives all of it through random faults.

pub mod aftermath;
mod board;
mod examiner;
mod flight;
mod job;
mod limits;
mod rates;
pub mod roll;
pub mod served;
mod sources;
mod store;
pub mod succession;
mod tidy;
pub mod turns;
mod watched;
pub mod worker;

pub use board::{Board, Origin, Page, PageId, Row, Struck};
pub use job::{Current, Job, Past, entry, hash, is_ours, needs};
pub use limits::Limits;
pub use sources::Reading;
pub use store::{Busy, Chunk, QueueRow, Settled, Store, Unread};
pub use tidy::{Kept, Looked, Stand};
pub use watched::{Fill, KeyColumn, Watched, active};
