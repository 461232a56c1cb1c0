//! Bytes that may be held at once. A reservation is made all at once, never grows and gives itself
//! back, so whoever waits holds nothing that others in the same pool wait for. Who came first is
//! served first: a large one is not passed by small ones for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting reservation looks whether its caller has left.
const LOOK: Duration = Duration::from_millis(50);

/// A number of bytes shared by everybody at one stage.
pub struct Pool {
    total: u64,
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    free: u64,
    /// Those who wait, in the order they came.
    line: VecDeque<u64>,
    next: u64,
}

/// Why there is no reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// More than the whole pool.
    TooMuch {
        /// The pool.
        total: u64,
    },
    /// The deadline came first.
    Late,
    /// The caller left.
    Left,
}

/// Bytes held until dropped.
pub struct Reservation {
    pool: Arc<Pool>,
    bytes: u64,
}

/// Waits a moment for `freed`, unless who waits has `left` or the deadline has passed.
pub(crate) fn wait<'a, T>(
    freed: &Condvar,
    locked: MutexGuard<'a, T>,
    deadline: Instant,
    left: impl Fn() -> bool,
) -> (MutexGuard<'a, T>, Option<Refused>) {
    let now = Instant::now();
    if left() {
        return (locked, Some(Refused::Left));
    }
    if now >= deadline {
        return (locked, Some(Refused::Late));
    }
    (
        freed
            .wait_timeout(locked, LOOK.min(deadline - now))
            .unwrap_or_else(PoisonError::into_inner)
            .0,
        None,
    )
}

impl Pool {
    /// A pool of so many bytes.
    pub fn new(total: u64) -> Arc<Pool> {
        let state = State { free: total, line: VecDeque::new(), next: 0 };
        Arc::new(Pool { total, state: Mutex::new(state), freed: Condvar::new() })
    }

    /// The whole of it.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Waits until so many bytes are free.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn reserve(
        self: &Arc<Self>,
        bytes: u64,
        deadline: Instant,
        left: impl Fn() -> bool,
    ) -> Result<Reservation, Refused> {
        if bytes > self.total {
            return Err(Refused::TooMuch { total: self.total });
        }
        let mut state = self.lock();
        let me = state.next;
        state.next += 1;
        state.line.push_back(me);
        let refused = loop {
            if state.line.front() == Some(&me) && state.free >= bytes {
                break None;
            }
            let refused;
            (state, refused) = wait(&self.freed, state, deadline, &left);
            if refused.is_some() {
                break refused;
            }
        };
        state.line.retain(|waiting| *waiting != me);
        if refused.is_none() {
            state.free -= bytes;
        }
        drop(state);
        // Whoever is next may have room as well.
        self.freed.notify_all();
        if let Some(refused) = refused {
            return Err(refused);
        }
        Ok(Reservation { pool: self.clone(), bytes })
    }
}

impl Reservation {
    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.pool.give_back(back);
    }
}

impl Pool {
    fn give_back(&self, bytes: u64) {
        self.lock().free += bytes;
        self.freed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
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
    fn what_is_dropped_or_shrunk_is_free_again() {
        let pool = Pool::new(100);
        let mut first = pool.reserve(80, soon(), || false).unwrap();
        assert_eq!(pool.reserve(30, soon(), || false).err(), Some(Refused::Late));
        first.shrink(50);
        let second = pool.reserve(50, soon(), || false).unwrap();
        drop((first, second));
        assert!(pool.reserve(100, soon(), || false).is_ok());
    }

    #[test]
    fn a_large_reservation_is_not_passed_by_small_ones_that_came_later() {
        let pool = Pool::new(100);
        let first = pool.reserve(60, soon(), || false).unwrap();
        let late = Instant::now() + Duration::from_secs(60);
        let large = std::thread::spawn({
            let pool = pool.clone();
            move || pool.reserve(90, late, || false).is_ok()
        });
        while pool.lock().line.is_empty() {
            std::thread::yield_now();
        }
        // There is room for it, but not yet its turn.
        assert_eq!(pool.reserve(10, soon(), || false).err(), Some(Refused::Late));
        drop(first);
        assert!(large.join().unwrap());
        assert!(pool.reserve(100, late, || false).is_ok(), "whoever left the line is forgotten");
    }

    #[test]
    fn more_than_the_whole_pool_is_refused_with_the_number_and_a_caller_who_left_does_not_wait() {
        let pool = Pool::new(100);
        assert_eq!(
            pool.reserve(101, soon(), || false).err(),
            Some(Refused::TooMuch { total: 100 })
        );
        let _all = pool.reserve(100, soon(), || false).unwrap();
        let late = Instant::now() + Duration::from_secs(3600);
        assert_eq!(pool.reserve(1, late, || true).err(), Some(Refused::Left));
    }

    #[test]
    fn whoever_waits_is_woken_when_there_is_room() {
        let pool = Pool::new(10);
        let held = pool.reserve(10, soon(), || false).unwrap();
        let waiting = std::thread::spawn({
            let pool = pool.clone();
            move || pool.reserve(5, Instant::now() + Duration::from_secs(60), || false).is_ok()
        });
        drop(held);
        assert!(waiting.join().unwrap());
    }
}
