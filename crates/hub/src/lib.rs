//! Downloads a published model into a folder: only the needed files, complete and verified.
//!
//! Called by `pg_caption_engine model pull`, on a command line and never in the confined server: it
//! writes files and uses the proxy and the certificates of the environment like any other command.
//! One file a step: `location` (addresses), `listing` (published files), `pull` (the needed files),
//! `transfer` (one file, resumed and verified), `install` (the folder, which appears complete or
//! not at all).

mod client;
mod error;
mod install;
mod listing;
mod location;
mod pull;
mod transfer;

pub use error::HubError;
pub use location::HubLocation;
pub use pull::{PullReport, PullRequest, pull};
pub use transfer::RetryLimits;

/// Receives the progress of a download.
pub trait PullProgress {
    /// `done` of `total` bytes of all files have arrived; `file` is in transfer. `done` decreases
    /// when a file must be fetched again.
    fn at(&mut self, file: &str, done: u64, total: u64);
}

/// Ignores the progress.
impl PullProgress for () {
    fn at(&mut self, _file: &str, _done: u64, _total: u64) {}
}
