//! Hosts that once sent bytes after the announced end of a response. HTTP/1.1 separates responses
//! only by their ends: on a reused connection such bytes would answer the next request with another
//! picture. `fetch` therefore uses each connection to these hosts once. Hosts whose heads are no
//! strict HTTP are among them: they are read leniently (`lenient.rs`). Kept in memory for the
//! engine's life, and never written anywhere.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Hosts remembered. A full set is cleared and collected again.
const MAX_HOSTS: usize = 4096;

/// The hosts, by their keys.
#[derive(Debug, Default)]
pub(crate) struct FramingOffenders(Mutex<HashSet<String>>);

impl FramingOffenders {
    pub(crate) fn contains(&self, host: &str) -> bool {
        self.hosts().contains(host)
    }

    pub(crate) fn add(&self, host: &str) {
        let mut hosts = self.hosts();
        if hosts.len() >= MAX_HOSTS {
            hosts.clear();
        }
        hosts.insert(host.to_owned());
    }

    fn hosts(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
