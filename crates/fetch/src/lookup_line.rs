//! Which look-up starts next. Pure: no thread, no lock, no clock.
//!
//! Look-up threads are shared as fetch threads are ([`FairShares`]): a client with many unanswered
//! names waits for its own threads. A look-up outlives the caller that gave up on it and keeps its
//! client's place until it ends, because `getaddrinfo` cannot be interrupted.
//!
//! A zone whose names were unanswered lately gets few look-ups of the same client at a time: the
//! names of one dead zone leave that client its other names. Other clients are not affected, so no
//! client can close a zone for another one.

use crate::shares::{FairShares, FetchClient};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Unanswered names after which a zone is slow.
const SLOW_NAMES: u32 = 3;
/// Look-ups in a slow zone, for each client.
const SLOW_LOOKUPS: usize = 2;
/// How long a zone stays slow after its last unanswered name.
const SLOW_ZONE: Duration = Duration::from_secs(60);
/// How long an unanswered name is not looked up again.
const SLOW_NAME: Duration = Duration::from_secs(10);
/// Remembered names and zones; beyond that the oldest are forgotten first.
const MOST_REMEMBERED: usize = 4096;

/// Whether a name is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineDecision {
    /// It is in line, perhaps because of another client.
    Queued,
    /// It was unanswered a moment ago.
    Slow,
    /// Its zone is slow, and enough of this client's names in it are being looked up.
    Busy,
}

/// One look-up that has not ended.
#[derive(Debug)]
struct Waiting {
    /// All clients that want it, the first one first.
    clients: Vec<FetchClient>,
    /// Callers that wait.
    callers: usize,
    /// Whose place it has, once it runs.
    running: Option<FetchClient>,
    /// Its callers gave up while it ran.
    slow: bool,
}

/// All look-ups, and what is remembered of earlier ones.
#[derive(Debug)]
pub(crate) struct LookupLine {
    shares: FairShares,
    lookups: HashMap<String, Waiting>,
    /// Names that do not run yet, in order of arrival.
    line: VecDeque<String>,
    slow_names: HashMap<String, Instant>,
    slow_zones: HashMap<(u64, String), (u32, Instant)>,
}

/// The zone of a name: its parent, unless that is a top-level domain.
fn zone(name: &str) -> Option<&str> {
    let parent = name.trim_end_matches('.').split_once('.')?.1;
    parent.contains('.').then_some(parent)
}

impl LookupLine {
    /// For that many threads.
    pub(crate) fn new(threads: usize) -> LookupLine {
        LookupLine {
            shares: FairShares::new(threads),
            lookups: HashMap::new(),
            line: VecDeque::new(),
            slow_names: HashMap::new(),
            slow_zones: HashMap::new(),
        }
    }

    /// A caller of `client` waits for `name`.
    pub(crate) fn ask(&mut self, name: &str, client: FetchClient, now: Instant) -> LineDecision {
        if self.slow_names.get(name).is_some_and(|until| now < *until) {
            return LineDecision::Slow;
        }
        if let Some(lookup) = self.lookups.get_mut(name) {
            lookup.callers += 1;
            if !lookup.clients.contains(&client) {
                lookup.clients.push(client);
            }
            return LineDecision::Queued;
        }
        if let Some(zone) = zone(name)
            && self.is_slow(client, zone, now)
            && self.asked(client, zone) >= SLOW_LOOKUPS
        {
            return LineDecision::Busy;
        }
        let lookup = Waiting { clients: vec![client], callers: 1, running: None, slow: false };
        self.lookups.insert(name.into(), lookup);
        self.line.push_back(name.into());
        LineDecision::Queued
    }

    fn is_slow(&self, client: FetchClient, zone: &str, now: Instant) -> bool {
        let known = self.slow_zones.get(&(client.connection, zone.to_owned()));
        known.is_some_and(|(names, until)| *names >= SLOW_NAMES && now < *until)
    }

    /// Look-ups of a client in a zone.
    fn asked(&self, client: FetchClient, of: &str) -> usize {
        let asked = |(name, lookup): &(&String, &Waiting)| {
            zone(name) == Some(of) && lookup.clients.contains(&client)
        };
        self.lookups.iter().filter(asked).count()
    }

    /// A caller no longer waits. Returns whether the look-up left the line.
    pub(crate) fn leave(&mut self, name: &str, gave_up: bool, now: Instant) -> bool {
        let Some(lookup) = self.lookups.get_mut(name) else { return false };
        lookup.callers = lookup.callers.saturating_sub(1);
        if lookup.running.is_none() {
            let unwanted = lookup.callers == 0;
            if unwanted {
                self.lookups.remove(name);
                self.line.retain(|queued| queued != name);
            }
            return unwanted;
        }
        if gave_up && !std::mem::replace(&mut lookup.slow, true) {
            let clients = lookup.clients.clone();
            self.remember_zone(name, &clients, now);
        }
        false
    }

    fn remember_zone(&mut self, name: &str, clients: &[FetchClient], now: Instant) {
        let Some(zone) = zone(name) else { return };
        if self.slow_zones.len() >= MOST_REMEMBERED {
            self.slow_zones.retain(|_, (_, until)| now < *until);
        }
        if self.slow_zones.len() >= MOST_REMEMBERED {
            self.slow_zones.clear();
        }
        for client in clients {
            let known = self.slow_zones.entry((client.connection, zone.into())).or_insert((0, now));
            if now >= known.1 {
                known.0 = 0;
            }
            *known = (known.0.saturating_add(1), now + SLOW_ZONE);
        }
    }

    /// The next name to look up: the first whose client may have one more thread.
    pub(crate) fn start(&mut self) -> Option<String> {
        for (at, name) in self.line.iter().enumerate() {
            let Some(lookup) = self.lookups.get_mut(name) else { continue };
            let admitted = lookup.clients.iter().find(|client| self.shares.admits(**client));
            if let Some(client) = admitted.copied() {
                lookup.running = Some(client);
                self.shares.take(client);
                return self.line.remove(at);
            }
        }
        None
    }

    /// A look-up ended. `answered`: the name has an address, or certainly none.
    pub(crate) fn finish(&mut self, name: &str, answered: bool, now: Instant) {
        let Some(lookup) = self.lookups.remove(name) else { return };
        if let Some(client) = lookup.running {
            self.shares.give_back(client);
        }
        if answered {
            if let Some(zone) = zone(name) {
                for client in &lookup.clients {
                    self.slow_zones.remove(&(client.connection, zone.to_owned()));
                }
            }
            return;
        }
        if self.slow_names.len() >= MOST_REMEMBERED {
            self.slow_names.retain(|_, until| now < *until);
        }
        if self.slow_names.len() >= MOST_REMEMBERED {
            self.slow_names.clear();
        }
        self.slow_names.insert(name.into(), now + SLOW_NAME);
    }
}

#[cfg(test)]
#[path = "lookup_line_tests.rs"]
mod tests;
