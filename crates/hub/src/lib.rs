//! A published model becomes a folder here: what is needed of it, whole and checked.
//!
//! Called by `pg_caption_engine model pull`, on a command line and never in the confined server: it
//! writes files and uses the proxy and the certificates of the environment like any other command.
//! The steps, one file each: `place` (addresses), `listing` (what is published), `pull` (what of it
//! is needed), `transfer` (one file, resumed and checked), `shelf` (the folder, which appears whole
//! or not at all).

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

/// Told how far a download is.
pub trait PullProgress {
    /// `done` of `total` bytes are here, all files together; `file` is the one being fetched. May
    /// go back when a file has to be fetched again.
    fn at(&mut self, file: &str, done: u64, total: u64);
}

/// For whom it does not matter.
impl PullProgress for () {
    fn at(&mut self, _file: &str, _done: u64, _total: u64) {}
}
