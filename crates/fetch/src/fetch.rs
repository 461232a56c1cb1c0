//! The fetcher: one URL, its redirects, and the response.

use crate::address::AddressPolicy;
use crate::attempt;
use crate::client::{self, HttpClient};
use crate::error::{FetchError, UrlLocation};
use crate::fault::Limits;
use crate::framing_offenders::FramingOffenders;
use crate::gate::{Gate, HostAdmission, HostPermit};
use crate::hosts::{HostAnswer, HostTable};
use crate::lookup::{Lookup, LookupError, NameResolver, SystemResolver};
use crate::names::HostPatterns;
use crate::oddity::UrlOddity;
use crate::redirected::RedirectedFetch;
use crate::response::{self, Received};
use crate::settings::{self, FetchSettings};
use crate::shares::FetchClient;
use crate::target::Target;
use pg_caption_wire::{Failure, HostCooldown, HostStatus};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};
use ureq::http::header;
use ureq::http::{HeaderValue, Response};

/// Most look-up threads. By default there is one for each fetch thread; clients share both alike.
const MAX_LOOKUP_THREADS: usize = 32;

/// What to fetch, and within which limits.
#[derive(Debug, Clone, Copy)]
pub struct FetchRequest<'a> {
    /// As the user wrote it.
    pub url: &'a str,
    /// ETag of the picture captioned before at this URL. If it is unchanged, the result is
    /// [`FetchResult::NotModified`]. Not sent after a redirect, because it concerns this URL only.
    pub etag: Option<&'a str>,
    /// Last-Modified of that picture, likewise.
    pub last_modified: Option<&'a str>,
    /// The caller's deadline. The total limit of [`FetchSettings`] also applies.
    pub deadline: Instant,
    /// Set when the caller cancels; the fetch ends within a fraction of a second.
    pub cancelled: &'a Arc<AtomicBool>,
    /// Set when the body's memory is needed elsewhere; the fetch ends as quickly, with
    /// [`FetchError::Displaced`].
    pub displaced: &'a Arc<AtomicBool>,
    /// The client: look-ups are shared fairly among clients.
    pub client: FetchClient,
}

/// A successful fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchResult {
    /// The body, whatever it contains.
    Body {
        /// After content decoding; at most [`FetchSettings::max_bytes`].
        bytes: Vec<u8>,
        /// ETag of the response; none after a redirect, whose target may change.
        etag: Option<String>,
        /// Last-Modified of the response, likewise.
        last_modified: Option<String>,
        /// The URL after all redirects, without query values.
        final_url: String,
        /// How long the picture may be taken for the one at its URL, by others than this caller,
        /// too: zero after a redirect, or where headers of `pg_caption.fetch_headers_file` were
        /// sent.
        fresh_for: Duration,
    },
    /// The picture has not changed since it was captioned.
    NotModified,
}

/// Outcome of a fetch that never waits for a host.
#[derive(Debug)]
pub enum FetchStep {
    /// The fetch is complete.
    Done(FetchResult),
    /// It was redirected to a host at its limit ([`RedirectedFetch::host`]). [`Fetcher::fetch`]
    /// continues it with a permit for that host; no earlier request is repeated.
    Redirected(Box<RedirectedFetch>),
}

/// The memory that a body needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyRoom {
    /// What is about to be stored, all together.
    pub needed: u64,
    /// The largest possible size.
    pub most: u64,
}

/// Why there is no memory for more of a body.
#[derive(Debug)]
pub enum RoomError {
    /// The body is refused.
    Refused(Box<Failure>),
    /// Other requests go first: the result is [`FetchError::Displaced`].
    Displaced,
}

/// Reserves memory for a body from the host (`name:port`). Called before the first byte is stored,
/// and again as the body grows. It may block within the caller's deadline. The caller keeps the
/// reservation; an error ends the fetch.
pub type Reserve<'a> = dyn FnMut(&str, BodyRoom) -> Result<(), RoomError> + 'a;

/// Replaceable parts of a fetcher, for tests.
#[derive(Debug)]
pub struct FetcherParts {
    /// Resolves names; the address policy applies to its answers.
    pub resolver: Arc<dyn NameResolver>,
    /// DER certificates to trust instead of the system's.
    pub roots: Option<Vec<Vec<u8>>>,
}

impl Default for FetcherParts {
    fn default() -> Self {
        FetcherParts { resolver: Arc::new(SystemResolver), roots: None }
    }
}

/// Fetches URLs. One for the engine's life, shared by its fetch threads.
pub struct Fetcher {
    settings: FetchSettings,
    names: HostPatterns,
    lookup: Arc<Lookup>,
    client: HttpClient,
    gate: Arc<Gate>,
    framing_offenders: FramingOffenders,
}

impl std::fmt::Debug for Fetcher {
    /// Without the settings: the proxy's URL may contain a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Checks the settings, reads the system's certificates and starts the look-up threads.
    ///
    /// # Errors
    /// [`FetchError::Setting`] for a setting that cannot be used.
    pub fn new(settings: FetchSettings) -> Result<Fetcher, FetchError> {
        Fetcher::with_parts(settings, FetcherParts::default())
    }

    /// Like [`Fetcher::new`], with replaced parts.
    ///
    /// # Errors
    /// As [`Fetcher::new`].
    pub fn with_parts(settings: FetchSettings, parts: FetcherParts) -> Result<Fetcher, FetchError> {
        // The client would panic at the first request.
        HeaderValue::from_str(&settings.user_agent).map_err(|_| FetchError::Setting {
            setting: "user agent",
            reason: "it cannot be sent as a header".into(),
        })?;
        let names = HostPatterns::parse(&settings.allowed_hosts)?;
        let policy = AddressPolicy::new(settings::networks(&settings.allowed_networks)?);
        let threads = settings.concurrency.clamp(1, MAX_LOOKUP_THREADS);
        let lookup = Lookup::new(policy, parts.resolver, threads, settings.connect_timeout)
            .map_err(|e| FetchError::Setting {
                setting: "pg_caption.fetch_concurrency",
                reason: format!("could not start the look-up threads: {e}"),
            })?;
        let lookup = Arc::new(lookup);
        let client = client::client(&settings, lookup.clone(), parts.roots)?;
        let gate = Gate::new(HostTable::new(
            settings.host_concurrency.min(u32::MAX as usize) as u32,
            RandomState::new().hash_one(0),
        ));
        Ok(Fetcher {
            settings,
            names,
            lookup,
            client,
            gate,
            framing_offenders: FramingOffenders::default(),
        })
    }

    /// Whether a request to `host` ([`crate::host_key`]) may start now. Never blocks.
    pub fn admit(&self, host: &str) -> HostAdmission {
        self.gate.admit(host)
    }

    /// The error of a request to a host that is [`HostAdmission::Cooling`].
    pub fn host_cooling(&self, host: &str, until: Instant) -> FetchError {
        let location = UrlLocation { host: host.to_owned(), url: String::new() };
        let last = self.gate.last(&location.host);
        FetchError::HostCooling {
            location,
            wait: until.saturating_duration_since(Instant::now()),
            last,
        }
    }

    /// Hosts with requests in flight, paused hosts, and recently used hosts.
    pub fn hosts(&self) -> Vec<HostStatus> {
        self.gate.snapshot()
    }

    /// The active pauses, for the next engine.
    pub fn cooldowns(&self) -> Vec<HostCooldown> {
        self.gate.cooldowns()
    }

    /// Takes over the pauses of the previous engine.
    pub fn restore(&self, cooldowns: &[HostCooldown]) {
        self.gate.restore(cooldowns);
    }

    /// Fetches with a permit from [`Fetcher::admit`] for the URL's host, or continues a redirected
    /// fetch with a permit for its next host. Never waits for a host.
    ///
    /// # Errors
    /// Why there is no body; see [`FetchError`].
    pub fn fetch(
        &self,
        permit: HostPermit,
        redirected: Option<Box<RedirectedFetch>>,
        request: &FetchRequest<'_>,
        reserve: &mut Reserve<'_>,
    ) -> Result<FetchStep, FetchError> {
        let (start, mut permit) = (Instant::now(), Some(permit));
        let mut request = *request;
        let caller = request.deadline.saturating_duration_since(start);
        let mut fetch = match redirected {
            Some(fetch) => fetch,
            None => {
                Box::new(RedirectedFetch::begin(request.url, self.settings.total_timeout, caller)?)
            }
        };
        let limits = Limits {
            connect: self.settings.connect_timeout,
            answer: self.settings.answer_timeout,
            total: self.settings.total_timeout,
            rate_window: self.settings.rate_window,
            window_bytes: self.settings.window_bytes,
            bytes: self.settings.max_bytes,
            room: self.settings.room,
            caller: (caller < fetch.left).then_some(fetch.caller),
            has_roots: self.client.has_roots,
            proxied: self.settings.proxy.is_some(),
        };
        let _running = attempt::begin(start + fetch.left, &request);
        loop {
            if fetch.is_redirected() {
                (request.etag, request.last_modified) = (None, None);
            }
            let target = &fetch.target;
            self.check(target, &limits)?;
            let Some(held) = self.permit(permit.take(), target)? else {
                fetch.left = attempt::left();
                return Ok(FetchStep::Redirected(fetch));
            };
            let conditional = request.etag.is_some() || request.last_modified.is_some();
            let received = self.send(&fetch, &request, &limits).and_then(|response| {
                let uri = target.uri()?;
                response::receive(response, &uri, conditional, target.location(), &limits, reserve)
            });
            match received {
                Ok(Received::Done { mut result, surplus }) => {
                    if surplus {
                        self.framing_offenders.add(&target.location().host);
                    }
                    held.finish(HostAnswer::Served("http_200".into()));
                    if let FetchResult::Body { etag, last_modified, fresh_for, .. } = &mut result {
                        if fetch.is_redirected() {
                            (*etag, *last_modified) = (None, None);
                        }
                        if fetch.is_redirected()
                            || self.settings.headers.of(fetch.target.url()).is_some()
                        {
                            *fresh_for = Duration::ZERO;
                        }
                    }
                    return Ok(FetchStep::Done(result));
                }
                Ok(Received::Redirect { location, cookies }) => {
                    // Returned before the next host is requested, so that no waiting fetch holds a
                    // permit.
                    held.finish(HostAnswer::Served("redirect".into()));
                    fetch.follow(&location, &cookies, self.settings.max_redirects)?;
                }
                Err(mut e) => {
                    if let FetchError::Status { oddity, .. } = &mut e
                        && !fetch.is_redirected()
                    {
                        *oddity = UrlOddity::of(request.url, SystemTime::now());
                    }
                    return Err(release(held, e));
                }
            }
        }
    }

    /// Checks a target without connecting. Names are checked by the connection's own resolver. With
    /// a proxy, which connects itself, the local meaning of the name is the best available check.
    fn check(&self, target: &Target, limits: &Limits) -> Result<(), FetchError> {
        let location = target.location();
        if !self.names.allow(target.host(), target.port()) {
            return Err(FetchError::ForbiddenHost { location: location.clone() });
        }
        let refused = |e| limits.lookup(e, location);
        if let Some(address) = target.literal() {
            self.lookup.judge(address).map_err(refused)?;
        } else if self.settings.proxy.is_some() {
            match self.lookup.allowed(target.host(), target.port()) {
                // Machines behind a proxy often cannot resolve external names.
                Ok(_) | Err(LookupError::Unknown(_) | LookupError::Slow | LookupError::Busy) => {}
                Err(e) => return Err(refused(e)),
            }
        }
        Ok(())
    }

    /// The permit for this host: the given one if it fits, else a new one; `None` if the host is at
    /// its limit or paused.
    fn permit(
        &self,
        held: Option<HostPermit>,
        target: &Target,
    ) -> Result<Option<HostPermit>, FetchError> {
        let location = target.location();
        if let Some(permit) = held.filter(|p| p.host() == location.host) {
            return Ok(Some(permit));
        }
        match self.gate.admit(&location.host) {
            HostAdmission::Go(permit) => Ok(Some(permit)),
            HostAdmission::Busy | HostAdmission::Cooling { .. } => Ok(None),
        }
    }

    /// Sends one request and receives the headers of the response.
    fn send(
        &self,
        fetch: &RedirectedFetch,
        request: &FetchRequest<'_>,
        limits: &Limits,
    ) -> Result<Response<ureq::Body>, FetchError> {
        let target = &fetch.target;
        let uri = target.uri()?;
        // Of this origin only: looked up again for each request.
        let given = self.settings.headers.of(target.url());
        let cookie = fetch.cookies.header(target.url(), given.and_then(|g| g.get(header::COOKIE)));
        loop {
            if let Some(over) = limits.over(target.location()) {
                return Err(over);
            }
            let mut http = self.client.agent.get(uri.clone());
            for (name, value) in [
                (header::IF_NONE_MATCH, request.etag),
                (header::IF_MODIFIED_SINCE, request.last_modified),
            ] {
                if let Some(value) = value.and_then(|v| HeaderValue::from_str(v).ok()) {
                    http = http.header(name, value);
                }
            }
            for (name, value) in given.into_iter().flatten().filter(|(n, _)| *n != header::COOKIE) {
                http = http.header(name, value);
            }
            if let Some(cookie) = &cookie {
                http = http.header(header::COOKIE, cookie);
            }
            // Surplus bytes of an earlier response could answer this request.
            let fresh = self.framing_offenders.contains(&target.location().host);
            if fresh {
                http = http.header(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // The connection (`transport.rs`) enforces the total limit, which is extended while a
            // body waits for memory. The client enforces the caller's deadline.
            let http = http
                .config()
                .max_idle_age(if fresh { Duration::ZERO } else { client::MAX_IDLE })
                .timeout_global(Some(request.deadline.saturating_duration_since(Instant::now())))
                .timeout_connect(Some(self.settings.connect_timeout.min(attempt::left())))
                .timeout_recv_response(Some(self.settings.answer_timeout))
                .build();
            attempt::set_lenient(fresh);
            attempt::take_connected();
            attempt::take_surplus();
            let result = http.call();
            let pooled = !attempt::take_connected();
            if attempt::take_surplus() && (pooled || result.is_ok()) {
                self.framing_offenders.add(&target.location().host);
            }
            match result {
                Ok(response) => return Ok(response),
                Err(e) => match limits.explain(e, target.location()) {
                    // The host had closed a pooled connection: retry with the next one. Each retry
                    // uses one up, so the last one uses a new connection.
                    FetchError::Reset { .. } if pooled => {}
                    // Nor do surplus bytes of an earlier response count.
                    FetchError::NotHttp { .. } | FetchError::HeadersTooLarge { .. } if pooled => {
                        self.framing_offenders.add(&target.location().host)
                    }
                    // Once more with a lenient reading of the head, on a connection of its own.
                    FetchError::NotHttp { .. } if !fresh => {
                        self.framing_offenders.add(&target.location().host)
                    }
                    error => return Err(error),
                },
            }
        }
    }
}

/// Returns the permit with the host's answer according to `error`, and adds the host's new pause to
/// the error.
fn release(permit: HostPermit, mut error: FetchError) -> FetchError {
    use FetchError::*;
    let code = error.code();
    let answer = match &error {
        Status { status: status @ (429 | 503), retry_after, .. } => {
            HostAnswer::PauseRequest { code, wait: *retry_after, always: *status == 429 }
        }
        Dns { .. } | Connect { .. } | Tls { .. } | Reset { .. } | Proxy { .. } => {
            HostAnswer::Failed(code)
        }
        Timeout { stage, .. } if *stage != crate::error::FetchStage::Caller => {
            HostAnswer::Failed(code)
        }
        TooSlow { .. } => HostAnswer::Failed(code),
        Timeout { .. } | Cancelled { .. } | Displaced { .. } | LookupBusy { .. } | Memory(_) => {
            HostAnswer::Dropped
        }
        _ => HostAnswer::Served(code),
    };
    let pause: Option<Duration> = permit.finish(answer);
    if let Status { status: 429, retry_after, .. } = &mut error {
        *retry_after = retry_after.or(pause);
    }
    error
}
