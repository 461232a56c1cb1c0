//! Which databases may have work, and who serves them: probes each once, then starts workers as generations rise. Filled in with the queue.

use std::time::Instant;

/// What the launcher knows of the databases.
#[derive(Default)]
pub struct Databases {}

impl Databases {
    /// Starts workers.
    pub fn tend(&mut self, _now: Instant) {}

    /// When `tend` has something to do.
    pub fn next_due(&self, _now: Instant) -> Option<Instant> {
        None
    }
}
