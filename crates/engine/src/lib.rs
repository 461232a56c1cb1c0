//! The engine: the program that fetches, decodes, batches and captions.
//!
//! A request becomes a `job`. Jobs that ask for the same picture share a `picture`, which passes
//! through the stages of the `pipeline` (fetch threads, decode threads) to the `provider`. The
//! provider returns raw captions; `captions` makes answers of them. `serve` takes requests from
//! PostgreSQL's sockets, `cli` from the command line.
//!
//! # Example
//!
//! The whole program, as `main.rs` runs it:
//!
//! ```no_run
//! use pg_caption_engine::{DecodeHook, cli};
//!
//! fn main() -> std::process::ExitCode {
//!     cli::main(DecodeHook::default())
//! }
//! ```

#![allow(
    clippy::result_large_err,
    reason = "failures are passed by value to the caller, once for a request"
)]

mod answer;
mod answer_memo;
mod budget;
mod captions;
mod catch_panic;
pub mod cli;
mod confine;
mod deadlines;
mod earlier;
mod encoded;
mod engine;
mod failures;
mod fair_queue;
mod file_memory;
mod headers_file;
mod http;
mod job;
mod log;
mod lookahead;
mod metrics;
mod picture;
mod pictures_in_flight;
mod pipeline;
mod provider;
mod request;
mod resolver_files;
mod running;
mod serve;
mod shared_answers;
mod shared_pictures;
mod steps;
mod test_hook;
mod threads;
mod url_memo;
mod wording;

pub use test_hook::DecodeHook;
