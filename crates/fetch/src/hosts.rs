//! How each host is treated: how many requests at once, and when it wants to be left alone.
//!
//! A state machine over a clock that is handed in, so the engine can ask about a request without
//! spending a thread on it, and tests need not wait. `gate.rs` puts it behind a lock; nothing here
//! blocks or looks at the real time.

use crate::status::LONGEST_PATIENCE;
use pg_caption_wire::{HostCooldown, HostStatus};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// First pause of a host that asked for patience without saying how much.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of that kind.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Hosts remembered while nothing is in flight with them; beyond it the idle ones are forgotten,
/// then the coolest.
const MAX_HOSTS: usize = 4096;
/// Hosts shown in a status: it must stay a small message.
const MAX_SHOWN: usize = 200;
/// Pauses handed to the next engine, the longest first: they must fit into a pipe (64 KiB), so that
/// nobody waits for its reader.
const MAX_HANDED: usize = 150;

/// Whether a request to a host may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostDecision {
    /// Yes; it is counted as in flight until [`HostTable::finish`].
    Go,
    /// The host is at its cap; ask again when a request to it has ended.
    Busy,
    /// The host asked for patience.
    Cooling {
        /// Ask again then.
        until: Instant,
    },
}

/// How a request to a host ended, as far as the host is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAnswer {
    /// It served: any status but those below. The words go into [`HostStatus::last`].
    Served(String),
    /// It asked for patience (429, 503), for so long if it said so.
    Patience {
        /// `http_429` or `http_503`.
        code: String,
        /// Its Retry-After.
        wait: Option<Duration>,
        /// A pause even at the first time without Retry-After (429); else only at the second in a
        /// row (503).
        certain: bool,
    },
    /// It did not answer: timeout, reset, TLS. No pause: the rows' own attempts are spaced.
    Failed(String),
    /// The request ended for reasons of ours.
    Dropped,
}

#[derive(Debug, Default)]
struct Host {
    in_flight: u32,
    until: Option<Instant>,
    streak: u32,
    last: Option<String>,
    /// When it last gave an answer.
    answered: Option<Instant>,
}

impl Host {
    fn is_active(&self, now: Instant) -> bool {
        self.in_flight > 0 || self.until.is_some_and(|until| until > now)
    }

    fn answered(&mut self, last: String, now: Instant) {
        (self.last, self.answered) = (Some(last), Some(now));
    }
}

/// Every host that is being asked or is cooling, and those asked lately.
#[derive(Debug)]
pub struct HostTable {
    cap: u32,
    hosts: HashMap<String, Host>,
    random: u64,
}

impl HostTable {
    /// `cap`: requests at once for one host (`pg_caption.host_concurrency`), at least 1. `seed`: of
    /// the jitter.
    pub fn new(cap: u32, seed: u64) -> Self {
        HostTable { cap: cap.max(1), hosts: HashMap::new(), random: seed | 1 }
    }

    /// May a request to `host` start now? [`HostDecision::Go`] must be followed by one
    /// [`HostTable::finish`].
    pub fn admit(&mut self, host: &str, now: Instant) -> HostDecision {
        if !self.hosts.contains_key(host) {
            self.make_room(now);
        }
        let entry = self.hosts.entry(host.into()).or_default();
        match entry.until {
            Some(until) if until > now => return HostDecision::Cooling { until },
            _ => entry.until = None,
        }
        if entry.in_flight >= self.cap {
            return HostDecision::Busy;
        }
        entry.in_flight += 1;
        HostDecision::Go
    }

    /// The request that [`HostTable::admit`] let go has ended.
    pub fn finish(&mut self, host: &str, answer: HostAnswer, now: Instant) {
        let jitter = self.jitter();
        let Some(entry) = self.hosts.get_mut(host) else { return };
        entry.in_flight = entry.in_flight.saturating_sub(1);
        match answer {
            HostAnswer::Served(last) => {
                entry.streak = 0;
                entry.answered(last, now);
            }
            HostAnswer::Failed(last) => entry.answered(last, now),
            HostAnswer::Dropped => {}
            HostAnswer::Patience { code, wait, certain } => {
                entry.answered(code, now);
                // requests that were already on their way when the host first asked say nothing new
                if entry.until.is_none_or(|until| until <= now) {
                    entry.streak = entry.streak.saturating_add(1);
                }
                let pause = match wait {
                    Some(wait) => wait.min(LONGEST_PATIENCE),
                    None if certain || entry.streak > 1 => backoff(entry.streak, jitter),
                    None => Duration::ZERO,
                };
                let until = now + pause;
                if !pause.is_zero() && entry.until.is_none_or(|old| old < until) {
                    entry.until = Some(until);
                }
            }
        }
    }

    /// How long `host` rests from now on, if it does.
    pub fn pause(&self, host: &str, now: Instant) -> Option<Duration> {
        self.hosts.get(host)?.until?.checked_duration_since(now).filter(|d| !d.is_zero())
    }

    /// What `host` answered last.
    pub fn last(&self, host: &str) -> Option<String> {
        self.hosts.get(host)?.last.clone()
    }

    /// Hosts with requests in flight or cooling, then those that answered last, [`MAX_SHOWN`] in
    /// all; by name.
    pub fn snapshot(&self, now: Instant) -> Vec<HostStatus> {
        let known = self.hosts.iter().filter(|(_, h)| h.is_active(now) || h.last.is_some());
        let mut shown: Vec<_> = known.collect();
        shown.sort_by_key(|(_, h)| (!h.is_active(now), std::cmp::Reverse(h.answered)));
        shown.truncate(MAX_SHOWN);
        shown.sort_by_key(|(name, _)| *name);
        let millis = |d: Duration| d.as_millis() as u64;
        let status = |(name, h): (&String, &Host)| HostStatus {
            host: name.clone(),
            in_flight: h.in_flight,
            cooling_ms: h.until.filter(|u| *u > now).map(|u| millis(u - now)),
            last: h.last.clone(),
            last_ms_ago: h.answered.map(|at| millis(now.saturating_duration_since(at))),
        };
        shown.into_iter().map(status).collect()
    }

    /// The pauses that are not over, for the next engine: the longest [`MAX_HANDED`].
    pub fn cooldowns(&self, now: Instant) -> Vec<HostCooldown> {
        let cooling = self.hosts.iter().filter_map(|(name, h)| {
            let left = h.until?.checked_duration_since(now).filter(|d| !d.is_zero())?;
            Some(HostCooldown {
                host: name.clone(),
                remaining_ms: left.as_millis() as u64,
                streak: h.streak,
                last: h.last.clone(),
            })
        });
        let mut list: Vec<_> = cooling.collect();
        list.sort_by_key(|c| std::cmp::Reverse(c.remaining_ms));
        list.truncate(MAX_HANDED);
        list
    }

    /// Takes over what an engine before this one had learned. A longer pause of our own stays.
    pub fn restore(&mut self, cooldowns: &[HostCooldown], now: Instant) {
        for c in cooldowns {
            self.make_room(now);
            let until = now + Duration::from_millis(c.remaining_ms).min(LONGEST_PATIENCE);
            let entry = self.hosts.entry(c.host.clone()).or_default();
            if entry.until.is_none_or(|old| old < until) {
                *entry = Host {
                    in_flight: entry.in_flight,
                    until: Some(until),
                    streak: c.streak,
                    last: c.last.clone(),
                    answered: entry.answered,
                };
            }
        }
    }

    /// Keeps the table bounded whatever hosts a catalogue names.
    fn make_room(&mut self, now: Instant) {
        if self.hosts.len() < MAX_HOSTS {
            return;
        }
        self.hosts.retain(|_, h| h.is_active(now));
        if self.hosts.len() >= MAX_HOSTS {
            // an eighth at once, so that a full table is not searched for every new host
            let mut idle: Vec<_> = self
                .hosts
                .iter()
                .filter(|(_, h)| h.in_flight == 0)
                .map(|(name, h)| (h.until, name.clone()))
                .collect();
            idle.sort();
            idle.iter().take(MAX_HOSTS / 8).for_each(|(_, name)| drop(self.hosts.remove(name)));
        }
    }

    /// 0..1 (xorshift64: spreading callers needs no better).
    fn jitter(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The pause after the `streak`-th refusal in a row: doubled each time, between half of it and all
/// of it.
fn backoff(streak: u32, jitter: f64) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << streak.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
