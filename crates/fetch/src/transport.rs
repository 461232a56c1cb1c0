//! The HTTP client's connections with this crate's rules: permitted addresses only, deadlines
//! across any number of reads, and cancellation. Everything here uses ureq's `unversioned`
//! interface.

use crate::attempt;
use crate::client::MAX_HEADERS;
use crate::lookup::{Lookup, LookupError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::Duration as Wait;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, TcpConnector, Transport,
};

/// Longest single wait for the network, so that cancellation frees the thread soon.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Most addresses of one host to try; ureq has space for 16.
const MAX_ADDRESSES: usize = 8;

/// Resolves through [`Lookup`]. With a proxy, ureq resolves only the proxy's name; a superuser
/// chose its address.
#[derive(Debug)]
pub(crate) struct PolicyResolver {
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) proxy: Option<Uri>,
}

impl Resolver for PolicyResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let other = |e: LookupError| Error::Other(Box::new(e));
        let host = uri.host().unwrap_or_default();
        let port =
            uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let addresses = match &self.proxy {
            None => self.lookup.allowed(host, port).map_err(other)?,
            Some(proxy) if proxy == uri && config.proxy().is_some() => self
                .lookup
                .all(host)
                .map_err(other)?
                .into_iter()
                .map(|a| (a, port).into())
                .collect(),
            Some(_) => {
                return Err(other(LookupError::Unknown("only the proxy is resolved here".into())));
            }
        };
        let mut result = self.empty();
        addresses.into_iter().take(MAX_ADDRESSES).for_each(|a| result.push(a));
        Ok(result)
    }
}

/// TCP as ureq opens it (to the addresses of the resolver), wrapped in [`DeadlineStream`].
#[derive(Debug, Default)]
pub(crate) struct DeadlineTcp(TcpConnector);

impl<In: Transport> Connector<In> for DeadlineTcp {
    type Out = Either<In, DeadlineStream>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        // A tunnel through the proxy; its TCP connection was made here too.
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        attempt::mark_connected();
        let tcp = Connector::<()>::connect(&self.0, details, None)?;
        Ok(tcp.map(|tcp| Either::B(DeadlineStream(Box::new(tcp)))))
    }
}

/// A connection that fails at the fetch's deadline, however slowly bytes arrive, and when the fetch
/// is cancelled.
#[derive(Debug)]
pub(crate) struct DeadlineStream(Box<dyn Transport>);

impl Transport for DeadlineStream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        // Requests are small and fit into the socket's buffer.
        self.0.transmit_output(amount, until_deadline(timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        await_unless(&mut *self.0, until_deadline(timeout), POLL_INTERVAL, attempt::is_over)
    }

    fn is_open(&mut self) -> bool {
        // The TLS layer checks only the socket, and may not have consumed all bytes read from it.
        self.0.buffers().input().is_empty() && self.0.is_open()
    }
}

/// Waits for input, and looks every `interval` whether the wait is over before its time.
///
/// # Errors
/// As the transport's own wait; a timeout if `is_over`.
pub fn await_unless(
    transport: &mut dyn Transport,
    timeout: NextTimeout,
    interval: Duration,
    is_over: impl Fn() -> bool,
) -> Result<bool, Error> {
    let started = Instant::now();
    loop {
        if is_over() {
            return Err(Error::Timeout(timeout.reason));
        }
        let left = timeout.after.saturating_sub(started.elapsed());
        let slice = NextTimeout { after: Wait::Exact(left.min(interval)), ..timeout };
        match transport.await_input(slice) {
            Err(Error::Timeout(_)) if left > interval => {}
            result => return result,
        }
    }
}

fn until_deadline(timeout: NextTimeout) -> NextTimeout {
    NextTimeout { after: Wait::Exact((*timeout.after).min(attempt::left())), ..timeout }
}

/// The outermost connector: detects bytes after the announced end of a response.
#[derive(Debug, Default)]
pub(crate) struct SurplusDetector;

impl<In: Transport> Connector<In> for SurplusDetector {
    type Out = SurplusStream<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(SurplusStream))
    }
}

/// A connection that fails if headers do not end, and that reports surplus bytes to the [`attempt`]
/// of this thread.
#[derive(Debug)]
pub(crate) struct SurplusStream<T: Transport>(T);

impl<T: Transport> Transport for SurplusStream<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // The buffer is full, which ureq would interpret as the end of the connection.
        let unused = self.0.buffers().input().len();
        if unused >= MAX_HEADERS {
            return Err(Error::LargeResponseHeader(unused, MAX_HEADERS));
        }
        self.0.await_input(timeout)
    }

    /// Called when a connection enters and leaves the pool.
    fn is_open(&mut self) -> bool {
        if self.0.is_open() {
            return true;
        }
        // Closed, or surplus bytes, of which the probe has consumed the first. TLS also ends with
        // bytes, so nothing is known about it.
        if !self.0.is_tls() {
            let moment = NextTimeout { after: Wait::from_millis(1), ..NextTimeout::default() };
            match self.0.await_input(moment) {
                Ok(true) | Err(Error::Timeout(_)) => attempt::mark_surplus(),
                _ => {}
            }
        }
        false
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

impl<T: Transport> Drop for SurplusStream<T> {
    fn drop(&mut self) {
        // ureq closes a connection by dropping it, with its unused bytes.
        if !self.0.buffers().input().is_empty() {
            attempt::mark_surplus();
        }
    }
}
