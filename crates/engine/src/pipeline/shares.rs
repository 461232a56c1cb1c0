//! What one host may hold of the room for files while its files are on their way, so that a host
//! that takes its time (a body of unknown length reserves the longest there can be) leaves room for
//! the others.
//!
//! In front of the pool and beside it: whoever waits here holds nothing of the pool, and is of a
//! host that has its share.

use crate::budget::{Refused, wait};
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A host holds up to this part of the room whatever others hold, and more while all together leave
/// as much.
const PART: u64 = 4;

/// Bytes promised to fetches under way, by host.
pub(super) struct Shares {
    room: u64,
    held: Mutex<HashMap<String, u64>>,
    freed: Condvar,
}

/// Bytes of one host, until dropped.
pub(super) struct Share<'a> {
    shares: &'a Shares,
    host: String,
    bytes: u64,
}

impl Shares {
    /// Of `room` bytes.
    pub(super) fn new(room: u64) -> Shares {
        Shares { room, held: Mutex::default(), freed: Condvar::new() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `host` may have so many more. One file always; what is larger than all the room is
    /// the pool's to refuse.
    fn allows(&self, held: &HashMap<String, u64>, host: &str, bytes: u64) -> bool {
        let Some(own) = held.get(host) else { return true };
        let part = self.room / PART;
        bytes > self.room
            || own + bytes <= part
            || held.values().sum::<u64>() + bytes <= self.room - part
    }

    /// Waits until `host` (`name:port`) may have so many bytes.
    ///
    /// # Errors
    /// [`Refused::Late`] and [`Refused::Left`].
    pub(super) fn take(
        &self,
        host: &str,
        bytes: u64,
        deadline: Instant,
        left: impl Fn() -> bool,
    ) -> Result<Share<'_>, Refused> {
        let mut held = self.held();
        while !self.allows(&held, host, bytes) {
            let refused;
            (held, refused) = wait(&self.freed, held, deadline, &left);
            if let Some(refused) = refused {
                return Err(refused);
            }
        }
        *held.entry(host.into()).or_default() += bytes;
        Ok(Share { shares: self, host: host.into(), bytes })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        if let Some(own) = held.get_mut(&self.host) {
            *own -= self.bytes;
            if *own == 0 {
                held.remove(&self.host);
            }
        }
        drop(held);
        self.shares.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take<'a>(shares: &'a Shares, host: &str, bytes: u64) -> Result<Share<'a>, Refused> {
        shares.take(host, bytes, Instant::now(), || false)
    }

    #[test]
    fn a_host_takes_more_than_its_part_only_while_as_much_is_left_for_others() {
        let shares = Shares::new(100);
        let first = [take(&shares, "slow:80", 35).unwrap(), take(&shares, "slow:80", 35).unwrap()];
        assert_eq!(take(&shares, "slow:80", 35).err(), Some(Refused::Late));
        assert_eq!(
            shares
                .take("slow:80", 35, Instant::now() + std::time::Duration::from_secs(1), || true)
                .err(),
            Some(Refused::Left)
        );
        let quick = take(&shares, "quick:80", 20).unwrap();
        assert!(take(&shares, "quick:80", 5).is_ok(), "within its part");
        assert!(take(&shares, "quick:80", 6).is_err());
        drop(first);
        drop(quick);
        assert!(take(&shares, "slow:80", 35).is_ok());
        assert!(shares.held().is_empty());
    }

    #[test]
    fn one_file_of_a_host_is_always_let_through_to_the_pool_and_so_is_what_the_pool_refuses() {
        let shares = Shares::new(100);
        let _others = take(&shares, "slow:80", 100).unwrap();
        let _own = take(&shares, "quick:80", 90).unwrap();
        assert!(take(&shares, "quick:80", 101).is_ok());
    }
}
