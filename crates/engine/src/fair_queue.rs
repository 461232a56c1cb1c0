//! The line in front of the fetch and decode threads: connections take turns, people before
//! workers' rows, nobody starves. Pure; `pipeline` keeps it behind its lock.

use pg_caption_wire::ClientRole;
use std::collections::{HashMap, VecDeque};

/// Calls served in a row while workers wait; then one worker's row goes.
const CALLS_IN_A_ROW: u32 = 4;

/// What is to become of something in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes now.
    Take,
    /// It cannot go yet; those behind it may.
    Skip,
    /// Nobody wants it any more.
    Drop,
}

struct Lane<T> {
    /// Connections in the order of their turns; each once, while it has something in line.
    order: VecDeque<u64>,
    queues: HashMap<u64, VecDeque<T>>,
}

impl<T> Lane<T> {
    fn take(&mut self, judge: &mut impl FnMut(&T) -> Verdict) -> Option<T> {
        for _ in 0..self.order.len() {
            let connection = self.order.pop_front()?;
            let Some(queue) = self.queues.get_mut(&connection) else { continue };
            let (mut at, mut taken) = (0, None);
            while at < queue.len() {
                match judge(&queue[at]) {
                    Verdict::Take => {
                        taken = queue.remove(at);
                        break;
                    }
                    Verdict::Skip => at += 1,
                    Verdict::Drop => drop(queue.remove(at)),
                }
            }
            if queue.is_empty() {
                self.queues.remove(&connection);
            } else {
                self.order.push_back(connection);
            }
            if taken.is_some() {
                return taken;
            }
        }
        None
    }
}

/// Everything in line.
pub struct Turns<T> {
    calls: Lane<T>,
    workers: Lane<T>,
    calls_in_a_row: u32,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        let lane = || Lane { order: VecDeque::new(), queues: HashMap::new() };
        Turns { calls: lane(), workers: lane(), calls_in_a_row: 0 }
    }
}

impl<T> Turns<T> {
    /// Puts something at the end of its connection's line.
    pub fn push(&mut self, connection: u64, role: ClientRole, item: T) {
        let lane = match role {
            ClientRole::Call => &mut self.calls,
            ClientRole::Worker => &mut self.workers,
        };
        let queue = lane.queues.entry(connection).or_default();
        if queue.is_empty() {
            lane.order.push_back(connection);
        }
        queue.push_back(item);
    }

    /// The next that may go.
    pub fn take(&mut self, mut judge: impl FnMut(&T) -> Verdict) -> Option<T> {
        if self.calls_in_a_row >= CALLS_IN_A_ROW {
            self.calls_in_a_row = 0;
            if let Some(item) = self.workers.take(&mut judge) {
                return Some(item);
            }
        }
        if let Some(item) = self.calls.take(&mut judge) {
            if !self.workers.order.is_empty() {
                self.calls_in_a_row += 1;
            }
            return Some(item);
        }
        self.workers.take(&mut judge)
    }

    /// Whether nothing is in line.
    pub fn is_empty(&self) -> bool {
        self.calls.order.is_empty() && self.workers.order.is_empty()
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<T> {
        let lanes = [&mut self.calls, &mut self.workers];
        lanes
            .into_iter()
            .flat_map(|lane| {
                lane.order.clear();
                lane.queues.drain().flat_map(|(_, queue)| queue).collect::<Vec<_>>()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(turns: &mut Turns<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| turns.take(|_| Verdict::Take)).collect()
    }

    #[test]
    fn a_long_line_of_one_connection_does_not_hold_up_another() {
        let mut turns = Turns::default();
        ["a1", "a2", "a3"].iter().for_each(|item| turns.push(1, ClientRole::Call, *item));
        turns.push(2, ClientRole::Call, "b1");
        assert_eq!(all(&mut turns), ["a1", "b1", "a2", "a3"]);
        assert!(turns.is_empty());
    }

    #[test]
    fn calls_go_before_workers_and_workers_do_not_starve() {
        let mut turns = Turns::default();
        ["w1", "w2"].iter().for_each(|item| turns.push(9, ClientRole::Worker, *item));
        ["a", "b", "c", "d", "e", "f"]
            .iter()
            .for_each(|item| turns.push(1, ClientRole::Call, *item));
        assert_eq!(all(&mut turns), ["a", "b", "c", "d", "w1", "e", "f", "w2"]);
    }

    #[test]
    fn what_cannot_go_yet_does_not_hold_up_what_stands_behind_it() {
        let mut turns = Turns::default();
        ["busy1", "busy2", "free"].iter().for_each(|item| turns.push(1, ClientRole::Worker, *item));
        let busy =
            |item: &&str| if item.starts_with("busy") { Verdict::Skip } else { Verdict::Take };
        assert_eq!(turns.take(busy), Some("free"));
        assert_eq!(turns.take(busy), None);
        assert_eq!(all(&mut turns), ["busy1", "busy2"]);
    }

    #[test]
    fn what_nobody_wants_leaves_the_line() {
        let mut turns = Turns::default();
        ["gone", "here"].iter().for_each(|item| turns.push(1, ClientRole::Call, *item));
        turns.push(2, ClientRole::Call, "gone");
        let judge = |item: &&str| if *item == "gone" { Verdict::Drop } else { Verdict::Take };
        assert_eq!(turns.take(judge), Some("here"));
        assert_eq!(turns.take(judge), None);
        assert!(turns.is_empty());
    }

    #[test]
    fn drained_is_empty() {
        let mut turns = Turns::default();
        turns.push(1, ClientRole::Call, "a");
        turns.push(2, ClientRole::Worker, "b");
        assert_eq!(turns.drain().len(), 2);
        assert!(turns.is_empty() && all(&mut turns).is_empty());
    }
}
