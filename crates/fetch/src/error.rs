//! Everything that can go wrong with a fetch, and what each of it means for the row that asked.
//!
//! Class, code and hint hang on the variant; nobody looks into the words. No variant holds a raw
//! URL: [`UrlLocation`] is made by `target.rs`, which removes what may be secret.

use pg_caption_wire::{Failure, FailureClass};
use std::time::{Duration, SystemTime};

/// Where it happened, safe to show to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlLocation {
    /// `name:port`, the key under which the host is scheduled; empty where the URL names no host.
    pub host: String,
    /// The URL without user, password, fragment and the values of its query.
    pub url: String,
}

/// Which limit of time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchStage {
    /// Looking the name up.
    Resolve,
    /// Connecting, TLS included.
    Connect,
    /// Waiting for the answer's first byte and its headers.
    Answer,
    /// Everything together: `pg_caption.fetch_timeout`.
    Total,
    /// The caller's own patience: `pg_caption.timeout`.
    Caller,
}

/// Why a URL did not become bytes.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs)] // the fields are the facts named in each message
pub enum FetchError {
    #[error("the URL cannot be used: {reason}")]
    BadUrl { shown: String, reason: String },
    #[error("the URL cannot be used: it is not a whole URL")]
    RelativeUrl { shown: String },
    #[error("only http and https URLs are fetched, not {scheme}:")]
    Scheme { shown: String, scheme: String },
    #[error("the URL carries a user name or password")]
    Credentials { place: UrlLocation },
    #[error("host {} is not among the allowed hosts", place.host)]
    ForbiddenHost { place: UrlLocation },
    #[error("{} is at {address}, which is not a public address ({what})", place.host)]
    ForbiddenAddress { place: UrlLocation, address: String, what: &'static str },
    #[error("the name of {} could not be looked up", place.host)]
    Dns { place: UrlLocation, reason: String },
    #[error("no connection to {}", place.host)]
    Connect { place: UrlLocation, reason: String },
    #[error("no secure connection to {}", place.host)]
    Tls { place: UrlLocation, reason: String, no_roots: bool },
    #[error("{} broke the connection off", place.host)]
    Reset { place: UrlLocation, reason: String },
    #[error("{} took too long", place.host)]
    Timeout { place: UrlLocation, stage: FetchStage, limit: Duration },
    #[error("{} answered with status {status}", place.host)]
    Status { place: UrlLocation, status: u16, retry_after: Option<Duration> },
    #[error("the image is larger than {limit} bytes")]
    TooLarge { place: UrlLocation, limit: u64, declared: Option<u64> },
    #[error("more than {limit} redirects")]
    TooManyRedirects { place: UrlLocation, limit: u32 },
    #[error("the redirects of {} go in a circle", place.host)]
    RedirectLoop { place: UrlLocation },
    #[error("{} redirects from https to http", place.host)]
    InsecureRedirect { place: UrlLocation },
    #[error("{} redirects to something that cannot be fetched", place.host)]
    BadRedirect {
        place: UrlLocation,
        #[source]
        cause: Box<FetchError>,
    },
    #[error("{} does not answer in HTTP", place.host)]
    NotHttp { place: UrlLocation, reason: String },
    #[error("{} sends more headers than anybody needs", place.host)]
    HeadersTooLarge { place: UrlLocation },
    #[error("the body is encoded in a way that cannot be undone")]
    BadEncoding { place: UrlLocation, reason: String },
    #[error("the image is cut off: its compressed body ends early")]
    Truncated { place: UrlLocation },
    #[error("the proxy did not connect to {}", place.host)]
    Proxy { place: UrlLocation, reason: String },
    #[error("host {} asked for patience", place.host)]
    HostCooling { place: UrlLocation, wait: Duration, said: Option<String> },
    #[error("host {} is at its limit of concurrent requests", place.host)]
    HostBusy { place: UrlLocation },
    #[error("nobody waits for the answer any more")]
    Cancelled { place: UrlLocation },
    #[error("{}", .0.message)]
    Memory(Box<Failure>),
    #[error("{setting} cannot be used: {reason}")]
    Setting { setting: &'static str, reason: String },
}

impl FetchError {
    /// What the failure means for the caller (the table in `ARCHITECTURE.md`).
    pub fn class(&self) -> FailureClass {
        use FetchError::*;
        match self {
            BadUrl { .. }
            | RelativeUrl { .. }
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
            | Proxy { .. }
            | Cancelled { .. } => FailureClass::Retry,
            HostCooling { .. } | HostBusy { .. } => FailureClass::Host,
            Memory(failure) => failure.class,
            Setting { .. } => FailureClass::Engine,
        }
    }

    /// Short and stable, for grouping.
    pub fn code(&self) -> String {
        use FetchError::*;
        match self {
            BadUrl { .. } | RelativeUrl { .. } => "bad_url",
            Scheme { .. } => "bad_scheme",
            Credentials { .. } => "url_credentials",
            ForbiddenHost { .. } => "forbidden_host",
            ForbiddenAddress { .. } => "forbidden_address",
            Dns { .. } => "dns",
            Connect { .. } => "connect",
            Tls { .. } => "tls",
            Reset { .. } => "reset",
            Timeout { .. } => "timeout",
            Status { status, .. } => return format!("http_{status}"),
            TooLarge { .. } => "too_large",
            TooManyRedirects { .. } => "too_many_redirects",
            RedirectLoop { .. } => "redirect_loop",
            InsecureRedirect { .. } => "insecure_redirect",
            // what is wrong with the redirect is what users group by
            BadRedirect { cause, .. } => return cause.code(),
            NotHttp { .. } => "not_http",
            HeadersTooLarge { .. } => "headers_too_large",
            BadEncoding { .. } => "bad_encoding",
            // as of a picture that is cut off without being compressed
            Truncated { .. } => "image_truncated",
            Proxy { .. } => "proxy",
            HostCooling { .. } => "host_cooling",
            HostBusy { .. } => "host_busy",
            Cancelled { .. } => "cancelled",
            Memory(failure) => return failure.code.clone(),
            Setting { .. } => "bad_setting",
        }
        .into()
    }

    /// The failure as it travels to the caller.
    pub fn failure(&self) -> Failure {
        if let FetchError::Memory(failure) = self {
            return Failure::clone(failure);
        }
        let class = self.class();
        let mut failure = Failure::new(class, self.code(), self.to_string());
        failure.detail = Some(self.detail()).filter(|d| !d.is_empty());
        failure.hint = self.hint();
        failure.host = match class {
            FailureClass::Host => self.place().map(|p| p.host.clone()),
            _ => None,
        };
        failure.retry_after_ms = self.retry_after().map(|d| d.as_millis() as u64);
        failure
    }

    /// When asking the host again makes sense, where it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            FetchError::Status { retry_after, .. } => *retry_after,
            FetchError::HostCooling { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// Where it happened, if a host was involved.
    pub fn place(&self) -> Option<&UrlLocation> {
        use FetchError::*;
        match self {
            BadUrl { .. } | RelativeUrl { .. } | Scheme { .. } | Memory(_) | Setting { .. } => None,
            Credentials { place }
            | ForbiddenHost { place }
            | ForbiddenAddress { place, .. }
            | Dns { place, .. }
            | Connect { place, .. }
            | Tls { place, .. }
            | Reset { place, .. }
            | Timeout { place, .. }
            | Status { place, .. }
            | TooLarge { place, .. }
            | TooManyRedirects { place, .. }
            | RedirectLoop { place }
            | InsecureRedirect { place }
            | BadRedirect { place, .. }
            | NotHttp { place, .. }
            | HeadersTooLarge { place }
            | BadEncoding { place, .. }
            | Truncated { place }
            | Proxy { place, .. }
            | HostCooling { place, .. }
            | HostBusy { place }
            | Cancelled { place } => Some(place),
        }
    }

    fn detail(&self) -> String {
        use FetchError::*;
        let url = self.place().map(|p| p.url.as_str()).unwrap_or_default();
        match self {
            BadUrl { shown, .. } | RelativeUrl { shown } | Scheme { shown, .. } => {
                format!("URL: {shown}")
            }
            Setting { .. } | Memory(_) => String::new(),
            Dns { reason, .. }
            | Connect { reason, .. }
            | Tls { reason, .. }
            | Reset { reason, .. }
            | NotHttp { reason, .. }
            | BadEncoding { reason, .. }
            | Proxy { reason, .. } => format!("URL: {url}; {reason}"),
            Timeout { stage, limit, .. } => {
                let what = match stage {
                    FetchStage::Resolve => "the name was not looked up",
                    FetchStage::Connect => "no connection",
                    FetchStage::Answer => "no answer",
                    FetchStage::Total => "the image was not complete",
                    FetchStage::Caller => {
                        "the image was not complete when the caller's time ended,"
                    }
                };
                format!("URL: {url}; {what} after {:.1} s", limit.as_secs_f64())
            }
            Status { retry_after: Some(wait), .. } => {
                format!("URL: {url}; it is left alone {}", rest(*wait))
            }
            HostCooling { wait, said, .. } => {
                let asked = if url.is_empty() { String::new() } else { format!("URL: {url}; ") };
                let said = said
                    .as_deref()
                    .map(|code| format!("; its last answer was {code}"))
                    .unwrap_or_default();
                format!("{asked}it is left alone {}{said}", rest(*wait))
            }
            TooLarge { declared: Some(bytes), .. } => {
                format!("URL: {url}; the server announces {bytes} bytes")
            }
            BadRedirect { cause, .. } => format!("URL: {url}; {cause} ({})", cause.detail()),
            Status { status: 301 | 302 | 303 | 307 | 308, .. } => {
                format!("URL: {url}; the image has moved, but the server does not say where to")
            }
            _ => format!("URL: {url}"),
        }
    }

    fn hint(&self) -> Option<String> {
        use FetchError::*;
        let hint = match self {
            BadUrl { .. } => "Give a whole URL such as https://cdn.example.com/p/42.jpg.",
            RelativeUrl { .. } => {
                "Give a whole URL such as https://cdn.example.com/p/42.jpg. Where a table holds paths, watch a column that puts the host in front: \
                 ALTER TABLE products ADD image_url text GENERATED ALWAYS AS ('https://cdn.example.com' || image_path) STORED."
            }
            Scheme { .. } => {
                "For a picture that is not on the web, call caption_image with its bytes (bytea)."
            }
            Credentials { .. } => {
                "Remove user and password from the URL; use a signed URL if the picture is protected."
            }
            ForbiddenHost { .. } => "A superuser can add the host to \"pg_caption.allowed_hosts\".",
            ForbiddenAddress { .. } => {
                "If this is meant, a superuser can add the network to \"pg_caption.allowed_networks\"."
            }
            Tls { no_roots: true, .. } => {
                "No certificate authorities are installed on this server: install the package ca-certificates."
            }
            Tls { .. } => {
                "Check the server's certificate, or install its authority in this server's certificate store."
            }
            Timeout { stage: FetchStage::Resolve | FetchStage::Connect, .. } => {
                "See \"pg_caption.connect_timeout\"."
            }
            Timeout { stage: FetchStage::Total, .. } => "See \"pg_caption.fetch_timeout\".",
            Timeout { stage: FetchStage::Caller, .. } => "See \"pg_caption.timeout\".",
            TooLarge { .. } => "See \"pg_caption.max_image_size\".",
            TooManyRedirects { .. } => "See \"pg_caption.max_redirects\".",
            InsecureRedirect { .. } => {
                "Store the http URL itself if an unprotected connection is acceptable."
            }
            BadRedirect { cause, .. } => return cause.hint(),
            HostBusy { .. } => "See \"pg_caption.host_concurrency\".",
            Proxy { .. } => "See \"pg_caption.proxy\".",
            HostCooling { .. }
            | Status { status: 429, .. }
            | Status { retry_after: Some(_), .. } => {
                "Nothing need be done; SELECT * FROM caption.host shows which hosts rest and until when."
            }
            Status { status: 401 | 403, .. } => "The picture must be readable without signing in.",
            _ => return None,
        };
        Some(hint.into())
    }
}

/// How long a host rests, and until when.
fn rest(wait: Duration) -> String {
    let until = httpdate::fmt_http_date(SystemTime::now() + wait);
    format!("for {} s, until {until}", wait.as_secs_f64().ceil())
}
