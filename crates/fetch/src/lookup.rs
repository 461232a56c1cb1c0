//! Names become addresses: on a fixed number of threads, within a time limit, and only judged addresses come out.
//!
//! `getaddrinfo` cannot be interrupted, so a caller that gives up leaves its look-up behind; the threads are few and fixed
//! so that a dead name server cannot make them many. A queue that is full is a failed look-up, not a longer queue.

use crate::address::{AddressPolicy, Verdict};
use crate::attempt;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting fetch looks whether its caller has left.
const LOOK: Duration = Duration::from_millis(50);
/// Look-ups that may wait for a thread, for each thread.
const QUEUED_PER_THREAD: usize = 64;

/// Turns a host name into addresses. The system's resolver in production; tests bring their own.
pub trait Resolve: Debug + Send + Sync + 'static {
    /// The addresses of `host` (lower-case, punycoded). May block. Nothing it returns is trusted.
    ///
    /// # Errors
    /// Why there are none.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// `getaddrinfo`, so /etc/hosts and nsswitch.conf count as for every other program.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
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

struct Job {
    host: String,
    until: Instant,
    reply: SyncSender<io::Result<Vec<IpAddr>>>,
}

/// The look-up threads and the policy.
#[derive(Debug)]
pub(crate) struct Lookup {
    policy: AddressPolicy,
    jobs: SyncSender<Job>,
}

impl Lookup {
    /// Starts `threads` threads, which end when the `Lookup` is dropped.
    pub(crate) fn new(policy: AddressPolicy, resolver: Arc<dyn Resolve>, threads: usize) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(threads * QUEUED_PER_THREAD);
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads.max(1) {
            let (queue, resolver) = (queue.clone(), resolver.clone());
            std::thread::Builder::new().name(format!("lookup {n}")).spawn(move || work(&queue, &*resolver))?;
        }
        Ok(Lookup { policy, jobs })
    }

    /// May this address be connected to?
    pub(crate) fn judge(&self, address: IpAddr) -> Result<(), LookupError> {
        match self.policy.judge(address) {
            Verdict::Allowed => Ok(()),
            Verdict::Forbidden(what) => Err(LookupError::Forbidden(address, what)),
        }
    }

    /// The addresses of `host` that may be connected to; at least one.
    pub(crate) fn allowed(&self, host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, LookupError> {
        let mut refusal = None;
        let mut allowed = Vec::new();
        for address in self.all(host, limit)? {
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

    /// Every address of `host`, unjudged: for the proxy that the superuser named, and for nothing else.
    pub(crate) fn all(&self, host: &str, limit: Duration) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(literal) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![literal]);
        }
        let until = (Instant::now() + limit).min(attempt::deadline());
        let (reply, answer) = sync_channel(1);
        self.jobs.try_send(Job { host: host.into(), until, reply }).map_err(|e| match e {
            TrySendError::Full(_) => LookupError::Unknown("too many names are being looked up".into()),
            TrySendError::Disconnected(_) => LookupError::Unknown("the look-up threads have ended".into()),
        })?;
        loop {
            if attempt::over() {
                return Err(LookupError::GivenUp);
            }
            let left = until.saturating_duration_since(Instant::now());
            match answer.recv_timeout(left.min(LOOK)) {
                Ok(Ok(addresses)) => return Ok(addresses),
                Ok(Err(e)) => return Err(LookupError::Unknown(e.to_string())),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(LookupError::Slow),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(LookupError::Slow),
            }
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, resolver: &dyn Resolve) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // nobody waits for it any more: on to one that somebody waits for
        if Instant::now() >= job.until {
            continue;
        }
        let answer = resolver.resolve(&job.host);
        let _ = job.reply.try_send(answer);
    }
}
