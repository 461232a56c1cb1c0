//! The fetcher: one URL, its redirects, and the answer.

use crate::address::AddressPolicy;
use crate::attempt;
use crate::client::{self, Client};
use crate::error::{FetchError, UrlLocation};
use crate::fault::Limits;
use crate::framing_offenders::Careless;
use crate::gate::{Gate, HostAdmission, HostPermit};
use crate::hosts::{HostAnswer, HostTable};
use crate::lookup::{Lookup, LookupError, NameResolver, SystemResolver};
use crate::names::HostPatterns;
use crate::redirected::RedirectedFetch;
use crate::settings::{self, FetchSettings};
use crate::target::Target;
use crate::{body, status};
use pg_caption_wire::{Failure, HostCooldown, HostStatus};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::header::{self, HeaderName};
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode};

/// Look-up threads: one for each fetch thread by default, so that it takes as many dead names at
/// once to hold up the rest.
const MAX_LOOKUP_THREADS: usize = 32;
/// Longest ETag or Last-Modified kept, bytes.
const MAX_VALIDATOR: usize = 1024;

/// What to fetch, for whom.
#[derive(Debug, Clone, Copy)]
pub struct FetchRequest<'a> {
    /// As the user gave it.
    pub url: &'a str,
    /// Of the picture captioned before, which lay at this very URL; an unchanged one is answered
    /// with [`FetchResult::NotModified`]. Where a redirect leads elsewhere it is not sent: it says
    /// nothing of other resources.
    pub etag: Option<&'a str>,
    /// Likewise.
    pub last_modified: Option<&'a str>,
    /// The caller's patience. The total limit of [`FetchSettings`] holds as well.
    pub deadline: Instant,
    /// Set when the caller has left; the fetch ends within a fraction of a second.
    pub cancelled: &'a Arc<AtomicBool>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchResult {
    /// The picture's bytes, whatever they are.
    Body {
        /// After content decoding; at most [`FetchSettings::max_bytes`].
        bytes: Vec<u8>,
        /// As the server sent it; none after a redirect, which may lead elsewhere the next time.
        etag: Option<String>,
        /// Likewise.
        last_modified: Option<String>,
        /// Where it was after all redirects, in the form that may be shown (no query values).
        url_final: String,
    },
    /// The picture is the one captioned before.
    NotModified,
}

/// What became of a fetch that never waits for a host.
#[derive(Debug)]
pub enum FetchStep {
    /// It is over.
    Done(FetchResult),
    /// It was redirected to a host that is at its cap: to be gone on with by
    /// [`Fetcher::fetch_admitted`] once that host ([`RedirectedFetch::host`]) admits it. Nobody is asked
    /// again for what was learned so far.
    Elsewhere(Box<RedirectedFetch>),
}

/// Called once, before any byte of a body is kept, with the host that sends it (`name:port`) and
/// the most bytes that can come. It may block (within the caller's deadline) until there is room;
/// the engine keeps the reservation itself. Its failure becomes the fetch's.
pub type Reserve<'a> = dyn FnMut(&str, u64) -> Result<(), Box<Failure>> + 'a;

/// What tests and embedders replace.
#[derive(Debug)]
pub struct FetcherParts {
    /// Names to addresses; its answers are judged like any.
    pub resolver: Arc<dyn NameResolver>,
    /// DER certificates of the authorities to trust instead of the system's.
    pub roots: Option<Vec<Vec<u8>>>,
}

impl Default for FetcherParts {
    fn default() -> Self {
        FetcherParts { resolver: Arc::new(SystemResolver), roots: None }
    }
}

/// Fetches. One for the engine's life, shared by its fetch threads.
pub struct Fetcher {
    settings: FetchSettings,
    names: HostPatterns,
    lookup: Arc<Lookup>,
    client: Client,
    gate: Arc<Gate>,
    careless: Careless,
}

impl std::fmt::Debug for Fetcher {
    /// Without the settings: the proxy's URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Checks the settings, reads the system's certificates, starts the look-up threads.
    ///
    /// # Errors
    /// [`FetchError::Setting`] for a setting that cannot be used.
    pub fn new(settings: FetchSettings) -> Result<Fetcher, FetchError> {
        Fetcher::with_parts(settings, FetcherParts::default())
    }

    /// As [`Fetcher::new`], with some parts replaced.
    ///
    /// # Errors
    /// As [`Fetcher::new`].
    pub fn with_parts(settings: FetchSettings, parts: FetcherParts) -> Result<Fetcher, FetchError> {
        // the client would panic on it at the first request
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
                reason: format!("no threads for look-ups: {e}"),
            })?;
        let lookup = Arc::new(lookup);
        let client = client::client(&settings, lookup.clone(), parts.roots)?;
        let gate = Gate::new(HostTable::new(
            settings.host_concurrency.min(u32::MAX as usize) as u32,
            RandomState::new().hash_one(0),
        ));
        Ok(Fetcher { settings, names, lookup, client, gate, careless: Careless::default() })
    }

    /// May a request to `host` ([`crate::host_key`]) start now? Never blocks.
    pub fn admit(&self, host: &str) -> HostAdmission {
        self.gate.admit(host)
    }

    /// Why a request to a host that is [`HostAdmission::Cooling`] is not made.
    pub fn resting(&self, host: &str, until: Instant) -> FetchError {
        self.cooling(UrlLocation { host: host.to_owned(), url: String::new() }, until)
    }

    fn cooling(&self, place: UrlLocation, until: Instant) -> FetchError {
        let said = self.gate.last(&place.host);
        FetchError::HostCooling {
            place,
            wait: until.saturating_duration_since(Instant::now()),
            said,
        }
    }

    /// Hosts with requests in flight or cooling, and those asked lately.
    pub fn hosts(&self) -> Vec<HostStatus> {
        self.gate.snapshot()
    }

    /// The pauses that are not over, for the next engine.
    pub fn cooldowns(&self) -> Vec<HostCooldown> {
        self.gate.cooldowns()
    }

    /// Takes over the pauses of the engine before.
    pub fn restore(&self, cooldowns: &[HostCooldown]) {
        self.gate.restore(cooldowns);
    }

    /// Fetches, waiting here while a host is at its cap. A cooling host is an error at once.
    ///
    /// # Errors
    /// Why there are no bytes; see [`FetchError`].
    pub fn fetch(
        &self,
        get: &FetchRequest<'_>,
        reserve: &mut Reserve<'_>,
    ) -> Result<FetchResult, FetchError> {
        match self.run(None, None, get, reserve)? {
            FetchStep::Done(fetched) => Ok(fetched),
            FetchStep::Elsewhere(journey) => {
                let place = journey.target.place().clone();
                Err(if get.cancelled.load(Ordering::Relaxed) {
                    FetchError::Cancelled { place }
                } else {
                    FetchError::HostBusy { place }
                })
            }
        }
    }

    /// Fetches with a permit from [`Fetcher::admit`] for the URL's host, or goes on with a
    /// `journey` with a permit for that one's. Never waits for a host.
    ///
    /// # Errors
    /// Why there are no bytes; see [`FetchError`].
    pub fn fetch_admitted(
        &self,
        permit: HostPermit,
        journey: Option<Box<RedirectedFetch>>,
        get: &FetchRequest<'_>,
        reserve: &mut Reserve<'_>,
    ) -> Result<FetchStep, FetchError> {
        self.run(Some(permit), journey, get, reserve)
    }

    /// Without a permit it waits for each host.
    fn run(
        &self,
        mut permit: Option<HostPermit>,
        journey: Option<Box<RedirectedFetch>>,
        first: &FetchRequest<'_>,
        reserve: &mut Reserve<'_>,
    ) -> Result<FetchStep, FetchError> {
        let (start, waits) = (Instant::now(), permit.is_none());
        let mut get = *first;
        let patience = get.deadline.saturating_duration_since(start);
        let mut journey = match journey {
            Some(journey) => journey,
            None => {
                Box::new(RedirectedFetch::begin(get.url, self.settings.total_timeout, patience)?)
            }
        };
        let limits = Limits {
            connect: self.settings.connect_timeout,
            answer: self.settings.answer_timeout,
            total: self.settings.total_timeout,
            bytes: self.settings.max_bytes,
            room: self.settings.room,
            caller: (patience < journey.left).then_some(journey.patience),
            has_roots: self.client.has_roots,
            proxied: self.settings.proxy.is_some(),
        };
        let _running = attempt::begin(start + journey.left, get.deadline, get.cancelled.clone());
        loop {
            if journey.is_redirected() {
                (get.etag, get.last_modified) = (None, None);
            }
            let target = &journey.target;
            self.check(target, &limits)?;
            let Some(held) = self.permit(permit.take(), target, waits)? else {
                journey.left = attempt::left();
                return Ok(FetchStep::Elsewhere(journey));
            };
            let response = match self.ask(target, &get, &limits) {
                Ok(response) => response,
                Err(e) => return Err(learn(held, e)),
            };
            match self.judge(response, target, &get, &limits, reserve) {
                Ok(Answered::Done(mut fetched)) => {
                    held.finish(HostAnswer::Served("http_200".into()));
                    if let FetchResult::Body { etag, last_modified, .. } = &mut fetched
                        && journey.is_redirected()
                    {
                        (*etag, *last_modified) = (None, None);
                    }
                    return Ok(FetchStep::Done(fetched));
                }
                Ok(Answered::Redirect(location)) => {
                    // given back before the next host is asked for: whoever waits never holds
                    held.finish(HostAnswer::Served("redirect".into()));
                    journey.follow(&location, self.settings.max_redirects)?;
                }
                Err(e) => return Err(learn(held, e)),
            }
        }
    }

    /// What can be said about a target without a connection. Names are judged when they are
    /// resolved, by the connection's own resolver; only a proxy connects by itself, and then what
    /// the name means here is the best there is to judge.
    fn check(&self, target: &Target, limits: &Limits) -> Result<(), FetchError> {
        let place = target.place();
        if !self.names.allow(target.host(), target.port()) {
            return Err(FetchError::ForbiddenHost { place: place.clone() });
        }
        let refused = |e| limits.lookup(e, place);
        if let Some(address) = target.literal() {
            self.lookup.judge(address).map_err(refused)?;
        } else if self.settings.proxy.is_some() {
            match self.lookup.allowed(target.host(), target.port()) {
                // a machine behind a proxy often knows no names of the outside
                Ok(_) | Err(LookupError::Unknown(_) | LookupError::Slow) => {}
                Err(e) => return Err(refused(e)),
            }
        }
        Ok(())
    }

    /// The right to ask this host: the one at hand if it is for it, else another; none while the
    /// host is at its cap, for which it `waits`, or not.
    fn permit(
        &self,
        held: Option<HostPermit>,
        target: &Target,
        waits: bool,
    ) -> Result<Option<HostPermit>, FetchError> {
        let place = target.place();
        if let Some(permit) = held.filter(|p| p.host() == place.host) {
            return Ok(Some(permit));
        }
        let asked = Instant::now();
        match if waits {
            self.gate.wait(&place.host, &attempt::over)
        } else {
            self.gate.admit(&place.host)
        } {
            HostAdmission::Go(permit) => {
                attempt::extend(asked.elapsed());
                Ok(Some(permit))
            }
            HostAdmission::Busy => Ok(None),
            HostAdmission::Cooling { until } => Err(self.cooling(place.clone(), until)),
        }
    }

    /// One request, up to the end of its headers.
    fn ask(
        &self,
        target: &Target,
        get: &FetchRequest<'_>,
        limits: &Limits,
    ) -> Result<Response<ureq::Body>, FetchError> {
        let uri = target.uri()?;
        loop {
            if let Some(over) = limits.over(target.place()) {
                return Err(over);
            }
            let mut request = self.client.agent.get(uri.clone());
            for (name, value) in
                [(header::IF_NONE_MATCH, get.etag), (header::IF_MODIFIED_SINCE, get.last_modified)]
            {
                if let Some(value) = value.and_then(|v| HeaderValue::from_str(v).ok()) {
                    request = request.header(name, value);
                }
            }
            // a host that says more than it announces could answer this request with what was left
            // of another
            let fresh = self.careless.contains(&target.place().host);
            if fresh {
                request = request.header(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // the total limit is kept by the connection (`transport.rs`), because it can be
            // extended while a body waits for memory; the client's own clock stands at the caller's
            // patience
            let request = request
                .config()
                .max_idle_age(if fresh { Duration::ZERO } else { client::IDLE })
                .timeout_global(Some(get.deadline.saturating_duration_since(Instant::now())))
                .timeout_connect(Some(self.settings.connect_timeout.min(attempt::left())))
                .timeout_recv_response(Some(self.settings.answer_timeout))
                .build();
            attempt::take_connected();
            attempt::take_surplus();
            let result = request.call();
            let pooled = !attempt::take_connected();
            if attempt::take_surplus() && (pooled || result.is_ok()) {
                self.careless.add(&target.place().host);
            }
            match result {
                Ok(response) => return Ok(response),
                Err(e) => match limits.explain(e, target.place()) {
                    // a connection from the pool that the server had closed meanwhile says nothing:
                    // ask again with the next one. Each is used up by it, so this ends with a fresh
                    // one.
                    FetchError::Reset { .. } if pooled => {}
                    // neither does what was left on it by the answer before
                    FetchError::NotHttp { .. } | FetchError::HeadersTooLarge { .. } if pooled => {
                        self.careless.add(&target.place().host)
                    }
                    error => return Err(error),
                },
            }
        }
    }

    fn judge(
        &self,
        response: Response<ureq::Body>,
        target: &Target,
        get: &FetchRequest<'_>,
        limits: &Limits,
        reserve: &mut Reserve<'_>,
    ) -> Result<Answered, FetchError> {
        let (head, content) = response.into_parts();
        let place = target.place();
        let conditional = get.etag.is_some() || get.last_modified.is_some();
        match head.status {
            StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => {
                let (bytes, surplus) = body::read(content, &head.headers, limits, place, reserve)?;
                if surplus {
                    self.careless.add(&place.host);
                }
                let (etag, last_modified) = (
                    validator(&head.headers, header::ETAG),
                    validator(&head.headers, header::LAST_MODIFIED),
                );
                Ok(Answered::Done(FetchResult::Body {
                    bytes,
                    etag,
                    last_modified,
                    url_final: place.url.clone(),
                }))
            }
            StatusCode::NOT_MODIFIED if conditional => Ok(Answered::Done(FetchResult::NotModified)),
            status => {
                let text = |name: HeaderName| {
                    head.headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
                };
                if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
                    && let Some(location) = head.headers.get(header::LOCATION)
                {
                    return Ok(Answered::Redirect(location.as_bytes().to_vec()));
                }
                let retry_after = match status.as_u16() {
                    code @ (429 | 503) => text(header::RETRY_AFTER).and_then(|v| {
                        status::retry_after(code, v, text(header::DATE), SystemTime::now())
                    }),
                    _ => None,
                };
                Err(FetchError::Status {
                    place: place.clone(),
                    status: status.as_u16(),
                    retry_after,
                })
            }
        }
    }
}

/// What a response asks for.
enum Answered {
    Done(FetchResult),
    Redirect(Vec<u8>),
}

/// Gives the permit back with what `error` says about the host, and the error with what the host's
/// pause became.
fn learn(permit: HostPermit, mut error: FetchError) -> FetchError {
    use FetchError::*;
    let code = error.code();
    let answer = match &error {
        Status { status: status @ (429 | 503), retry_after, .. } => {
            HostAnswer::Patience { code, wait: *retry_after, certain: *status == 429 }
        }
        Dns { .. } | Connect { .. } | Tls { .. } | Reset { .. } | Proxy { .. } => {
            HostAnswer::Failed(code)
        }
        Timeout { stage, .. } if *stage != crate::error::FetchStage::Caller => {
            HostAnswer::Failed(code)
        }
        Timeout { .. } | Cancelled { .. } | Memory(_) => HostAnswer::Dropped,
        _ => HostAnswer::Served(code),
    };
    let pause: Option<Duration> = permit.finish(answer);
    if let Status { status: 429, retry_after, .. } = &mut error {
        *retry_after = retry_after.or(pause);
    }
    error
}

/// A validator worth keeping for the next time.
fn validator(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|v| !v.is_empty() && v.len() <= MAX_VALIDATOR)
        .map(str::to_owned)
}
