//! Who gets the memory for files. Pure: no lock, no clock.
//!
//! Every file has a *rank*: when it is due. Earlier ranks go first.
//! * A claim grows if the bytes are free and no earlier rank waits for them.
//! * Otherwise it displaces unfinished files of later ranks, the latest first. A displaced file
//!   gives its memory back and starts again, with its old rank.
//! * It never displaces an earlier rank, nor a finished file or an upload: those leave by
//!   themselves, because the stages behind need no memory of this pool.
//!
//! **No deadlock.** Claims wait for earlier ranks only, so there is no circle (wound-wait,
//! Rosenkrantz, Stearns and Lewis 1978). The earliest rank waits for finished files at most.
//!
//! **No starvation.** A rank is fixed when the file first needs memory, and later files get later
//! ranks. Once [`Weights::latest`] has passed, no new file goes before it.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// When a file is due, and a number that no other file has.
pub(super) type Rank = (Instant, u64);

/// Files of one client or host that count; further ones are due no later.
const MOST_COUNTED: u32 = 12;
/// Each earlier file of the same client or host delays a file by this part of [`Weights::span`].
const COUNTED_PART: u32 = 6;

/// How size and number of files delay them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    /// Time limit of one fetch. A file of `largest` bytes is due that much later than an empty one.
    pub(super) span: Duration,
    /// Bytes of the largest permitted file.
    pub(super) largest: u64,
}

impl Weights {
    /// When a file is due that arrives now, behind so many others of its client or host. Small
    /// files pass large ones, and the first file of a client passes the second one of another.
    fn due(&self, now: Instant, most: u64, others: u32) -> Instant {
        let part = most.min(self.largest) as f64 / self.largest.max(1) as f64;
        let size = self.span.mul_f64(part);
        now + size + self.span / COUNTED_PART * others.min(MOST_COUNTED)
    }

    /// The longest delay of any file.
    #[cfg(test)]
    pub(super) fn latest(&self) -> Duration {
        self.span + self.span / COUNTED_PART * MOST_COUNTED
    }
}

/// Whose file it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileOwner {
    /// The connection that asked for it.
    pub(super) connection: u64,
    /// The host that sends it; `None`: the client itself.
    pub(super) host: Option<String>,
}

#[derive(Debug)]
struct Claim {
    owner: FileOwner,
    held: u64,
    /// Bytes it waits for.
    wanted: u64,
    /// Set to displace it; `None`: it cannot be displaced.
    displaced: Option<Arc<AtomicBool>>,
}

impl Claim {
    fn is_leaving(&self) -> bool {
        self.displaced.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// All files that hold memory or wait for it.
#[derive(Debug)]
pub(super) struct ClaimTable {
    free: u64,
    weights: Weights,
    claims: BTreeMap<Rank, Claim>,
    next: u64,
}

impl ClaimTable {
    pub(super) fn new(free: u64, weights: Weights) -> ClaimTable {
        ClaimTable { free, weights, claims: BTreeMap::new(), next: 0 }
    }

    /// A file of at most `most` bytes needs memory. `displaced` is set when it must start again.
    pub(super) fn add(
        &mut self,
        owner: FileOwner,
        most: u64,
        displaced: Option<Arc<AtomicBool>>,
        now: Instant,
    ) -> Rank {
        let (mut of_client, mut of_host) = (0, 0);
        for claim in self.claims.values() {
            of_client += u32::from(claim.owner.connection == owner.connection);
            of_host += u32::from(claim.owner.host.is_some() && claim.owner.host == owner.host);
        }
        self.next += 1;
        let rank = (self.weights.due(now, most, of_client.max(of_host)), self.next);
        self.claims.insert(rank, Claim { owner, held: 0, wanted: 0, displaced });
        rank
    }

    /// Lets a file hold `to` bytes, all together, if it may. Otherwise it waits: later ranks give
    /// their memory back.
    pub(super) fn grow(&mut self, rank: Rank, to: u64) -> bool {
        let before: u64 = self.claims.range(..rank).map(|(_, claim)| claim.wanted).sum();
        let Some(claim) = self.claims.get_mut(&rank) else { return false };
        let more = to.saturating_sub(claim.held);
        if more == 0 || self.free >= before.saturating_add(more) {
            self.free -= more;
            claim.held += more;
            claim.wanted = 0;
            return true;
        }
        claim.wanted = more;
        let leaving: u64 = self.claims.values().filter(|c| c.is_leaving()).map(|c| c.held).sum();
        let mut coming = self.free + leaving;
        for (_, later) in self.claims.range((Excluded(rank), Unbounded)).rev() {
            if coming >= before.saturating_add(more) {
                break;
            }
            if let Some(flag) = &later.displaced
                && later.held > 0
                && !flag.swap(true, Ordering::Relaxed)
            {
                coming += later.held;
            }
        }
        false
    }

    /// A file no longer waits.
    pub(super) fn rest(&mut self, rank: Rank) {
        if let Some(claim) = self.claims.get_mut(&rank) {
            claim.wanted = 0;
        }
    }

    /// A file gives back what it holds beyond `to` bytes, and waits for nothing.
    pub(super) fn shrink(&mut self, rank: Rank, to: u64) {
        if let Some(claim) = self.claims.get_mut(&rank) {
            self.free += claim.held.saturating_sub(to);
            claim.held = claim.held.min(to);
            claim.wanted = 0;
        }
    }

    /// A file is complete: it is never displaced.
    pub(super) fn settle(&mut self, rank: Rank) {
        if let Some(claim) = self.claims.get_mut(&rank) {
            claim.displaced = None;
        }
    }

    /// A file has left.
    pub(super) fn remove(&mut self, rank: Rank) {
        if let Some(claim) = self.claims.remove(&rank) {
            self.free += claim.held;
        }
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    #[cfg(test)]
    pub(super) fn held(&self, rank: Rank) -> u64 {
        self.claims.get(&rank).map_or(0, |claim| claim.held)
    }
}
