//! The engine: the program that fetches, decodes, batches and captions.
//!
//! A request becomes a [`job`]; jobs that want the same picture meet in a `picture`, which passes
//! through the stages of the `pipeline` (fetch threads, decode threads) to the one model thread,
//! where the `scheduler` decides what runs next. `serve` feeds it from PostgreSQL's sockets, `cli`
//! from the command line.

#![allow(
    clippy::result_large_err,
    reason = "failures travel by value to whoever asked, once for a request"
)]

mod budget;
mod captions;
pub mod cli;
mod confine;
mod deadlines;
mod engine;
pub mod failures;
mod inbox;
pub mod job;
mod log;

mod fair_queue;
mod metrics;
mod model;
mod names;
mod picture;
mod pipeline;
mod readiness;
mod scheduler;
mod serve;
mod share;
pub mod test_hook;
