//! The state of the fetch that runs on this thread: its deadline, whether it was cancelled, and
//! what happened to its connections.
//!
//! The HTTP client calls its resolver and transports internally. They are shared by all fetches and
//! outlive each of them (pooled connections), so they cannot hold this state. A fetch never changes
//! its thread, so a thread-local can.

use crate::fetch::FetchRequest;
use crate::shares::FetchClient;
use crate::tls::CertificateFault;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

struct Attempt {
    deadline: Instant,
    /// The caller's own deadline.
    latest: Instant,
    cancelled: Arc<AtomicBool>,
    /// Set when other requests need the memory of this body.
    displaced: Arc<AtomicBool>,
    client: FetchClient,
    rate: Option<RateWatch>,
    /// A connection was opened for the current request instead of taken from the pool.
    connected: bool,
    /// A connection was closed that held bytes beyond the end of a response.
    surplus: bool,
    /// New connections read response heads leniently.
    lenient: bool,
    /// Why the certificate of the last connection was refused.
    certificate: Option<CertificateFault>,
}

/// The bytes that have arrived in the current window of time.
struct RateWatch {
    window: Duration,
    least: u64,
    since: Instant,
    bytes: u64,
}

impl RateWatch {
    /// Whether a window ended with too few bytes. Otherwise the next window begins.
    fn is_slow(&mut self) -> bool {
        if self.since.elapsed() < self.window {
            return false;
        }
        if self.bytes < self.least {
            return true;
        }
        (self.since, self.bytes) = (Instant::now(), 0);
        false
    }
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

/// Starts a fetch on this thread.
pub(crate) fn begin(deadline: Instant, request: &FetchRequest<'_>) -> Running {
    CURRENT.set(Some(Attempt {
        deadline: deadline.min(request.deadline),
        latest: request.deadline,
        cancelled: request.cancelled.clone(),
        displaced: request.displaced.clone(),
        client: request.client,
        rate: None,
        connected: false,
        surplus: false,
        lenient: false,
        certificate: None,
    }));
    Running(())
}

/// The deadline of the fetch; now, if no fetch runs.
pub(crate) fn deadline() -> Instant {
    CURRENT.with_borrow(|c| c.as_ref().map_or_else(Instant::now, |a| a.deadline))
}

/// Remaining time.
pub(crate) fn left() -> Duration {
    deadline().saturating_duration_since(Instant::now())
}

/// Whether the caller cancelled the fetch.
pub(crate) fn cancelled() -> bool {
    CURRENT.with_borrow(|c| c.as_ref().is_some_and(|a| a.cancelled.load(Ordering::Relaxed)))
}

/// Whether other requests need the memory of the body.
pub(crate) fn displaced() -> bool {
    CURRENT.with_borrow(|c| c.as_ref().is_some_and(|a| a.displaced.load(Ordering::Relaxed)))
}

/// Whether the fetch must end.
pub(crate) fn is_over() -> bool {
    cancelled() || displaced() || is_slow() || left().is_zero()
}

/// The client of the fetch; `None`, if no fetch runs.
pub(crate) fn client() -> Option<FetchClient> {
    CURRENT.with_borrow(|c| c.as_ref().map(|a| a.client))
}

/// From now on the body must bring `least` bytes in each window.
pub(crate) fn watch_rate(window: Duration, least: u64) {
    let watch = || RateWatch { window, least, since: Instant::now(), bytes: 0 };
    CURRENT.with_borrow_mut(|c| c.iter_mut().for_each(|a| a.rate = Some(watch())));
}

/// The body has ended.
pub(crate) fn stop_rate() {
    CURRENT.with_borrow_mut(|c| c.iter_mut().for_each(|a| a.rate = None));
}

/// Bytes of the body have arrived.
pub(crate) fn received(bytes: u64) {
    CURRENT.with_borrow_mut(|c| {
        c.iter_mut().filter_map(|a| a.rate.as_mut()).for_each(|rate| rate.bytes += bytes)
    });
}

/// Whether the body arrives too slowly.
pub(crate) fn is_slow() -> bool {
    CURRENT.with_borrow_mut(|c| {
        c.as_mut().and_then(|a| a.rate.as_mut()).is_some_and(RateWatch::is_slow)
    })
}

/// Records that a connection was opened.
pub(crate) fn mark_connected() {
    CURRENT.with_borrow_mut(|c| c.iter_mut().for_each(|a| a.connected = true));
}

/// Whether a connection was opened since the last call.
pub(crate) fn take_connected() -> bool {
    CURRENT.with_borrow_mut(|c| c.as_mut().is_some_and(|a| std::mem::take(&mut a.connected)))
}

/// Records that a connection held bytes beyond the end of a response.
pub(crate) fn mark_surplus() {
    // Connections are also dropped while threads end.
    let _ = CURRENT.try_with(|c| c.borrow_mut().iter_mut().for_each(|a| a.surplus = true));
}

/// Whether a connection held such bytes since the last call.
pub(crate) fn take_surplus() -> bool {
    CURRENT.with_borrow_mut(|c| c.as_mut().is_some_and(|a| std::mem::take(&mut a.surplus)))
}

/// Chooses how connections that are opened from now on read response heads.
pub(crate) fn set_lenient(lenient: bool) {
    CURRENT.with_borrow_mut(|c| c.iter_mut().for_each(|a| a.lenient = lenient));
}

/// Whether a new connection reads response heads leniently.
pub(crate) fn is_lenient() -> bool {
    CURRENT.with_borrow(|c| c.as_ref().is_some_and(|a| a.lenient))
}

/// Records why a certificate is refused; `None` for a new connection.
pub(crate) fn note_certificate(fault: Option<CertificateFault>) {
    CURRENT.with_borrow_mut(|c| c.iter_mut().for_each(|a| a.certificate = fault));
}

/// Why the certificate of the last connection was refused.
pub(crate) fn certificate() -> Option<CertificateFault> {
    CURRENT.with_borrow(|c| c.as_ref().and_then(|a| a.certificate))
}

/// Extends the deadline by time spent waiting inside the engine; never beyond the caller's own
/// deadline.
pub(crate) fn extend(by: Duration) {
    CURRENT.with_borrow_mut(|c| {
        c.iter_mut().for_each(|a| {
            a.deadline = (a.deadline + by).min(a.latest);
            a.rate.iter_mut().for_each(|rate| rate.since += by);
        })
    });
}
