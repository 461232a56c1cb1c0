//! Limits for each host: concurrent requests, and pauses that the host asks for.
//!
//! A state machine with the time as an argument. The engine can therefore decide about a request
//! without a thread for it, and tests need not wait. `gate.rs` puts it behind a lock; nothing here
//! blocks or reads the clock.

use crate::status::MAX_RETRY_AFTER;
use pg_caption_backoff::Backoff;
use pg_caption_wire::{HostCooldown, HostStatus};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// First pause of a host that asks for a pause without stating its length.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of that kind.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Doubled with each such answer in a row.
const PAUSES: Backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
/// Hosts remembered. Beyond it idle hosts are removed, then those whose pauses end first.
const MAX_HOSTS: usize = 4096;
/// Hosts in a status, which must stay a small message.
const MAX_SHOWN: usize = 200;
/// Pauses passed to the next engine, the longest first. They must fit into a pipe (64 KiB), so that
/// writing never waits for the reader.
const MAX_COOLDOWNS: usize = 150;

/// Whether a request to a host may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostDecision {
    /// Yes; it counts as in flight until [`HostTable::finish`].
    Go,
    /// The host is at its limit. Try again after a request to it has ended.
    Busy,
    /// The host is paused.
    Cooling {
        /// End of the pause.
        until: Instant,
    },
}

/// How a request ended, from the host's point of view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAnswer {
    /// The host answered with any other status; the code becomes [`HostStatus::last`].
    Served(String),
    /// The host asked for a pause (429, 503).
    PauseRequest {
        /// `http_429` or `http_503`.
        code: String,
        /// Its Retry-After.
        wait: Option<Duration>,
        /// Without Retry-After: whether to pause after the first such answer (429) or only after
        /// the second in a row (503).
        always: bool,
    },
    /// The host did not answer: timeout, reset, TLS. No pause: retries of rows are spaced anyway.
    Failed(String),
    /// The engine ended the request.
    Dropped,
}

#[derive(Debug, Default)]
struct Host {
    in_flight: u32,
    until: Option<Instant>,
    streak: u32,
    last: Option<String>,
    /// Time of the last answer.
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

/// Hosts with requests in flight, paused hosts, and recently used hosts.
///
/// ```
/// use pg_caption_fetch::{HostAnswer, HostDecision, HostTable};
/// use std::time::{Duration, Instant};
///
/// let (mut hosts, now) = (HostTable::new(1, 7), Instant::now());
/// assert_eq!(hosts.admit("a.example:443", now), HostDecision::Go);
/// assert_eq!(hosts.admit("a.example:443", now), HostDecision::Busy);
/// let wait = Some(Duration::from_secs(30));
/// let answer = HostAnswer::PauseRequest { code: "http_429".into(), wait, always: true };
/// hosts.finish("a.example:443", answer, now);
/// assert_eq!(hosts.pause("a.example:443", now), wait);
/// ```
#[derive(Debug)]
pub struct HostTable {
    limit: u32,
    hosts: HashMap<String, Host>,
    random: fastrand::Rng,
}

impl HostTable {
    /// `limit`: concurrent requests to one host (`pg_caption.host_concurrency`), at least 1.
    /// `seed`: for the jitter.
    pub fn new(limit: u32, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        HostTable { limit: limit.max(1), hosts: HashMap::new(), random }
    }

    /// Whether a request to `host` may start now. After [`HostDecision::Go`] the caller must call
    /// [`HostTable::finish`] once.
    pub fn admit(&mut self, host: &str, now: Instant) -> HostDecision {
        if !self.hosts.contains_key(host) {
            self.make_room(now);
        }
        let entry = self.hosts.entry(host.into()).or_default();
        match entry.until {
            Some(until) if until > now => return HostDecision::Cooling { until },
            _ => entry.until = None,
        }
        if entry.in_flight >= self.limit {
            return HostDecision::Busy;
        }
        entry.in_flight += 1;
        HostDecision::Go
    }

    /// Ends a request that [`HostTable::admit`] allowed.
    pub fn finish(&mut self, host: &str, answer: HostAnswer, now: Instant) {
        let random = self.random.f64();
        let Some(entry) = self.hosts.get_mut(host) else { return };
        entry.in_flight = entry.in_flight.saturating_sub(1);
        match answer {
            HostAnswer::Served(last) => {
                entry.streak = 0;
                entry.answered(last, now);
            }
            HostAnswer::Failed(last) => entry.answered(last, now),
            HostAnswer::Dropped => {}
            HostAnswer::PauseRequest { code, wait, always } => {
                entry.answered(code, now);
                // Requests that were in flight when the host first asked do not count again.
                if entry.until.is_none_or(|until| until <= now) {
                    entry.streak = entry.streak.saturating_add(1);
                }
                let pause = match wait {
                    Some(wait) => wait.min(MAX_RETRY_AFTER),
                    None if always || entry.streak > 1 => {
                        PAUSES.jittered(entry.streak.saturating_sub(1), 1.0, random)
                    }
                    None => Duration::ZERO,
                };
                let until = now + pause;
                if !pause.is_zero() && entry.until.is_none_or(|old| old < until) {
                    entry.until = Some(until);
                }
            }
        }
    }

    /// The rest of the host's pause, if it is paused.
    pub fn pause(&self, host: &str, now: Instant) -> Option<Duration> {
        self.hosts.get(host)?.until?.checked_duration_since(now).filter(|d| !d.is_zero())
    }

    /// Code of the host's last answer.
    pub fn last(&self, host: &str) -> Option<String> {
        self.hosts.get(host)?.last.clone()
    }

    /// At most [`MAX_SHOWN`] hosts, by name: those with requests in flight and paused ones first,
    /// then the most recently used.
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

    /// The longest [`MAX_COOLDOWNS`] active pauses, for the next engine.
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
        list.truncate(MAX_COOLDOWNS);
        list
    }

    /// Takes over the pauses of an earlier engine. A longer pause in this table stays.
    pub fn restore(&mut self, cooldowns: &[HostCooldown], now: Instant) {
        for c in cooldowns {
            self.make_room(now);
            let until = now + Duration::from_millis(c.remaining_ms).min(MAX_RETRY_AFTER);
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

    /// Bounds the table, however many hosts a table of URLs names.
    fn make_room(&mut self, now: Instant) {
        if self.hosts.len() < MAX_HOSTS {
            return;
        }
        self.hosts.retain(|_, h| h.is_active(now));
        if self.hosts.len() >= MAX_HOSTS {
            // An eighth in one step, so that a full table is not searched for every new host.
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
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
