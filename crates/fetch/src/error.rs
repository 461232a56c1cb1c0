//! The errors of a fetch, and what each means for the row or call that requested it.
//!
//! Class, code and hint depend on the variant, never on a text. No variant contains a raw URL:
//! `target.rs` makes each [`UrlLocation`] and removes what may be secret.

use crate::oddity::{UrlOddity, mistake_hint};
use crate::target::location_text;
use crate::tls::CertificateFault;
use pg_caption_wire::{CALL_AGAIN, Failure, FailureClass, PAUSED, UrlMistake};
use std::time::{Duration, SystemTime};

/// When a look-up that was not started is worth another attempt.
const LOOKUP_PAUSE: Duration = Duration::from_secs(15);

/// The URL and host of an error, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlLocation {
    /// `name:port`, the key of the host; empty if the URL names no host.
    pub host: String,
    /// The URL without user, password, fragment and the values of its query; may be empty.
    pub url: String,
}

/// Which time limit passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchStage {
    /// Looking up the name.
    Resolve,
    /// Connecting, TLS included.
    Connect,
    /// Waiting for the status line and the headers.
    Answer,
    /// The whole fetch: `pg_caption.fetch_timeout`.
    Total,
    /// The caller's own time: `pg_caption.timeout`.
    Caller,
}

/// Why a URL was not fetched.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs)] // the fields are the facts named in each message
pub enum FetchError {
    #[error("the URL cannot be used: {reason}")]
    BadUrl { shown: String, reason: String },
    #[error("the URL cannot be used: it is not a whole URL")]
    RelativeUrl { shown: String },
    #[error("the URL cannot be used: {}", what_it_is(*mistake))]
    NotOneUrl { shown: String, mistake: UrlMistake },
    #[error("URL scheme \"{scheme}\" is not supported")]
    Scheme { shown: String, scheme: String },
    #[error("the URL contains a user name or password")]
    Credentials { location: UrlLocation },
    #[error("host {} is not among the allowed hosts", location.host)]
    ForbiddenHost { location: UrlLocation },
    #[error("host {} has the address {address}, which is not public ({what})", location.host)]
    ForbiddenAddress { location: UrlLocation, address: String, what: &'static str },
    #[error("could not look up host {}", location.host)]
    Dns { location: UrlLocation, reason: String },
    #[error("could not connect to host {}", location.host)]
    Connect { location: UrlLocation, reason: String },
    #[error("could not establish a secure connection to host {}", location.host)]
    Tls { location: UrlLocation, reason: String, no_roots: bool, fault: Option<CertificateFault> },
    #[error("host {} closed the connection", location.host)]
    Reset { location: UrlLocation, reason: String },
    #[error("host {} took too long", location.host)]
    Timeout { location: UrlLocation, stage: FetchStage, limit: Duration },
    #[error("host {} took too long", location.host)]
    TooSlow { location: UrlLocation, bytes: u64, window: Duration },
    #[error("host {} answered with status {status}", location.host)]
    Status {
        location: UrlLocation,
        status: u16,
        retry_after: Option<Duration>,
        oddity: Option<UrlOddity>,
    },
    #[error("the image is larger than {limit} bytes")]
    TooLarge { location: UrlLocation, limit: u64, declared: Option<u64> },
    #[error("more than {limit} redirects")]
    TooManyRedirects { location: UrlLocation, limit: u32 },
    #[error("the redirects of host {} form a loop", location.host)]
    RedirectLoop { location: UrlLocation, with_cookie: bool },
    #[error("host {} redirects from https to http", location.host)]
    InsecureRedirect { location: UrlLocation },
    #[error("host {} redirects to a URL that cannot be fetched", location.host)]
    BadRedirect {
        location: UrlLocation,
        #[source]
        cause: Box<FetchError>,
    },
    #[error("host {} does not answer in HTTP", location.host)]
    NotHttp { location: UrlLocation, reason: String },
    #[error("host {} sends too many headers", location.host)]
    HeadersTooLarge { location: UrlLocation },
    #[error("the content encoding of the image cannot be decoded")]
    BadEncoding { location: UrlLocation, reason: String },
    #[error("the image is truncated: its compressed body ends early")]
    Truncated { location: UrlLocation },
    #[error("the proxy did not connect to host {}", location.host)]
    Proxy { location: UrlLocation, reason: String },
    #[error("host {} asked for a pause", location.host)]
    HostCooling { location: UrlLocation, wait: Duration, last: Option<String> },
    #[error("host {} is at its limit of concurrent requests", location.host)]
    HostBusy { location: UrlLocation },
    #[error("host {} was not looked up: its name servers are slow", location.host)]
    LookupBusy { location: UrlLocation },
    #[error("host {} was interrupted: other requests need the memory", location.host)]
    Displaced { location: UrlLocation },
    #[error("the request was cancelled")]
    Cancelled { location: UrlLocation },
    #[error("{}", .0.message)]
    Memory(Box<Failure>),
    #[error("{setting} cannot be used: {reason}")]
    Setting { setting: &'static str, reason: String },
}

/// The errors that concern one location, but for `BadRedirect`, which has a cause, too: a pattern.
macro_rules! located {
    ($location:ident) => {
        Credentials { $location }
            | ForbiddenHost { $location }
            | ForbiddenAddress { $location, .. }
            | Dns { $location, .. }
            | Connect { $location, .. }
            | Tls { $location, .. }
            | Reset { $location, .. }
            | Timeout { $location, .. }
            | Status { $location, .. }
            | TooLarge { $location, .. }
            | TooManyRedirects { $location, .. }
            | RedirectLoop { $location, .. }
            | InsecureRedirect { $location }
            | NotHttp { $location, .. }
            | HeadersTooLarge { $location }
            | BadEncoding { $location, .. }
            | Truncated { $location }
            | Proxy { $location, .. }
            | HostCooling { $location, .. }
            | HostBusy { $location }
            | TooSlow { $location, .. }
            | LookupBusy { $location }
            | Displaced { $location }
            | Cancelled { $location }
    };
}

impl FetchError {
    /// What the failure means for the caller.
    pub fn class(&self) -> FailureClass {
        use FetchError::*;
        match self {
            BadUrl { .. }
            | RelativeUrl { .. }
            | NotOneUrl { .. }
            | Scheme { .. }
            | Credentials { .. }
            | ForbiddenHost { .. }
            | ForbiddenAddress { .. } => FailureClass::Reject,
            TooLarge { .. }
            | TooManyRedirects { .. }
            | RedirectLoop { .. }
            | InsecureRedirect { .. }
            | BadRedirect { .. } => FailureClass::Reject,
            NotHttp { .. } | HeadersTooLarge { .. } | BadEncoding { .. } | Truncated { .. } => {
                FailureClass::Reject
            }
            Status { status, retry_after, .. } => {
                crate::status::class(*status, retry_after.is_some())
            }
            Dns { .. }
            | Connect { .. }
            | Tls { .. }
            | Reset { .. }
            | Timeout { .. }
            | TooSlow { .. }
            | Proxy { .. }
            | Cancelled { .. } => FailureClass::Retry,
            HostCooling { .. } | HostBusy { .. } | LookupBusy { .. } | Displaced { .. } => {
                FailureClass::Host
            }
            Memory(failure) => failure.class,
            Setting { .. } => FailureClass::Engine,
        }
    }

    /// The stable code of the failure, for grouping.
    pub fn code(&self) -> String {
        use FetchError::*;
        match self {
            BadUrl { .. } | RelativeUrl { .. } | NotOneUrl { .. } => "bad_url",
            Scheme { .. } => "bad_scheme",
            Credentials { .. } => "url_credentials",
            ForbiddenHost { .. } => "forbidden_host",
            ForbiddenAddress { .. } => "forbidden_address",
            Dns { .. } => "dns",
            Connect { .. } => "connect",
            Tls { .. } => "tls",
            Reset { .. } => "reset",
            Timeout { .. } | TooSlow { .. } => "timeout",
            Status { status: 304, .. } => "unexpected_304",
            Status { status, .. } => return format!("http_{status}"),
            TooLarge { .. } => "too_large",
            TooManyRedirects { .. } => "too_many_redirects",
            RedirectLoop { .. } => "redirect_loop",
            InsecureRedirect { .. } => "insecure_redirect",
            // Users group by the fault of the redirect's target.
            BadRedirect { cause, .. } => return cause.code(),
            NotHttp { .. } => "not_http",
            HeadersTooLarge { .. } => "headers_too_large",
            BadEncoding { .. } => "bad_encoding",
            // The code of a truncated picture without compression.
            Truncated { .. } => "image_truncated",
            Proxy { .. } => "proxy",
            HostCooling { .. } => "host_cooling",
            HostBusy { .. } | Displaced { .. } => "host_busy",
            LookupBusy { .. } => "lookup_busy",
            Cancelled { .. } => "cancelled",
            Memory(failure) => return failure.code.clone(),
            Setting { .. } => "bad_setting",
        }
        .into()
    }

    /// The failure for the caller.
    pub fn failure(&self) -> Failure {
        if let FetchError::Memory(failure) = self {
            return Failure::clone(failure);
        }
        let class = self.class();
        let mut failure = Failure::new(class, self.code(), self.to_string());
        failure.detail = Some(self.detail()).filter(|d| !d.is_empty());
        failure.hint = self.hint();
        failure.host = match class {
            FailureClass::Host => self.location().map(|location| location.host.clone()),
            _ => None,
        };
        failure.retry_after_ms = self.retry_after().map(|d| d.as_millis() as u64);
        failure
    }

    /// The pause that the host asked for, if it stated one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            FetchError::Status { retry_after, .. } => *retry_after,
            FetchError::HostCooling { wait, .. } => Some(*wait),
            FetchError::LookupBusy { .. } => Some(LOOKUP_PAUSE),
            _ => None,
        }
    }

    /// The location, if a host was involved.
    pub fn location(&self) -> Option<&UrlLocation> {
        use FetchError::*;
        match self {
            BadUrl { .. }
            | RelativeUrl { .. }
            | NotOneUrl { .. }
            | Scheme { .. }
            | Memory(_)
            | Setting { .. } => None,
            BadRedirect { location, .. } | located!(location) => Some(location),
        }
    }

    /// The same error, which shows `text` instead of the URL: a signed URL is a secret.
    pub fn showing(mut self, text: Option<&str>) -> FetchError {
        if let Some(text) = text {
            self.show(text);
        }
        self
    }

    fn show(&mut self, text: &str) {
        use FetchError::*;
        match self {
            Memory(_) | Setting { .. } => {}
            BadUrl { shown, .. }
            | RelativeUrl { shown }
            | NotOneUrl { shown, .. }
            | Scheme { shown, .. } => {
                *shown = text.into();
            }
            BadRedirect { location, cause } => {
                location.url = text.into();
                cause.show(text);
            }
            located!(location) => location.url = text.into(),
        }
    }

    /// Whole sentences; empty if there is nothing to add.
    fn detail(&self) -> String {
        use FetchError::*;
        let url = self.location().map(|location| location.url.as_str()).unwrap_or_default();
        match self {
            BadUrl { shown, .. }
            | RelativeUrl { shown }
            | NotOneUrl { shown, .. }
            | Scheme { shown, .. } => the_url(shown),
            Setting { .. } | Memory(_) => String::new(),
            Dns { reason, .. }
            | Connect { reason, .. }
            | Tls { reason, .. }
            | Reset { reason, .. }
            | NotHttp { reason, .. }
            | BadEncoding { reason, .. }
            | Proxy { reason, .. } => sentences(url, format!("The cause was: {reason}.")),
            Timeout { stage, limit, .. } => {
                let what = match stage {
                    FetchStage::Resolve => "The name was not looked up",
                    FetchStage::Connect => "There was no connection",
                    FetchStage::Answer => "There was no answer",
                    FetchStage::Total => "The image was not complete",
                    FetchStage::Caller => {
                        "The image was not complete when the caller's time ended,"
                    }
                };
                sentences(url, format!("{what} after {:.1} s.", limit.as_secs_f64()))
            }
            TooSlow { bytes, window, .. } => sentences(
                url,
                format!(
                    "In {:.0} s fewer than {bytes} bytes of the image arrived.",
                    window.as_secs_f64()
                ),
            ),
            LookupBusy { .. } => sentences(
                url,
                "Other names of this client, or of this zone, are still being looked up.".into(),
            ),
            Status { retry_after: Some(wait), .. } => sentences(url, pause(*wait)),
            HostCooling { wait, last, .. } => {
                let last = last.as_deref().map(|code| format!(" Its last answer was {code}."));
                sentences(url, pause(*wait) + &last.unwrap_or_default())
            }
            TooLarge { declared: Some(bytes), .. } => {
                sentences(url, format!("The host announces {bytes} bytes."))
            }
            BadRedirect { cause, .. } => {
                sentences(url, format!("The redirect failed: {cause}. {}", cause.detail()))
            }
            RedirectLoop { with_cookie: true, .. } => sentences(
                url,
                "The host sets a cookie, and redirects again when it is sent.".into(),
            ),
            Status { status: 301 | 302 | 303 | 307 | 308, .. } => sentences(
                url,
                "The image has moved, but the host does not say where it is now.".into(),
            ),
            _ => sentences(url, String::new()),
        }
    }

    fn hint(&self) -> Option<String> {
        use FetchError::*;
        let hint = match self {
            BadUrl { .. } => "Give a whole URL such as https://cdn.example.com/p/42.jpg.",
            RelativeUrl { .. } => {
                "Give a whole URL such as https://cdn.example.com/p/42.jpg. For a table of paths, \
                 watch a generated column that puts the host in front: \
                 ALTER TABLE products ADD image_url text \
                 GENERATED ALWAYS AS ('https://cdn.example.com' || image_path) STORED."
            }
            NotOneUrl { mistake, .. } => mistake_hint(*mistake),
            Scheme { .. } => {
                "Only http and https URLs are fetched. For a picture that is not on the web, call \
                 caption_image with its bytes (bytea)."
            }
            Credentials { .. } => {
                "Remove user and password from the URL. If the picture is protected, use a signed \
                 URL."
            }
            ForbiddenHost { .. } => "A superuser can add the host to \"pg_caption.allowed_hosts\".",
            ForbiddenAddress { .. } => {
                "If this is intended, a superuser can add the network to \
                 \"pg_caption.allowed_networks\"."
            }
            Tls { no_roots: true, .. } => {
                "No certificate authorities are installed on this server. Install the package \
                 ca-certificates."
            }
            Tls { fault, .. } => fault.unwrap_or(CertificateFault::Other).hint(),
            Timeout { stage: FetchStage::Resolve | FetchStage::Connect, .. } => {
                "See \"pg_caption.connect_timeout\"."
            }
            Timeout { stage: FetchStage::Total, .. } | TooSlow { .. } => {
                "See \"pg_caption.fetch_timeout\"."
            }
            LookupBusy { .. } => "Check the name, and the name servers of this machine.",
            Timeout { stage: FetchStage::Caller, .. } => "See \"pg_caption.timeout\".",
            TooLarge { .. } => "See \"pg_caption.max_image_size\".",
            TooManyRedirects { .. } => "See \"pg_caption.max_redirects\".",
            InsecureRedirect { .. } => {
                "Store the http URL itself if an unprotected connection is acceptable."
            }
            BadRedirect { cause, .. } => return cause.hint(),
            RedirectLoop { with_cookie: false, .. } => {
                "Correct the URL, or the redirects of the web server."
            }
            HostBusy { .. } => "See \"pg_caption.host_concurrency\".",
            Displaced { .. } => "Call again later, or raise \"pg_caption.memory\".",
            Setting { setting, .. } => {
                return Some(format!("Correct {setting}, then reload the configuration."));
            }
            Proxy { .. } => "See \"pg_caption.proxy\".",
            HostCooling { .. }
            | Status { status: 429, .. }
            | Status { retry_after: Some(_), .. } => {
                return Some(format!(
                    "{PAUSED} SELECT * FROM caption.host shows paused hosts and the end of each \
                     pause."
                ));
            }
            Status { status: 400..=499, oddity: Some(oddity), .. } => return Some(oddity.hint()),
            Status { status: 401 | 403, .. } => {
                "The picture must be readable without signing in. If the host asks for a referrer, \
                 a user agent, a cookie or a password, a superuser can state them in \
                 \"pg_caption.fetch_headers_file\"."
            }
            RedirectLoop { with_cookie: true, .. } => {
                "The host wants a cookie. A superuser can state it in \
                 \"pg_caption.fetch_headers_file\"."
            }
            Dns { .. } => "Check the name of the host, and the name servers of this machine.",
            Connect { .. }
            | Reset { .. }
            | Cancelled { .. }
            | Timeout { stage: FetchStage::Answer, .. }
            | Status { status: 408 | 425 | 500..=599, .. } => CALL_AGAIN,
            Status { status: 304, .. } => return Failure::unexpected_304().hint,
            Status { .. } => "Correct the URL, or have the host serve the picture there.",
            NotHttp { .. } | HeadersTooLarge { .. } | BadEncoding { .. } => {
                "Correct the URL or the web server."
            }
            Truncated { .. } => "The file was probably not uploaded completely.",
            Memory(failure) => return failure.hint.clone(),
        };
        Some(hint.into())
    }
}

/// A value that is not one URL, as the end of a message.
fn what_it_is(mistake: UrlMistake) -> &'static str {
    match mistake {
        UrlMistake::List => "it is a list or an object",
        UrlMistake::Markup => "it is HTML or Markdown",
        UrlMistake::WindowsPath => "it is a path of Windows",
        UrlMistake::MissingScheme => "it is not a whole URL",
    }
}

/// How a detail begins that names a URL.
const URL_IS: &str = "The URL is ";

fn the_url(url: &str) -> String {
    format!("{URL_IS}\"{url}\".")
}

/// Names the URL in the detail of a failure of the picture at `url`: without user, password
/// and query values, or `shown` in its place. Other failures, and those that name a URL, stay.
pub fn name_url(failure: &mut Failure, url: &str, shown: Option<&str>) {
    let is_of_picture = matches!(
        failure.class,
        FailureClass::Uncertain | FailureClass::Reject | FailureClass::Retry
    );
    let detail = failure.detail.as_deref().unwrap_or_default();
    if is_of_picture && !detail.contains(URL_IS) {
        let text = shown.map_or_else(|| location_text(url), String::from);
        failure.detail = Some(sentences(&text, detail.into())).filter(|text| !text.is_empty());
    }
}

/// The URL, unless it is empty, and what else is known.
fn sentences(url: &str, more: String) -> String {
    let url = if url.is_empty() { String::new() } else { the_url(url) };
    let parts = [url, more];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// How long a host is paused, and until when.
fn pause(wait: Duration) -> String {
    let until = httpdate::fmt_http_date(SystemTime::now() + wait);
    format!("The host is paused for {} s, until {until}.", wait.as_secs_f64().ceil())
}
