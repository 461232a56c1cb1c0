//! Resolves names to permitted addresses, on a fixed number of threads and within a time limit.
//!
//! `getaddrinfo` cannot be interrupted, so a look-up may outlive the caller that gave up on it.
//! Each name therefore has at most one look-up: further callers join it, and fail immediately once
//! it exceeds its limit. An unanswered name thus occupies one thread, however many rows contain it.
//! The number of threads is fixed, so that an unresponsive name server cannot increase it; which
//! look-up starts next, `lookup_line.rs` decides. Time in line counts neither for the look-up nor
//! for the host.

use crate::address::{AddressPolicy, AddressVerdict};
use crate::attempt;
use crate::lookup_line::{LineDecision, LookupLine};
use crate::shares::FetchClient;
use pg_caption_wire::ClientRole;
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting fetch checks for cancellation.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The client of look-ups without a fetch.
const NO_CLIENT: FetchClient = FetchClient { connection: 0, role: ClientRole::Call };

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
    /// The look-up was not started: other names of the client or of the zone are unanswered.
    #[error("the look-up did not start")]
    Busy,
    /// All addresses are forbidden; one of them, and its class.
    #[error("{0} is not a public address ({1})")]
    Forbidden(IpAddr, &'static str),
    /// The fetch was cancelled or its deadline passed.
    #[error("the fetch ended")]
    FetchEnded,
}

/// The look-up of one name. Its waiting callers share it.
#[derive(Debug, Default)]
struct PendingLookup {
    state: Mutex<LookupState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LookupState {
    /// When a thread began; before that it is in line.
    started: Option<Instant>,
    /// The resolver's answer.
    answer: Option<Result<Vec<IpAddr>, String>>,
}

impl PendingLookup {
    /// A panic cannot break the state: no invariant spans two statements.
    fn state(&self) -> MutexGuard<'_, LookupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the answer: for `limit` in line, for `limit` after it began, and until the
    /// deadline of the fetch on this thread. Also returns the time in line.
    fn wait(&self, limit: Duration) -> (Result<Vec<IpAddr>, LookupError>, Duration) {
        let asked = Instant::now();
        let mut state = self.state();
        loop {
            let in_line =
                state.started.map_or(asked.elapsed(), |at| at.saturating_duration_since(asked));
            let begun = state.started.unwrap_or(asked);
            let left = (begun + limit).saturating_duration_since(Instant::now());
            let error = match &state.answer {
                Some(Ok(addresses)) => return (Ok(addresses.clone()), in_line),
                Some(Err(reason)) => Some(LookupError::Unknown(reason.clone())),
                None if attempt::cancelled() => Some(LookupError::FetchEnded),
                None if attempt::is_over() || left.is_zero() => match state.started {
                    None => Some(LookupError::Busy),
                    Some(_) if left.is_zero() => Some(LookupError::Slow),
                    Some(_) => Some(LookupError::FetchEnded),
                },
                None => None,
            };
            if let Some(error) = error {
                return (Err(error), in_line);
            }
            state = self
                .changed
                .wait_timeout(state, left.min(POLL_INTERVAL))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// All look-ups that have not ended.
#[derive(Debug)]
struct LookupTable {
    line: LookupLine,
    pending: HashMap<String, Arc<PendingLookup>>,
    /// The threads are to end.
    closed: bool,
}

/// What the look-up threads share.
#[derive(Debug)]
struct LookupQueue {
    table: Mutex<LookupTable>,
    added: Condvar,
}

impl LookupQueue {
    /// A panic cannot break the table: resolvers run without the lock.
    fn table(&self) -> MutexGuard<'_, LookupTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next name to look up; `None` at the end.
    fn next(&self) -> Option<(String, Arc<PendingLookup>)> {
        let mut table = self.table();
        loop {
            if table.closed {
                return None;
            }
            if let Some(name) = table.line.start()
                && let Some(lookup) = table.pending.get(&name)
            {
                return Some((name, lookup.clone()));
            }
            table = self.added.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The look-up threads and the policy.
#[derive(Debug)]
pub(crate) struct Lookup {
    policy: AddressPolicy,
    /// Time limit of one look-up.
    limit: Duration,
    queue: Arc<LookupQueue>,
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.queue.table().closed = true;
        self.queue.added.notify_all();
    }
}

impl Lookup {
    /// Starts `threads` threads, which end when the `Lookup` is dropped. Callers wait at most
    /// `limit` for a look-up, and as long for its begin.
    pub(crate) fn new(
        policy: AddressPolicy,
        resolver: Arc<dyn NameResolver>,
        threads: usize,
        limit: Duration,
    ) -> io::Result<Self> {
        let line = LookupLine::new(threads.max(1));
        let table = Mutex::new(LookupTable { line, pending: HashMap::new(), closed: false });
        let queue = Arc::new(LookupQueue { table, added: Condvar::new() });
        for n in 0..threads.max(1) {
            let (queue, resolver) = (queue.clone(), resolver.clone());
            std::thread::Builder::new()
                .name(format!("lookup {n}"))
                .spawn(move || work(&queue, &*resolver, limit))?;
        }
        Ok(Lookup { policy, limit, queue })
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
        let lookup = self.lookup(host)?;
        let (answer, in_line) = lookup.wait(self.limit);
        let now = Instant::now();
        let mut table = self.queue.table();
        if table.line.leave(host, matches!(answer, Err(LookupError::Slow)), now) {
            table.pending.remove(host);
        }
        drop(table);
        attempt::extend(in_line);
        answer
    }

    /// The running look-up of `host`, or a new one.
    fn lookup(&self, host: &str) -> Result<Arc<PendingLookup>, LookupError> {
        let client = attempt::client().unwrap_or(NO_CLIENT);
        let mut table = self.queue.table();
        match table.line.ask(host, client, Instant::now()) {
            LineDecision::Slow => return Err(LookupError::Slow),
            LineDecision::Busy => return Err(LookupError::Busy),
            LineDecision::Queued => {}
        }
        let lookup = table.pending.entry(host.into()).or_default().clone();
        drop(table);
        self.queue.added.notify_one();
        Ok(lookup)
    }
}

fn work(queue: &LookupQueue, resolver: &dyn NameResolver, limit: Duration) {
    while let Some((name, lookup)) = queue.next() {
        let started = Instant::now();
        lookup.state().started = Some(started);
        lookup.changed.notify_all();
        // A panicking resolver must not end the thread or block the name forever.
        let answer = catch_unwind(AssertUnwindSafe(|| resolver.resolve(&name)));
        let answer = answer
            .unwrap_or_else(|_| Err(io::Error::other("the resolver crashed")))
            .map_err(|e| e.to_string());
        let answered = answer.is_ok() || started.elapsed() < limit;
        let mut table = queue.table();
        table.line.finish(&name, answered, Instant::now());
        table.pending.remove(&name);
        drop(table);
        lookup.state().answer = Some(answer);
        lookup.changed.notify_all();
        // A place of this client is free: the next name of its own may begin, on any thread.
        queue.added.notify_one();
    }
}
