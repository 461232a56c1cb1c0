//! What an error of the HTTP client means. The one place that knows ureq's errors.

use crate::attempt;
use crate::error::{FetchError, FetchStage, UrlLocation};
use crate::lookup::LookupError;
use std::io;
use std::time::Duration;

/// The limits a failure may have to name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
    pub(crate) total: Duration,
    pub(crate) bytes: u64,
    /// The most that can ever be reserved.
    pub(crate) room: u64,
    /// The caller's patience was shorter than `total`: this much.
    pub(crate) caller: Option<Duration>,
    /// The client knows certificate authorities.
    pub(crate) has_roots: bool,
    /// A proxy makes the connections, so failing to make one is its failure.
    pub(crate) proxied: bool,
}

impl Limits {
    /// The fetch was cut short by its caller or its deadline, if it was.
    pub(crate) fn over(&self, place: &UrlLocation) -> Option<FetchError> {
        if attempt::cancelled() {
            return Some(FetchError::Cancelled { place: place.clone() });
        }
        attempt::left().is_zero().then(|| match self.caller {
            Some(limit) => {
                FetchError::Timeout { place: place.clone(), stage: FetchStage::Caller, limit }
            }
            None => FetchError::Timeout {
                place: place.clone(),
                stage: FetchStage::Total,
                limit: self.total,
            },
        })
    }

    /// What `error` means at `place`.
    pub(crate) fn explain(&self, error: ureq::Error, place: &UrlLocation) -> FetchError {
        match self.direct(error, place) {
            FetchError::Connect { place, reason } | FetchError::Dns { place, reason }
                if self.proxied =>
            {
                FetchError::Proxy { place, reason }
            }
            error => error,
        }
    }

    fn direct(&self, error: ureq::Error, place: &UrlLocation) -> FetchError {
        if let Some(over) = self.over(place) {
            return over;
        }
        let place = place.clone();
        let reason = error.to_string();
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                FetchError::Timeout { place, stage: FetchStage::Connect, limit: self.connect }
            }
            ureq::Error::Timeout(ureq::Timeout::RecvResponse) => {
                FetchError::Timeout { place, stage: FetchStage::Answer, limit: self.answer }
            }
            ureq::Error::Timeout(_) => {
                FetchError::Timeout { place, stage: FetchStage::Total, limit: self.total }
            }
            ureq::Error::Other(other) => match other.downcast::<LookupError>() {
                Ok(lookup) => self.lookup(*lookup, &place),
                Err(_) => FetchError::Connect { place, reason },
            },
            ureq::Error::Io(e) => self.io(e, place),
            ureq::Error::HostNotFound => FetchError::Dns { place, reason },
            ureq::Error::ConnectionFailed => FetchError::Connect { place, reason },
            ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::TlsRequired
            | ureq::Error::Pem(_) => self.tls(reason, place),
            ureq::Error::LargeResponseHeader(..)
            | ureq::Error::Protocol(ureq_proto::Error::HttpParseTooManyHeaders) => {
                FetchError::HeadersTooLarge { place }
            }
            ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => {
                FetchError::Proxy { place, reason }
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                FetchError::BadUrl { shown: place.url, reason }
            }
            _ => FetchError::NotHttp { place, reason },
        }
    }

    /// What a refused or failed look-up means.
    pub(crate) fn lookup(&self, error: LookupError, place: &UrlLocation) -> FetchError {
        let at = place.clone();
        match error {
            LookupError::Unknown(reason) => FetchError::Dns { place: at, reason },
            LookupError::Forbidden(address, what) => {
                FetchError::ForbiddenAddress { place: at, address: address.to_string(), what }
            }
            LookupError::Slow => self.over(place).unwrap_or(FetchError::Timeout {
                place: at,
                stage: FetchStage::Resolve,
                limit: self.connect,
            }),
            // by the time it is explained the reason has come true; if the clock disagrees, it is
            // our own limit
            LookupError::GivenUp => self.over(place).unwrap_or(FetchError::Timeout {
                place: at,
                stage: FetchStage::Total,
                limit: self.total,
            }),
        }
    }

    /// What an error while reading a body means: the client's, or the inflater's.
    pub(crate) fn read(&self, error: io::Error, place: &UrlLocation) -> FetchError {
        match error.kind() {
            io::ErrorKind::FileTooLarge => {
                FetchError::TooLarge { place: place.clone(), limit: self.bytes, declared: None }
            }
            // flate2: not gzip, or a broken check sum
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
                if error.get_ref().is_none_or(|e| !e.is::<rustls::Error>()) =>
            {
                FetchError::BadEncoding { place: place.clone(), reason: error.to_string() }
            }
            _ => self.explain(error.into(), place),
        }
    }

    fn tls(&self, reason: String, place: UrlLocation) -> FetchError {
        FetchError::Tls { place, reason, no_roots: !self.has_roots }
    }

    fn io(&self, error: io::Error, place: UrlLocation) -> FetchError {
        use io::ErrorKind::*;
        let reason = error.to_string();
        // rustls speaks through io errors during the handshake
        if error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) {
            return self.tls(reason, place);
        }
        match error.kind() {
            ConnectionRefused | HostUnreachable | NetworkUnreachable | NetworkDown
            | AddrNotAvailable | PermissionDenied | AddrInUse => {
                FetchError::Connect { place, reason }
            }
            TimedOut | WouldBlock => {
                FetchError::Timeout { place, stage: FetchStage::Total, limit: self.total }
            }
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => {
                FetchError::Reset { place, reason }
            }
            _ => FetchError::Connect { place, reason },
        }
    }
}
