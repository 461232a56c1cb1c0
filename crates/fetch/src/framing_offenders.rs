//! Hosts that once sent bytes behind the announced end of an answer. HTTP/1.1 tells answers apart
//! by nothing but their ends: on a connection that is used again, such bytes are the answer to the
//! next request, and another picture. So `fetch` uses connections to these hosts once. Kept for the
//! engine's life; never written anywhere.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Hosts remembered. A catalogue that names more of this kind is forgotten and learned anew.
const MAX_HOSTS: usize = 4096;

/// The hosts, by the key under which they are scheduled.
#[derive(Debug, Default)]
pub(crate) struct Careless(Mutex<HashSet<String>>);

impl Careless {
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
