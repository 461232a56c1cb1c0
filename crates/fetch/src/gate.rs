//! [`HostTable`] behind a lock, with permits that return themselves. Never blocks: the engine keeps
//! waiting requests in its own queue.

use crate::hosts::{HostAnswer, HostDecision, HostTable};
use pg_caption_wire::{HostCooldown, HostStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whether a request to a host may start.
#[derive(Debug)]
pub enum HostAdmission {
    /// Yes. The permit belongs to the fetch.
    Go(HostPermit),
    /// The host is at its limit. Try again after a request to it has ended.
    Busy,
    /// The host is paused.
    Cooling {
        /// End of the pause.
        until: Instant,
    },
}

/// The right to send one request to a host. Dropping it without use changes nothing about the host.
#[derive(Debug)]
pub struct HostPermit {
    gate: Arc<Gate>,
    host: String,
    answer: HostAnswer,
}

impl HostPermit {
    /// `name:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the permit with the host's answer. The result is the host's pause, if there is one.
    pub(crate) fn finish(mut self, answer: HostAnswer) -> Option<Duration> {
        self.answer = answer;
        let (gate, host) = (self.gate.clone(), self.host.clone());
        drop(self);
        gate.hosts().pause(&host, Instant::now())
    }
}

impl Drop for HostPermit {
    fn drop(&mut self) {
        let answer = std::mem::replace(&mut self.answer, HostAnswer::Dropped);
        self.gate.hosts().finish(&self.host, answer, Instant::now());
    }
}

/// The one table of hosts of a fetcher.
#[derive(Debug)]
pub(crate) struct Gate {
    hosts: Mutex<HostTable>,
}

impl Gate {
    pub(crate) fn new(hosts: HostTable) -> Arc<Gate> {
        Arc::new(Gate { hosts: Mutex::new(hosts) })
    }

    /// A panic cannot break the table: no invariant spans two of its statements.
    fn hosts(&self) -> MutexGuard<'_, HostTable> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admit(self: &Arc<Self>, host: &str) -> HostAdmission {
        match self.hosts().admit(host, Instant::now()) {
            HostDecision::Go => HostAdmission::Go(HostPermit {
                gate: self.clone(),
                host: host.into(),
                answer: HostAnswer::Dropped,
            }),
            HostDecision::Busy => HostAdmission::Busy,
            HostDecision::Cooling { until } => HostAdmission::Cooling { until },
        }
    }

    pub(crate) fn last(&self, host: &str) -> Option<String> {
        self.hosts().last(host)
    }

    pub(crate) fn snapshot(&self) -> Vec<HostStatus> {
        self.hosts().snapshot(Instant::now())
    }

    pub(crate) fn cooldowns(&self) -> Vec<HostCooldown> {
        self.hosts().cooldowns(Instant::now())
    }

    pub(crate) fn restore(&self, cooldowns: &[HostCooldown]) {
        self.hosts().restore(cooldowns, Instant::now());
    }
}
