//! Memory budgets: bytes that one stage may hold.
//!
//! A reservation is made in one step and never grows, so a waiting caller holds nothing which other
//! callers of the same pool wait for. Reservations are served in order of arrival: small ones
//! cannot delay a large one for ever.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a waiting reservation checks whether its caller has left.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A number of bytes, shared by all users of one stage.
pub struct MemoryPool {
    total: u64,
    state: Mutex<PoolState>,
    freed: Condvar,
}

struct PoolState {
    free: u64,
    /// Waiting reservations in order of arrival.
    queue: VecDeque<u64>,
    next: u64,
}

/// Why a reservation was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveError {
    /// It is larger than the pool.
    TooLarge {
        /// Bytes of the pool.
        total: u64,
    },
    /// The deadline passed.
    Deadline,
    /// The caller left.
    Cancelled,
}

/// Reserved bytes, given back when dropped.
pub struct MemoryReservation {
    pool: Arc<MemoryPool>,
    bytes: u64,
}

/// Waits a moment for `freed`.
///
/// # Errors
/// [`ReserveError::Cancelled`] and [`ReserveError::Deadline`], without waiting.
pub(crate) fn wait<T>(
    freed: &Condvar,
    locked: &mut MutexGuard<'_, T>,
    deadline: Instant,
    cancelled: impl Fn() -> bool,
) -> Result<(), ReserveError> {
    let now = Instant::now();
    if cancelled() {
        return Err(ReserveError::Cancelled);
    }
    if now >= deadline {
        return Err(ReserveError::Deadline);
    }
    freed.wait_for(locked, POLL_INTERVAL.min(deadline - now));
    Ok(())
}

impl MemoryPool {
    /// A pool of `total` bytes.
    pub fn new(total: u64) -> Arc<MemoryPool> {
        let state = PoolState { free: total, queue: VecDeque::new(), next: 0 };
        Arc::new(MemoryPool { total, state: Mutex::new(state), freed: Condvar::new() })
    }

    /// Bytes of the pool, free or not.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Waits until `bytes` are free and reserves them.
    ///
    /// # Errors
    /// See [`ReserveError`].
    pub fn reserve(
        self: &Arc<Self>,
        bytes: u64,
        deadline: Instant,
        cancelled: impl Fn() -> bool,
    ) -> Result<MemoryReservation, ReserveError> {
        if bytes > self.total {
            return Err(ReserveError::TooLarge { total: self.total });
        }
        let mut state = self.state.lock();
        let own = state.next;
        state.next += 1;
        state.queue.push_back(own);
        let outcome = loop {
            if state.queue.front() == Some(&own) && state.free >= bytes {
                break Ok(());
            }
            if let Err(error) = wait(&self.freed, &mut state, deadline, &cancelled) {
                break Err(error);
            }
        };
        state.queue.retain(|waiting| *waiting != own);
        if outcome.is_ok() {
            state.free -= bytes;
        }
        drop(state);
        // The next in the queue may find enough room as well.
        self.freed.notify_all();
        outcome.map(|()| MemoryReservation { pool: self.clone(), bytes })
    }

    fn give_back(&self, bytes: u64) {
        self.state.lock().free += bytes;
        self.freed.notify_all();
    }
}

impl MemoryReservation {
    /// Keeps at most `bytes` and gives the rest back.
    pub fn shrink(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.pool.give_back(back);
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.pool.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(1)
    }

    #[test]
    fn dropped_and_shrunk_bytes_are_free_again() {
        let pool = MemoryPool::new(100);
        let mut first = pool.reserve(80, soon(), || false).unwrap();
        assert_eq!(pool.reserve(30, soon(), || false).err(), Some(ReserveError::Deadline));
        first.shrink(50);
        let second = pool.reserve(50, soon(), || false).unwrap();
        drop((first, second));
        assert!(pool.reserve(100, soon(), || false).is_ok());
    }

    #[test]
    fn large_reservations_are_not_overtaken() {
        let pool = MemoryPool::new(100);
        let first = pool.reserve(60, soon(), || false).unwrap();
        let late = Instant::now() + Duration::from_secs(60);
        let large = std::thread::spawn({
            let pool = pool.clone();
            move || pool.reserve(90, late, || false).is_ok()
        });
        while pool.state.lock().queue.is_empty() {
            std::thread::yield_now();
        }
        // There is room for it, but it is not its turn.
        assert_eq!(pool.reserve(10, soon(), || false).err(), Some(ReserveError::Deadline));
        drop(first);
        assert!(large.join().unwrap());
        assert!(pool.reserve(100, late, || false).is_ok(), "no trace of a caller that gave up");
    }

    #[test]
    fn hopeless_reservations_do_not_wait() {
        let pool = MemoryPool::new(100);
        assert_eq!(
            pool.reserve(101, soon(), || false).err(),
            Some(ReserveError::TooLarge { total: 100 })
        );
        let _all = pool.reserve(100, soon(), || false).unwrap();
        let late = Instant::now() + Duration::from_secs(3600);
        assert_eq!(pool.reserve(1, late, || true).err(), Some(ReserveError::Cancelled));
    }

    #[test]
    fn a_waiting_reservation_wakes() {
        let pool = MemoryPool::new(10);
        let held = pool.reserve(10, soon(), || false).unwrap();
        let waiting = std::thread::spawn({
            let pool = pool.clone();
            move || pool.reserve(5, Instant::now() + Duration::from_secs(60), || false).is_ok()
        });
        drop(held);
        assert!(waiting.join().unwrap());
    }
}
