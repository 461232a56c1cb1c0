//! Resolves names to permitted addresses, on a fixed number of threads and within a time limit.
//!
//! `getaddrinfo` cannot be interrupted, so a look-up may outlive the caller that gave up on it.
//! Each name therefore has at most one look-up: further callers join it, and fail immediately once
//! it exceeds its limit. An unanswered name thus occupies one thread, however many rows contain it.
//! The number of threads is fixed, so that an unresponsive name server cannot increase it. A full
//! queue fails the look-up.

use crate::address::{AddressPolicy, AddressVerdict};
use crate::attempt;
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting fetch checks for cancellation.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Look-ups that may wait, for each thread.
const QUEUED_PER_THREAD: usize = 64;

/// Resolves host names. The system's resolver in production, simulated ones in tests.
pub trait NameResolver: Debug + Send + Sync + 'static {
    /// The addresses of `host` (lower-case, punycoded). May block. The results are not trusted.
    ///
    /// # Errors
    /// Why the name has no address.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// `getaddrinfo`, which respects /etc/hosts and nsswitch.conf like other programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl NameResolver for SystemResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // The standard library requires a port.
        Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect())
    }
}

/// Why a host has no address to connect to.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LookupError {
    /// The look-up failed.
    #[error("{0}")]
    Unknown(String),
    /// The look-up took longer than `pg_caption.connect_timeout`.
    #[error("the look-up took too long")]
    Slow,
    /// All addresses are forbidden; one of them, and its class.
    #[error("{0} is not a public address ({1})")]
    Forbidden(IpAddr, &'static str),
    /// The fetch was cancelled or its deadline passed.
    #[error("the fetch ended")]
    FetchEnded,
}

/// The look-up of one name, and its waiting callers.
#[derive(Debug)]
struct PendingLookup {
    host: String,
    state: Mutex<LookupState>,
    ended: Condvar,
}

#[derive(Debug)]
struct LookupState {
    /// Whether a thread processes it; before that it waits in the queue.
    running: bool,
    /// Callers wait until this time.
    due: Instant,
    /// The resolver's answer.
    answer: Option<Result<Vec<IpAddr>, String>>,
}

impl PendingLookup {
    /// A panic cannot break the state: no invariant spans two statements.
    fn state(&self) -> MutexGuard<'_, LookupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the answer: at most until it is due, for `limit`, and until the deadline of the
    /// fetch on this thread.
    fn wait(&self, limit: Duration) -> Result<Vec<IpAddr>, LookupError> {
        let until = (Instant::now() + limit).min(attempt::deadline());
        let mut state = self.state();
        loop {
            match &state.answer {
                Some(Ok(addresses)) => return Ok(addresses.clone()),
                Some(Err(reason)) => return Err(LookupError::Unknown(reason.clone())),
                None if attempt::is_over() => return Err(LookupError::FetchEnded),
                None => {}
            }
            let left = state.due.min(until).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LookupError::Slow);
            }
            state = self
                .ended
                .wait_timeout(state, left.min(POLL_INTERVAL))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// All running and queued look-ups, by name.
type PendingLookups = Mutex<HashMap<String, Arc<PendingLookup>>>;

fn lock(pending: &PendingLookups) -> MutexGuard<'_, HashMap<String, Arc<PendingLookup>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The look-up threads and the policy.
#[derive(Debug)]
pub(crate) struct Lookup {
    policy: AddressPolicy,
    /// Time limit of one look-up.
    limit: Duration,
    pending: Arc<PendingLookups>,
    jobs: SyncSender<Arc<PendingLookup>>,
}

impl Lookup {
    /// Starts `threads` threads, which end when the `Lookup` is dropped. Callers wait at most
    /// `limit` for a look-up.
    pub(crate) fn new(
        policy: AddressPolicy,
        resolver: Arc<dyn NameResolver>,
        threads: usize,
        limit: Duration,
    ) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(threads * QUEUED_PER_THREAD);
        let (queue, pending) = (Arc::new(Mutex::new(queue)), Arc::new(PendingLookups::default()));
        for n in 0..threads.max(1) {
            let (queue, pending, resolver) = (queue.clone(), pending.clone(), resolver.clone());
            std::thread::Builder::new()
                .name(format!("lookup {n}"))
                .spawn(move || work(&queue, &pending, &*resolver))?;
        }
        Ok(Lookup { policy, limit, pending, jobs })
    }

    /// Whether this address may be connected to.
    pub(crate) fn judge(&self, address: IpAddr) -> Result<(), LookupError> {
        match self.policy.judge(address) {
            AddressVerdict::Allowed => Ok(()),
            AddressVerdict::Forbidden(what) => Err(LookupError::Forbidden(address, what)),
        }
    }

    /// The addresses of `host` that may be connected to; at least one.
    pub(crate) fn allowed(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
        let mut refusal = None;
        let mut allowed = Vec::new();
        for address in self.all(host)? {
            match self.judge(address) {
                // Built from address and port only: no scope, no flow label.
                Ok(()) => allowed.push(SocketAddr::new(address, port)),
                Err(e) => refusal = refusal.or(Some(e)),
            }
        }
        allowed.dedup();
        match (allowed.is_empty(), refusal) {
            (false, _) => Ok(allowed),
            (true, Some(e)) => Err(e),
            (true, None) => Err(LookupError::Unknown("it has no address".into())),
        }
    }

    /// All addresses of `host`, without the policy. Only for the proxy, which a superuser chose.
    pub(crate) fn all(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(literal) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![literal]);
        }
        self.lookup(host)?.wait(self.limit)
    }

    /// The running look-up of `host`, or a new one.
    fn lookup(&self, host: &str) -> Result<Arc<PendingLookup>, LookupError> {
        let mut pending = lock(&self.pending);
        let due = Instant::now() + self.limit;
        if let Some(lookup) = pending.get(host) {
            let mut state = lookup.state();
            if !state.running {
                // The queue is slow, not the name: the look-up stays queued with a new limit.
                state.due = due;
            }
            drop(state);
            return Ok(lookup.clone());
        }
        let state = Mutex::new(LookupState { running: false, due, answer: None });
        let lookup = Arc::new(PendingLookup { host: host.into(), state, ended: Condvar::new() });
        self.jobs.try_send(lookup.clone()).map_err(|e| match e {
            TrySendError::Full(_) => {
                LookupError::Unknown("too many names are being looked up".into())
            }
            TrySendError::Disconnected(_) => {
                LookupError::Unknown("the look-up threads have ended".into())
            }
        })?;
        pending.insert(host.into(), lookup.clone());
        Ok(lookup)
    }
}

fn work(
    queue: &Mutex<Receiver<Arc<PendingLookup>>>,
    pending: &PendingLookups,
    resolver: &dyn NameResolver,
) {
    loop {
        let lookup = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(lookup) = lookup else { return };
        // Under the lock that joining takes, so that no caller joins a skipped look-up.
        let mut table = lock(pending);
        let wanted = {
            let mut state = lookup.state();
            state.running = true;
            Instant::now() < state.due
        };
        if !wanted {
            // No caller waits for it.
            table.remove(&lookup.host);
            continue;
        }
        drop(table);
        // A panicking resolver must not end the thread or block the name forever.
        let answer = catch_unwind(AssertUnwindSafe(|| resolver.resolve(&lookup.host)));
        let answer = answer
            .unwrap_or_else(|_| Err(io::Error::other("the resolver crashed")))
            .map_err(|e| e.to_string());
        lock(pending).remove(&lookup.host);
        lookup.state().answer = Some(answer);
        lookup.ended.notify_all();
    }
}
