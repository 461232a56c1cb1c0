//! The decisions of a queue worker that need no database: what is in hand, and when a page of the queue or a chunk of a walk may be struck off.

mod board;
pub mod served;
pub mod turns;

pub use board::{Board, Origin, Page, PageId, Row, Struck};
