//! [`HostTable`] behind a lock, with permits that give themselves back. Used by the engine (never
//! blocking) and by redirects, which change hosts in the middle of a fetch and wait here.

use crate::hosts::{HostAnswer, HostDecision, HostTable};
use pg_caption_wire::{HostCooldown, HostStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting redirect looks whether its caller has left.
const LOOK: Duration = Duration::from_millis(50);

/// Answer to "may a request to this host start".
#[derive(Debug)]
pub enum HostAdmission {
    /// Yes. Hand the permit to the fetch.
    Go(HostPermit),
    /// The host is at its cap: ask again when a request to it has ended.
    Busy,
    /// The host asked for patience: ask again then.
    Cooling {
        /// When.
        until: Instant,
    },
}

/// The right to ask one host, once. Dropped unused, it is given back without a word about the host.
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

    /// Gives it back with what was learned of the host; how long the host rests now, if it does.
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
        self.gate.ended.notify_all();
    }
}

/// The one table of hosts of a fetcher.
#[derive(Debug)]
pub(crate) struct Gate {
    hosts: Mutex<HostTable>,
    ended: Condvar,
}

impl Gate {
    pub(crate) fn new(hosts: HostTable) -> Arc<Gate> {
        Arc::new(Gate { hosts: Mutex::new(hosts), ended: Condvar::new() })
    }

    /// The table holds no invariant that a panic between two of its statements could break.
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

    /// Waits while the host is busy, until `give_up` says so. Never waits for a cooling host.
    pub(crate) fn wait(self: &Arc<Self>, host: &str, give_up: &dyn Fn() -> bool) -> HostAdmission {
        loop {
            match self.admit(host) {
                HostAdmission::Busy if !give_up() => {
                    let hosts = self.hosts();
                    // a permit given back between the look and the wait is noticed at the next look
                    drop(self.ended.wait_timeout(hosts, LOOK));
                }
                other => return other,
            }
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
