//! Limits what one host may hold of the memory for files while they arrive, so that a slow host
//! leaves memory for the others. (A body of unknown length reserves the largest permitted size.)
//!
//! In front of the memory pool: a caller that waits here holds nothing of the pool.

use crate::budget::{ReserveError, wait};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::time::Instant;

/// A host may always hold 1 / `HOST_PART` of the memory, and more while as much remains free.
const HOST_PART: u64 = 4;

/// Bytes of fetches in progress, by host.
pub(super) struct HostShares {
    total: u64,
    held: Mutex<HashMap<String, u64>>,
    freed: Condvar,
}

/// Bytes of one host, given back when dropped.
pub(super) struct HostShare<'a> {
    shares: &'a HostShares,
    host: String,
    bytes: u64,
}

impl HostShares {
    /// Shares of `total` bytes.
    pub(super) fn new(total: u64) -> HostShares {
        HostShares { total, held: Mutex::default(), freed: Condvar::new() }
    }

    /// Whether `host` may hold so many bytes more. One file is always admitted; files larger than
    /// the whole pool are left to the pool, which refuses them.
    fn admits(&self, held: &HashMap<String, u64>, host: &str, bytes: u64) -> bool {
        let Some(own) = held.get(host) else { return true };
        let part = self.total / HOST_PART;
        bytes > self.total
            || own + bytes <= part
            || held.values().sum::<u64>() + bytes <= self.total - part
    }

    /// Waits until `host` (`name:port`) may hold so many bytes.
    ///
    /// # Errors
    /// [`ReserveError::Deadline`] and [`ReserveError::Cancelled`].
    pub(super) fn reserve(
        &self,
        host: &str,
        bytes: u64,
        deadline: Instant,
        cancelled: impl Fn() -> bool,
    ) -> Result<HostShare<'_>, ReserveError> {
        let mut held = self.held.lock();
        while !self.admits(&held, host, bytes) {
            wait(&self.freed, &mut held, deadline, &cancelled)?;
        }
        *held.entry(host.into()).or_default() += bytes;
        Ok(HostShare { shares: self, host: host.into(), bytes })
    }
}

impl Drop for HostShare<'_> {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock();
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
    use std::time::Duration;

    fn reserve<'a>(
        shares: &'a HostShares,
        host: &str,
        bytes: u64,
    ) -> Result<HostShare<'a>, ReserveError> {
        shares.reserve(host, bytes, Instant::now(), || false)
    }

    #[test]
    fn a_host_leaves_its_part_to_other_hosts() {
        let shares = HostShares::new(100);
        let first =
            [reserve(&shares, "slow:80", 35).unwrap(), reserve(&shares, "slow:80", 35).unwrap()];
        assert_eq!(reserve(&shares, "slow:80", 35).err(), Some(ReserveError::Deadline));
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(
            shares.reserve("slow:80", 35, later, || true).err(),
            Some(ReserveError::Cancelled)
        );
        let quick = reserve(&shares, "quick:80", 20).unwrap();
        assert!(reserve(&shares, "quick:80", 5).is_ok(), "within its part");
        assert!(reserve(&shares, "quick:80", 6).is_err());
        drop(first);
        drop(quick);
        assert!(reserve(&shares, "slow:80", 35).is_ok());
        assert!(shares.held.lock().is_empty());
    }

    #[test]
    fn one_file_of_a_host_is_always_admitted() {
        let shares = HostShares::new(100);
        let _others = reserve(&shares, "slow:80", 100).unwrap();
        let _own = reserve(&shares, "quick:80", 90).unwrap();
        assert!(reserve(&shares, "quick:80", 101).is_ok(), "refused by the pool");
    }
}
