//! Which clients have a connection. Pure: no socket, no lock.
//!
//! A connection costs two threads, so their number is limited, and some places are kept for queue
//! workers. The role of a client is known after its hello, so it is admitted then. When places are
//! short, the call that has been idle longest loses its connection; its session connects again with
//! its next request.

use pg_caption_wire::ClientRole;
use std::collections::HashMap;
use std::time::Instant;

/// Most admitted clients.
pub(super) const MOST_CLIENTS: usize = 512;
/// Places that calls leave to queue workers: one worker serves a whole database.
pub(super) const KEPT_FOR_WORKERS: usize = 32;

/// What happens to a client after its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is served.
    Admit,
    /// It is served, and this connection is closed.
    Replace(u64),
    /// There is no place, and no client is idle.
    Refuse,
}

/// The roles of the admitted clients.
#[derive(Debug, Default)]
pub(super) struct AdmittedClients(HashMap<u64, ClientRole>);

impl AdmittedClients {
    /// Judges a client. `idle_since` returns when another one became idle; `None`: it is not.
    pub(super) fn admit(
        &mut self,
        id: u64,
        role: ClientRole,
        idle_since: impl Fn(u64) -> Option<Instant>,
    ) -> Admission {
        let calls = self.0.values().filter(|role| **role == ClientRole::Call).count();
        let is_full = match role {
            ClientRole::Call => {
                calls >= MOST_CLIENTS - KEPT_FOR_WORKERS || self.0.len() >= MOST_CLIENTS
            }
            ClientRole::Worker => self.0.len() >= MOST_CLIENTS,
        };
        if !is_full {
            self.0.insert(id, role);
            return Admission::Admit;
        }
        match self.longest_idle(idle_since) {
            Some(idle) => {
                self.0.remove(&idle);
                self.0.insert(id, role);
                Admission::Replace(idle)
            }
            None => Admission::Refuse,
        }
    }

    /// The call that has been idle longest.
    pub(super) fn longest_idle(&self, idle_since: impl Fn(u64) -> Option<Instant>) -> Option<u64> {
        let calls = self.0.iter().filter(|(_, role)| **role == ClientRole::Call);
        let idle = calls.filter_map(|(id, _)| idle_since(*id).map(|since| (since, *id)));
        idle.min().map(|(_, id)| id)
    }

    /// A client has left.
    pub(super) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// All places of calls in use, by the clients from 0.
    fn full() -> AdmittedClients {
        let mut clients = AdmittedClients::default();
        for id in 0..(MOST_CLIENTS - KEPT_FOR_WORKERS) as u64 {
            assert_eq!(clients.admit(id, ClientRole::Call, |_| None), Admission::Admit);
        }
        clients
    }

    #[test]
    fn the_longest_idle_call_makes_room() {
        let (mut clients, now) = (full(), Instant::now());
        let idle = |id| match id {
            7 => Some(now),
            9 => Some(now + Duration::from_secs(1)),
            _ => None,
        };
        assert_eq!(clients.admit(1000, ClientRole::Call, idle), Admission::Replace(7));
        let idle = |id| (id == 9).then_some(now);
        assert_eq!(clients.admit(1001, ClientRole::Call, idle), Admission::Replace(9));
        assert_eq!(clients.admit(1002, ClientRole::Call, |_| None), Admission::Refuse);
        clients.remove(3);
        assert_eq!(clients.admit(1002, ClientRole::Call, |_| None), Admission::Admit);
    }

    #[test]
    fn workers_have_kept_places() {
        let mut clients = full();
        for id in 1000..1000 + KEPT_FOR_WORKERS as u64 {
            assert_eq!(clients.admit(id, ClientRole::Worker, |_| None), Admission::Admit);
        }
        let now = Instant::now();
        let idle_worker = |id| (id >= 1000).then_some(now);
        let last = clients.admit(2000, ClientRole::Worker, idle_worker);
        assert_eq!(last, Admission::Refuse, "a worker is never closed");
        let idle = |id| (id == 5).then_some(now);
        assert_eq!(clients.admit(2000, ClientRole::Worker, idle), Admission::Replace(5));
    }
}
