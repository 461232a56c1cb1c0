//! Which look-up starts next. Pure: no thread, no lock, no clock.
//!
//! Look-up threads are shared as fetch threads are ([`FairShares`]): a client with many unanswered
//! names waits for its own threads. A look-up outlives the caller that gave up on it and keeps its
//! client's place until it ends, because `getaddrinfo` cannot be interrupted.
//!
//! A zone whose names were unanswered lately gets few look-ups of the same client at a time: the
//! names of one dead zone leave that client its other names. Other clients are not affected, so no
//! client can close a zone for another one. A client with many unanswered names in any zones gets
//! few look-ups of names that never answered: the hosts of its other rows go on.

use crate::shares::{FairShares, FetchClient};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Unanswered names after which a zone is slow.
const SLOW_NAMES: u32 = 3;
/// Look-ups in a slow zone, for each client.
const SLOW_LOOKUPS: usize = 2;
/// Unanswered names of a client, in any zones, after which it gets few look-ups of new names.
const MANY_SLOW_NAMES: u32 = 8;
/// Those look-ups, as a part of the threads.
const NEW_NAMES_PART: usize = 8;
/// How long a zone stays slow after its last unanswered name.
const SLOW_ZONE: Duration = Duration::from_secs(60);
/// How long an unanswered name is not looked up again.
const SLOW_NAME: Duration = Duration::from_secs(10);
/// Remembered names and zones; beyond that the oldest are forgotten first.
const MOST_REMEMBERED: usize = 4096;

/// The zone of all names.
const ALL_ZONES: &str = "";

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
    /// By connection and zone; the empty zone has all names.
    slow_zones: HashMap<(u64, String), (u32, Instant)>,
    /// Names that had an answer.
    answered: HashSet<String>,
    /// Look-ups of new names for a client with many unanswered ones.
    new_names: usize,
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
            answered: HashSet::new(),
            new_names: (threads / NEW_NAMES_PART).max(SLOW_LOOKUPS),
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
        if !self.answered.contains(name)
            && self.unanswered(client, ALL_ZONES, now) >= MANY_SLOW_NAMES
            && self.asked_new(client) >= self.new_names
        {
            return LineDecision::Busy;
        }
        let lookup = Waiting { clients: vec![client], callers: 1, running: None, slow: false };
        self.lookups.insert(name.into(), lookup);
        self.line.push_back(name.into());
        LineDecision::Queued
    }

    fn is_slow(&self, client: FetchClient, zone: &str, now: Instant) -> bool {
        self.unanswered(client, zone, now) >= SLOW_NAMES
    }

    /// Names of a zone that lately had no answer for a client.
    fn unanswered(&self, client: FetchClient, zone: &str, now: Instant) -> u32 {
        let known = self.slow_zones.get(&(client.connection, zone.to_owned()));
        known.filter(|(_, until)| now < *until).map_or(0, |(names, _)| *names)
    }

    /// Look-ups of a client whose names never had an answer.
    fn asked_new(&self, client: FetchClient) -> usize {
        let is_new = |(name, lookup): &(&String, &Waiting)| {
            lookup.clients.contains(&client) && !self.answered.contains(*name)
        };
        self.lookups.iter().filter(is_new).count()
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
            for zone in zone(name).into_iter().chain([ALL_ZONES]) {
                self.remember_zone(zone, &clients, now);
            }
        }
        false
    }

    fn remember_zone(&mut self, zone: &str, clients: &[FetchClient], now: Instant) {
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

    /// The next name to look up: the first whose client may have one more thread. Names that had an
    /// answer go first.
    pub(crate) fn start(&mut self) -> Option<String> {
        let known = |name: &str| self.answered.contains(name);
        let mut order: Vec<usize> = (0..self.line.len()).collect();
        order.sort_by_key(|at| !known(&self.line[*at]));
        for at in order {
            let name = &self.line[at];
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
            let is_new = self.answered.len() < MOST_REMEMBERED && self.answered.insert(name.into());
            for client in &lookup.clients {
                if let Some(zone) = zone(name) {
                    self.slow_zones.remove(&(client.connection, zone.to_owned()));
                }
                let all = self.slow_zones.get_mut(&(client.connection, ALL_ZONES.into()));
                if let Some((names, _)) = all.filter(|_| is_new) {
                    *names = names.saturating_sub(1);
                }
            }
            return;
        }
        self.answered.remove(name);
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
