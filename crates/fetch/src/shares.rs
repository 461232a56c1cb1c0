//! Places that clients share: the engine's fetch threads and this crate's look-up threads.
//!
//! Pure: no lock, no clock. A client is one connection to the engine. These rules keep every client
//! served, however many places another one asks for:
//! * A client with places may have twice as many as are free (dynamic thresholds, Choudhury and
//!   Hahne 1998).
//! * The last eighth is kept for clients that have no place.
//! * An eighth is kept for calls, and an eighth for queue workers.
//! * A client that waits without a place may have one of the client with the most
//!   ([`FairShares::to_displace`]). The last place of a client is never taken.

use pg_caption_wire::ClientRole;
use std::collections::HashMap;

/// The part of the places kept for clients without a place, and for each role.
const KEPT_PART: usize = 8;

/// The client for which a fetch is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FetchClient {
    /// Id of its connection to the engine.
    pub connection: u64,
    /// Its role.
    pub role: ClientRole,
}

/// How many of the places each client has.
///
/// ```
/// use pg_caption_fetch::{FairShares, FetchClient};
/// use pg_caption_wire::ClientRole;
///
/// let mut shares = FairShares::new(32);
/// let client = |connection| FetchClient { connection, role: ClientRole::Call };
/// while shares.admits(client(1)) {
///     shares.take(client(1));
/// }
/// assert!(shares.admits(client(2)));
/// ```
#[derive(Debug)]
pub struct FairShares {
    total: usize,
    calls: usize,
    workers: usize,
    clients: HashMap<FetchClient, usize>,
}

impl FairShares {
    /// `total` free places.
    pub fn new(total: usize) -> FairShares {
        FairShares { total, calls: 0, workers: 0, clients: HashMap::new() }
    }

    fn used_by(&mut self, role: ClientRole) -> &mut usize {
        match role {
            ClientRole::Call => &mut self.calls,
            ClientRole::Worker => &mut self.workers,
        }
    }

    /// Places kept for each role. A single place cannot be shared.
    fn kept(&self) -> usize {
        match self.total {
            0 | 1 => 0,
            total => (total / KEPT_PART).max(1),
        }
    }

    /// The client that must give up a place, for one that is not admitted and has none.
    pub fn to_displace(&self, waiting: FetchClient) -> Option<FetchClient> {
        if self.clients.contains_key(&waiting) || self.admits(waiting) {
            return None;
        }
        // A place that is kept for the other role would not help.
        let spare = |role| match role {
            ClientRole::Call => self.calls > self.kept(),
            ClientRole::Worker => self.workers > self.kept(),
        };
        let helps = |client: &FetchClient| client.role == waiting.role || spare(client.role);
        let most = self.clients.iter().filter(|(client, own)| **own > 1 && helps(client));
        most.max_by_key(|(client, own)| (**own, client.connection)).map(|(client, _)| *client)
    }

    /// Whether `client` may take one more place.
    pub fn admits(&self, client: FetchClient) -> bool {
        let kept = self.kept();
        let of_others = match client.role {
            ClientRole::Call => self.workers,
            ClientRole::Worker => self.calls,
        };
        let free = self.total.saturating_sub(self.calls + self.workers);
        let free = free.saturating_sub(kept.saturating_sub(of_others));
        match self.clients.get(&client) {
            None => free > 0,
            Some(own) => {
                let free = free.saturating_sub(self.total / KEPT_PART);
                free > 0 && *own <= 2 * free
            }
        }
    }

    /// Gives `client` a place, admitted or not.
    pub fn take(&mut self, client: FetchClient) {
        *self.used_by(client.role) += 1;
        *self.clients.entry(client).or_default() += 1;
    }

    /// Takes a place of `client` back.
    pub fn give_back(&mut self, client: FetchClient) {
        if let Some(own) = self.clients.get_mut(&client) {
            *own -= 1;
            if *own == 0 {
                self.clients.remove(&client);
            }
            *self.used_by(client.role) -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(connection: u64) -> FetchClient {
        FetchClient { connection, role: ClientRole::Call }
    }

    fn worker(connection: u64) -> FetchClient {
        FetchClient { connection, role: ClientRole::Worker }
    }

    /// Takes what is admitted. Returns how much.
    fn fill(shares: &mut FairShares, client: FetchClient) -> usize {
        let mut taken = 0;
        while shares.admits(client) {
            shares.take(client);
            taken += 1;
        }
        taken
    }

    #[test]
    fn one_client_takes_about_half_of_the_places() {
        let mut shares = FairShares::new(32);
        assert_eq!(fill(&mut shares, call(1)), 17);
        assert_eq!(fill(&mut shares, call(2)), 5);
        (0..17).for_each(|_| shares.give_back(call(1)));
        assert!(shares.admits(call(2)));
    }

    #[test]
    fn twenty_greedy_clients_leave_places_for_one_more() {
        let mut shares = FairShares::new(32);
        for _ in 0..32 {
            for connection in (0..20).filter(|n| shares.admits(call(*n))).collect::<Vec<_>>() {
                if shares.admits(call(connection)) {
                    shares.take(call(connection));
                }
            }
        }
        assert!(shares.admits(call(99)));
        assert!(shares.admits(worker(100)));
    }

    #[test]
    fn a_client_without_a_place_gets_one_of_the_most() {
        let mut shares = FairShares::new(32);
        assert_eq!(fill(&mut shares, call(1)), 17);
        for connection in 2..30 {
            fill(&mut shares, call(connection));
        }
        assert!(!shares.admits(call(99)));
        assert_eq!(shares.to_displace(call(99)), Some(call(1)));
        assert_eq!(shares.to_displace(call(1)), None, "it has places");
        assert_eq!(shares.to_displace(worker(100)), None, "places are kept for it");
        shares.give_back(call(1));
        assert!(shares.admits(call(99)));
    }

    #[test]
    fn the_last_place_of_a_client_is_never_taken() {
        let mut shares = FairShares::new(4);
        for connection in 0..10 {
            if shares.admits(call(connection)) {
                shares.take(call(connection));
            }
        }
        assert_eq!(shares.to_displace(call(99)), None);
    }

    #[test]
    fn each_role_always_has_its_part() {
        for total in [2, 8, 32] {
            let mut shares = FairShares::new(total);
            for connection in 0..100 {
                fill(&mut shares, call(connection));
            }
            assert!(shares.admits(worker(200)), "{total}");
            let mut shares = FairShares::new(total);
            for connection in 0..100 {
                fill(&mut shares, worker(connection));
            }
            assert!(shares.admits(call(200)), "{total}");
        }
    }

    #[test]
    fn a_single_place_serves_every_client() {
        let mut shares = FairShares::new(1);
        assert!(shares.admits(call(1)) && shares.admits(worker(2)));
        shares.take(call(1));
        assert!(!shares.admits(worker(2)));
    }

    proptest! {
        /// Whatever is taken and given back: places are never overdrawn, and a place of the client
        /// with the most serves one that has none.
        #[test]
        fn places_are_never_overdrawn(
            total in 1usize..64,
            steps in proptest::collection::vec((any::<bool>(), 0u64..6, any::<bool>()), 0..300),
        ) {
            let mut shares = FairShares::new(total);
            let mut held = Vec::new();
            for (take, connection, is_call) in steps {
                let client = if is_call { call(connection) } else { worker(connection + 10) };
                if take && shares.admits(client) {
                    shares.take(client);
                    held.push(client);
                } else if let Some(client) = held.pop() {
                    shares.give_back(client);
                }
                prop_assert!(held.len() <= total);
                for waiting in [call(99), worker(98)] {
                    if let Some(most) = shares.to_displace(waiting) {
                        shares.give_back(most);
                        prop_assert!(shares.admits(waiting), "{shares:?}");
                        shares.take(most);
                    }
                }
            }
            while let Some(client) = held.pop() {
                shares.give_back(client);
            }
            prop_assert!(shares.clients.is_empty() && shares.calls + shares.workers == 0);
            prop_assert!(shares.admits(call(1)) && shares.admits(worker(2)));
        }
    }
}
