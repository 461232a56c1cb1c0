//! Which databases the launcher has made known to everybody, once each: a worker then looks whether
//! they have the extension, and forgets those that have not. There is room for so many at a time;
//! the others wait until one is forgotten. Asked by `src/launcher/databases.rs`.

use std::collections::HashSet;

/// The databases that were made known, and whether some were left out.
#[derive(Debug, Default)]
pub struct Roll {
    known: HashSet<u32>,
    left_out: Option<u32>,
}

impl Roll {
    /// Databases as they are now, and whether they take connections: those that are new and do are
    /// made known where there is room (`make_known` says whether there was).
    pub fn call(&mut self, databases: &[(u32, bool)], mut make_known: impl FnMut(u32) -> bool) {
        self.known.retain(|oid| databases.iter().any(|(there, _)| there == oid));
        self.left_out = None;
        for (oid, connectable) in databases {
            if !connectable || self.known.contains(oid) {
                continue;
            }
            if make_known(*oid) {
                self.known.insert(*oid);
            } else {
                self.left_out.get_or_insert(*oid);
            }
        }
    }

    /// A database that there was no room for: it is to be called again once there may be some.
    pub fn left_out(&self) -> Option<u32> {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_finds_no_room_is_called_again_and_known_once_another_is_forgotten() {
        let all: Vec<(u32, bool)> = (1..=5).map(|oid| (oid, true)).collect();
        let (mut roll, mut slots) = (Roll::default(), HashSet::new());
        let mut order = Vec::new();
        for _ in 0..10 {
            roll.call(&all, |oid| {
                let has_room = slots.len() < 2;
                if has_room {
                    slots.insert(oid);
                    order.push(oid);
                }
                has_room
            });
            // A worker finds no extension in the one that came first.
            if let Some(first) = order.iter().copied().find(|oid| slots.contains(oid)) {
                slots.remove(&first);
            }
        }
        assert_eq!(order, [1, 2, 3, 4, 5], "each once");
        assert_eq!(roll.left_out(), None);
    }

    #[test]
    fn while_there_is_no_room_it_says_so() {
        let mut roll = Roll::default();
        roll.call(&[(1, true), (2, true), (3, true)], |oid| oid == 1);
        assert_eq!(roll.left_out(), Some(2));
        roll.call(&[(1, true)], |_| false);
        assert_eq!(roll.left_out(), None, "it was dropped");
    }

    #[test]
    fn a_database_without_connections_waits_and_one_made_anew_under_its_number_is_new() {
        let mut roll = Roll::default();
        let called = |roll: &mut Roll, databases: &[(u32, bool)]| {
            let mut called = Vec::new();
            roll.call(databases, |oid| {
                called.push(oid);
                true
            });
            called
        };
        assert_eq!(called(&mut roll, &[(1, false), (2, true)]), [2]);
        assert_eq!(called(&mut roll, &[(1, true), (2, false)]), [1]);
        assert!(called(&mut roll, &[(1, true)]).is_empty());
        assert_eq!(called(&mut roll, &[(1, true), (2, true)]), [2]);
    }
}
