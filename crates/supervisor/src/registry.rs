//! Which databases the launcher has registered in shared memory, once each. A worker then checks
//! whether the database has the extension, and removes it otherwise. Room is limited; the other
//! databases wait until one is removed. Used by `src/launcher/databases.rs`.

use std::collections::HashSet;

/// The registered databases, and one that found no room.
#[derive(Debug, Default)]
pub struct DatabaseRegistry {
    registered: HashSet<u32>,
    left_out: Option<u32>,
}

impl DatabaseRegistry {
    /// Compares with all databases and whether they accept connections. New ones that do are
    /// registered by `register`, which returns whether there was room.
    pub fn update(&mut self, databases: &[(u32, bool)], mut register: impl FnMut(u32) -> bool) {
        self.registered.retain(|oid| databases.iter().any(|(existing, _)| existing == oid));
        self.left_out = None;
        for (oid, connectable) in databases {
            if !connectable || self.registered.contains(oid) {
                continue;
            }
            if register(*oid) {
                self.registered.insert(*oid);
            } else {
                self.left_out.get_or_insert(*oid);
            }
        }
    }

    /// A database that found no room: update again when one was removed.
    pub fn left_out(&self) -> Option<u32> {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_without_room_is_registered_later() {
        let all: Vec<(u32, bool)> = (1..=5).map(|oid| (oid, true)).collect();
        let (mut registry, mut slots) = (DatabaseRegistry::default(), HashSet::new());
        let mut order = Vec::new();
        for _ in 0..10 {
            registry.update(&all, |oid| {
                let has_room = slots.len() < 2;
                if has_room {
                    slots.insert(oid);
                    order.push(oid);
                }
                has_room
            });
            // A worker finds no extension in the oldest one.
            if let Some(first) = order.iter().copied().find(|oid| slots.contains(oid)) {
                slots.remove(&first);
            }
        }
        assert_eq!(order, [1, 2, 3, 4, 5], "each once");
        assert_eq!(registry.left_out(), None);
    }

    #[test]
    fn missing_room_is_reported() {
        let mut registry = DatabaseRegistry::default();
        registry.update(&[(1, true), (2, true), (3, true)], |oid| oid == 1);
        assert_eq!(registry.left_out(), Some(2));
        registry.update(&[(1, true)], |_| false);
        assert_eq!(registry.left_out(), None, "it was dropped");
    }

    #[test]
    fn recreated_database_is_registered_again() {
        let mut registry = DatabaseRegistry::default();
        let registered = |registry: &mut DatabaseRegistry, databases: &[(u32, bool)]| {
            let mut registered = Vec::new();
            registry.update(databases, |oid| {
                registered.push(oid);
                true
            });
            registered
        };
        let none: [u32; 0] = [];
        // The first one accepts no connections yet.
        assert_eq!(registered(&mut registry, &[(1, false), (2, true)]), [2]);
        assert_eq!(registered(&mut registry, &[(1, true), (2, false)]), [1]);
        assert_eq!(registered(&mut registry, &[(1, true)]), none);
        assert_eq!(registered(&mut registry, &[(1, true), (2, true)]), [2]);
    }
}
