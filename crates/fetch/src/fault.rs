//! Translates the errors of the HTTP client. The only module that knows ureq's errors.

use crate::attempt;
use crate::error::{FetchError, FetchStage, UrlLocation};
use crate::lookup::LookupError;
use std::io;
use std::time::Duration;

/// The limits that a failure may have to name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
    pub(crate) total: Duration,
    pub(crate) rate_window: Duration,
    pub(crate) window_bytes: u64,
    pub(crate) bytes: u64,
    /// The largest possible reservation.
    pub(crate) room: u64,
    /// The caller's time, if it was shorter than `total`.
    pub(crate) caller: Option<Duration>,
    /// Whether the client has certificate authorities.
    pub(crate) has_roots: bool,
    /// Whether a proxy connects, so that connection errors are its errors.
    pub(crate) proxied: bool,
}

impl Limits {
    /// The error of a fetch that was cancelled or exceeded its deadline.
    pub(crate) fn over(&self, location: &UrlLocation) -> Option<FetchError> {
        if attempt::cancelled() {
            return Some(FetchError::Cancelled { location: location.clone() });
        }
        if attempt::displaced() {
            return Some(FetchError::Displaced { location: location.clone() });
        }
        if attempt::is_slow() {
            let (bytes, window) = (self.window_bytes, self.rate_window);
            return Some(FetchError::TooSlow { location: location.clone(), bytes, window });
        }
        attempt::left().is_zero().then(|| match self.caller {
            Some(limit) => {
                FetchError::Timeout { location: location.clone(), stage: FetchStage::Caller, limit }
            }
            None => FetchError::Timeout {
                location: location.clone(),
                stage: FetchStage::Total,
                limit: self.total,
            },
        })
    }

    /// Translates an error at `location`.
    pub(crate) fn explain(&self, error: ureq::Error, location: &UrlLocation) -> FetchError {
        match self.direct(error, location) {
            FetchError::Connect { location, reason } | FetchError::Dns { location, reason }
                if self.proxied =>
            {
                FetchError::Proxy { location, reason }
            }
            error => error,
        }
    }

    fn direct(&self, error: ureq::Error, location: &UrlLocation) -> FetchError {
        // A look-up that was not started: the host is not to blame for the time in line.
        if let ureq::Error::Other(other) = &error
            && let Some(LookupError::Busy) = other.downcast_ref::<LookupError>()
            && !attempt::displaced()
        {
            return self.lookup(LookupError::Busy, location);
        }
        if let Some(over) = self.over(location) {
            return over;
        }
        let location = location.clone();
        let reason = error.to_string();
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                FetchError::Timeout { location, stage: FetchStage::Connect, limit: self.connect }
            }
            ureq::Error::Timeout(ureq::Timeout::RecvResponse) => {
                FetchError::Timeout { location, stage: FetchStage::Answer, limit: self.answer }
            }
            ureq::Error::Timeout(_) => {
                FetchError::Timeout { location, stage: FetchStage::Total, limit: self.total }
            }
            ureq::Error::Other(other) => match other.downcast::<LookupError>() {
                Ok(lookup) => self.lookup(*lookup, &location),
                Err(_) => FetchError::Connect { location, reason },
            },
            ureq::Error::Io(e) => self.io(e, location),
            ureq::Error::HostNotFound => FetchError::Dns { location, reason },
            ureq::Error::ConnectionFailed => FetchError::Connect { location, reason },
            ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::TlsRequired
            | ureq::Error::Pem(_) => self.tls(reason, location),
            ureq::Error::LargeResponseHeader(..)
            | ureq::Error::Protocol(ureq_proto::Error::HttpParseTooManyHeaders) => {
                FetchError::HeadersTooLarge { location }
            }
            ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => {
                FetchError::Proxy { location, reason }
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                FetchError::BadUrl { shown: location.url, reason }
            }
            _ => FetchError::NotHttp { location, reason },
        }
    }

    /// Translates a refused or failed look-up.
    pub(crate) fn lookup(&self, error: LookupError, location: &UrlLocation) -> FetchError {
        let at = location.clone();
        match error {
            LookupError::Unknown(reason) => FetchError::Dns { location: at, reason },
            LookupError::Forbidden(address, what) => {
                FetchError::ForbiddenAddress { location: at, address: address.to_string(), what }
            }
            LookupError::Busy => FetchError::LookupBusy { location: at },
            LookupError::Slow => self.over(location).unwrap_or(FetchError::Timeout {
                location: at,
                stage: FetchStage::Resolve,
                limit: self.connect,
            }),
            // Normally `over` finds the reason; if the clock differs, it was the total limit.
            LookupError::FetchEnded => self.over(location).unwrap_or(FetchError::Timeout {
                location: at,
                stage: FetchStage::Total,
                limit: self.total,
            }),
        }
    }

    /// Translates an error while reading a body, of the client or of decompression.
    pub(crate) fn read(&self, error: io::Error, location: &UrlLocation) -> FetchError {
        match error.kind() {
            io::ErrorKind::FileTooLarge => FetchError::TooLarge {
                location: location.clone(),
                limit: self.bytes,
                declared: None,
            },
            // flate2: not gzip, or a wrong checksum.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
                if error.get_ref().is_none_or(|e| !e.is::<rustls::Error>()) =>
            {
                FetchError::BadEncoding { location: location.clone(), reason: error.to_string() }
            }
            _ => self.explain(error.into(), location),
        }
    }

    fn tls(&self, reason: String, location: UrlLocation) -> FetchError {
        let fault = attempt::certificate();
        FetchError::Tls { location, reason, no_roots: !self.has_roots, fault }
    }

    fn io(&self, error: io::Error, location: UrlLocation) -> FetchError {
        use io::ErrorKind::*;
        let reason = error.to_string();
        // rustls reports handshake errors as I/O errors.
        if error.get_ref().is_some_and(|e| e.is::<rustls::Error>()) {
            return self.tls(reason, location);
        }
        match error.kind() {
            ConnectionRefused | HostUnreachable | NetworkUnreachable | NetworkDown
            | AddrNotAvailable | PermissionDenied | AddrInUse => {
                FetchError::Connect { location, reason }
            }
            TimedOut | WouldBlock => {
                FetchError::Timeout { location, stage: FetchStage::Total, limit: self.total }
            }
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => {
                FetchError::Reset { location, reason }
            }
            _ => FetchError::Connect { location, reason },
        }
    }
}
