//! The fair queue in front of the fetch and decode threads: connections take turns, calls go before
//! queue workers' rows, and neither starves. Pure; `pipeline` keeps it behind its lock.

use pg_caption_wire::ClientRole;
use std::collections::{HashMap, VecDeque};

/// Calls served in a row while rows of workers wait; then one row is served.
const CALLS_IN_A_ROW: u32 = 4;

/// What to do with a queued item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueDecision {
    /// Take it out and process it.
    Take,
    /// Leave it in the queue; later items may be taken.
    Skip,
    /// Discard it: its callers have left.
    Drop,
}

struct Lane<T> {
    /// Connections in order of their turns; each once, while it has queued items.
    order: VecDeque<u64>,
    queues: HashMap<u64, VecDeque<T>>,
}

impl<T> Lane<T> {
    fn take(&mut self, decide: &mut impl FnMut(&T) -> QueueDecision) -> Option<T> {
        for _ in 0..self.order.len() {
            let connection = self.order.pop_front()?;
            let Some(queue) = self.queues.get_mut(&connection) else { continue };
            let (mut at, mut taken) = (0, None);
            while at < queue.len() {
                match decide(&queue[at]) {
                    QueueDecision::Take => {
                        taken = queue.remove(at);
                        break;
                    }
                    QueueDecision::Skip => at += 1,
                    QueueDecision::Drop => drop(queue.remove(at)),
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

/// Queued items of all connections.
pub struct FairQueue<T> {
    calls: Lane<T>,
    workers: Lane<T>,
    calls_in_a_row: u32,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        let lane = || Lane { order: VecDeque::new(), queues: HashMap::new() };
        FairQueue { calls: lane(), workers: lane(), calls_in_a_row: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Appends an item to the queue of its connection.
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

    /// The next item which `decide` takes.
    pub fn take(&mut self, mut decide: impl FnMut(&T) -> QueueDecision) -> Option<T> {
        if self.calls_in_a_row >= CALLS_IN_A_ROW {
            self.calls_in_a_row = 0;
            if let Some(item) = self.workers.take(&mut decide) {
                return Some(item);
            }
        }
        if let Some(item) = self.calls.take(&mut decide) {
            if !self.workers.order.is_empty() {
                self.calls_in_a_row += 1;
            }
            return Some(item);
        }
        self.workers.take(&mut decide)
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.calls.order.is_empty() && self.workers.order.is_empty()
    }

    /// Takes all items out.
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

    fn all(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.take(|_| QueueDecision::Take)).collect()
    }

    #[test]
    fn a_long_queue_does_not_delay_other_connections() {
        let mut queue = FairQueue::default();
        ["a1", "a2", "a3"].iter().for_each(|item| queue.push(1, ClientRole::Call, *item));
        queue.push(2, ClientRole::Call, "b1");
        assert_eq!(all(&mut queue), ["a1", "b1", "a2", "a3"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn calls_precede_workers_which_do_not_starve() {
        let mut queue = FairQueue::default();
        ["w1", "w2"].iter().for_each(|item| queue.push(9, ClientRole::Worker, *item));
        ["a", "b", "c", "d", "e", "f"]
            .iter()
            .for_each(|item| queue.push(1, ClientRole::Call, *item));
        assert_eq!(all(&mut queue), ["a", "b", "c", "d", "w1", "e", "f", "w2"]);
    }

    #[test]
    fn a_skipped_item_does_not_delay_later_ones() {
        let mut queue = FairQueue::default();
        ["busy1", "busy2", "free"].iter().for_each(|item| queue.push(1, ClientRole::Worker, *item));
        let busy = |item: &&str| match item.starts_with("busy") {
            true => QueueDecision::Skip,
            false => QueueDecision::Take,
        };
        assert_eq!(queue.take(busy), Some("free"));
        assert_eq!(queue.take(busy), None);
        assert_eq!(all(&mut queue), ["busy1", "busy2"]);
    }

    #[test]
    fn unwanted_items_leave_the_queue() {
        let mut queue = FairQueue::default();
        ["gone", "here"].iter().for_each(|item| queue.push(1, ClientRole::Call, *item));
        queue.push(2, ClientRole::Call, "gone");
        let decide = |item: &&str| match *item == "gone" {
            true => QueueDecision::Drop,
            false => QueueDecision::Take,
        };
        assert_eq!(queue.take(decide), Some("here"));
        assert_eq!(queue.take(decide), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_drained_queue_is_empty() {
        let mut queue = FairQueue::default();
        queue.push(1, ClientRole::Call, "a");
        queue.push(2, ClientRole::Worker, "b");
        assert_eq!(queue.drain().len(), 2);
        assert!(queue.is_empty() && all(&mut queue).is_empty());
    }
}
