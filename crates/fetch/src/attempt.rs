//! What the fetch that runs on this thread may still do: its deadline, whether its caller is there,
//! what it used.
//!
//! The HTTP client's resolver and transports are called deep inside it, are shared by all fetches
//! and live longer than any (pooled connections), so they cannot carry these. A fetch never leaves
//! its thread; a thread-local is the plain answer.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

struct Attempt {
    deadline: Instant,
    /// The caller's own patience.
    latest: Instant,
    cancelled: Arc<AtomicBool>,
    /// A connection was opened for the current request, rather than taken from the pool.
    connected: bool,
    /// A connection was given up with bytes on it that were no part of an answer.
    surplus: bool,
}

thread_local! {
    static CURRENT: RefCell<Option<Attempt>> = const { RefCell::new(None) };
}

/// Ends the attempt when dropped.
pub(crate) struct Running(());

impl Drop for Running {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// From now on this thread works for a fetch.
pub(crate) fn begin(deadline: Instant, latest: Instant, cancelled: Arc<AtomicBool>) -> Running {
    CURRENT.set(Some(Attempt {
        deadline: deadline.min(latest),
        latest,
        cancelled,
        connected: false,
        surplus: false,
    }));
    Running(())
}

/// When it must be over. Outside of any fetch: now.
pub(crate) fn deadline() -> Instant {
    CURRENT.with_borrow(|c| c.as_ref().map_or_else(Instant::now, |a| a.deadline))
}

/// Time left.
pub(crate) fn left() -> Duration {
    deadline().saturating_duration_since(Instant::now())
}

/// Its caller has left.
pub(crate) fn cancelled() -> bool {
    CURRENT.with_borrow(|c| c.as_ref().is_some_and(|a| a.cancelled.load(Ordering::Relaxed)))
}

/// There is no point in going on.
pub(crate) fn over() -> bool {
    cancelled() || left().is_zero()
}

/// A connection was opened.
pub(crate) fn mark_connected() {
    CURRENT.with_borrow_mut(|c| c.iter_mut().for_each(|a| a.connected = true));
}

/// Was one opened since the last time this was asked?
pub(crate) fn take_connected() -> bool {
    CURRENT.with_borrow_mut(|c| c.as_mut().is_some_and(|a| std::mem::take(&mut a.connected)))
}

/// A connection was given up with bytes on it that were no part of an answer.
pub(crate) fn mark_surplus() {
    // connections are also dropped while threads end
    let _ = CURRENT.try_with(|c| c.borrow_mut().iter_mut().for_each(|a| a.surplus = true));
}

/// Was one given up so since the last time this was asked?
pub(crate) fn take_surplus() -> bool {
    CURRENT.with_borrow_mut(|c| c.as_mut().is_some_and(|a| std::mem::take(&mut a.surplus)))
}

/// Gives back time that was spent waiting for something of ours; never beyond the caller's own
/// patience.
pub(crate) fn extend(by: Duration) {
    CURRENT.with_borrow_mut(|c| {
        c.iter_mut().for_each(|a| a.deadline = (a.deadline + by).min(a.latest))
    });
}
