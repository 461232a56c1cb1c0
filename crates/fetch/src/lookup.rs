//! Names become addresses: on a fixed number of threads, within a time limit, and only judged
//! addresses come out.
//!
//! `getaddrinfo` cannot be interrupted, so a caller that gives up leaves its look-up behind, often
//! for longer than it waited itself. A name is therefore looked up once at a time: whoever asks for
//! it meanwhile joins, and once the look-up is overdue is refused at once, so that a dead name
//! holds one thread however many rows name it. The threads are few and fixed so that a dead name
//! server cannot make them many. A queue that is full is a failed look-up, not a longer queue.

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

/// How often a waiting fetch looks whether its caller has left.
const LOOK: Duration = Duration::from_millis(50);
/// Look-ups that may wait for a thread, for each thread.
const QUEUED_PER_THREAD: usize = 64;

/// Turns a host name into addresses. The system's resolver in production; tests bring their own.
pub trait NameResolver: Debug + Send + Sync + 'static {
    /// The addresses of `host` (lower-case, punycoded). May block. Nothing it returns is trusted.
    ///
    /// # Errors
    /// Why there are none.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// `getaddrinfo`, so /etc/hosts and nsswitch.conf count as for every other program.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl NameResolver for SystemResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // the port is only there because the standard library asks for one
        Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect())
    }
}

/// Why a host has no address to connect to.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LookupError {
    /// The name server said no, or nothing of use.
    #[error("{0}")]
    Unknown(String),
    /// It took longer than `pg_caption.connect_timeout`.
    #[error("the look-up took too long")]
    Slow,
    /// Every address is forbidden; one of them, and its class.
    #[error("{0} is not a public address ({1})")]
    Forbidden(IpAddr, &'static str),
    /// The caller has left or its time is over: the fetch knows which.
    #[error("given up")]
    GivenUp,
}

/// One name being looked up, and all who wait for it.
#[derive(Debug)]
struct Flight {
    host: String,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    /// A thread is at it; before that it stands in line.
    running: bool,
    /// Nobody waits for it any longer than this.
    due: Instant,
    /// What the resolver said, in the end.
    answer: Option<Result<Vec<IpAddr>, String>>,
}

impl Flight {
    /// No invariant spans two statements, so a panic between them breaks none.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the answer: until it is due, no longer than `limit`, and no longer than the fetch
    /// on this thread may.
    fn wait(&self, limit: Duration) -> Result<Vec<IpAddr>, LookupError> {
        let until = (Instant::now() + limit).min(attempt::deadline());
        let mut state = self.state();
        loop {
            match &state.answer {
                Some(Ok(addresses)) => return Ok(addresses.clone()),
                Some(Err(reason)) => return Err(LookupError::Unknown(reason.clone())),
                None if attempt::over() => return Err(LookupError::GivenUp),
                None => {}
            }
            let left = state.due.min(until).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LookupError::Slow);
            }
            state = self
                .ended
                .wait_timeout(state, left.min(LOOK))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Every name that is being looked up or stands in line for it.
type Flights = Mutex<HashMap<String, Arc<Flight>>>;

fn lock(flights: &Flights) -> MutexGuard<'_, HashMap<String, Arc<Flight>>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The look-up threads and the policy.
#[derive(Debug)]
pub(crate) struct Lookup {
    policy: AddressPolicy,
    /// For one look-up.
    limit: Duration,
    flights: Arc<Flights>,
    jobs: SyncSender<Arc<Flight>>,
}

impl Lookup {
    /// Starts `threads` threads, which end when the `Lookup` is dropped. A look-up is waited for no
    /// longer than `limit`.
    pub(crate) fn new(
        policy: AddressPolicy,
        resolver: Arc<dyn NameResolver>,
        threads: usize,
        limit: Duration,
    ) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(threads * QUEUED_PER_THREAD);
        let (queue, flights) = (Arc::new(Mutex::new(queue)), Arc::new(Flights::default()));
        for n in 0..threads.max(1) {
            let (queue, flights, resolver) = (queue.clone(), flights.clone(), resolver.clone());
            std::thread::Builder::new()
                .name(format!("lookup {n}"))
                .spawn(move || work(&queue, &flights, &*resolver))?;
        }
        Ok(Lookup { policy, limit, flights, jobs })
    }

    /// May this address be connected to?
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
                // made anew from address and port: no scope, no flow label
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

    /// Every address of `host`, unjudged: for the proxy that the superuser named, and for nothing
    /// else.
    pub(crate) fn all(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(literal) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![literal]);
        }
        self.flight(host)?.wait(self.limit)
    }

    /// The look-up of `host` that is under way, or a new one.
    fn flight(&self, host: &str) -> Result<Arc<Flight>, LookupError> {
        let mut flights = lock(&self.flights);
        let due = Instant::now() + self.limit;
        if let Some(flight) = flights.get(host) {
            let mut state = flight.state();
            if !state.running {
                // it is the line that is slow, not the name: it keeps its place, and nobody is
                // refused for it
                state.due = due;
            }
            drop(state);
            return Ok(flight.clone());
        }
        let state = Mutex::new(State { running: false, due, answer: None });
        let flight = Arc::new(Flight { host: host.into(), state, ended: Condvar::new() });
        self.jobs.try_send(flight.clone()).map_err(|e| match e {
            TrySendError::Full(_) => {
                LookupError::Unknown("too many names are being looked up".into())
            }
            TrySendError::Disconnected(_) => {
                LookupError::Unknown("the look-up threads have ended".into())
            }
        })?;
        flights.insert(host.into(), flight.clone());
        Ok(flight)
    }
}

fn work(queue: &Mutex<Receiver<Arc<Flight>>>, flights: &Flights, resolver: &dyn NameResolver) {
    loop {
        let flight = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(flight) = flight else { return };
        // under the same lock as joining, so that nobody joins what is not done
        let mut table = lock(flights);
        let wanted = {
            let mut state = flight.state();
            state.running = true;
            Instant::now() < state.due
        };
        if !wanted {
            // nobody waits for it any more: on to one that somebody waits for
            table.remove(&flight.host);
            continue;
        }
        drop(table);
        // a resolver that panics must neither cost a thread nor leave its name overdue for ever
        let answer = catch_unwind(AssertUnwindSafe(|| resolver.resolve(&flight.host)));
        let answer = answer
            .unwrap_or_else(|_| Err(io::Error::other("the resolver crashed")))
            .map_err(|e| e.to_string());
        lock(flights).remove(&flight.host);
        flight.state().answer = Some(answer);
        flight.ended.notify_all();
    }
}
