//! The HTTP client's connections, made ours: only judged addresses, deadlines that hold over any
//! number of reads, and callers that can leave. Everything here uses ureq's `unversioned`
//! interface.

use crate::attempt;
use crate::client::MAX_HEADERS;
use crate::lookup::{Lookup, LookupError};
use std::sync::Arc;
use std::time::Duration;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::Duration as Wait;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, RustlsConnector, TcpConnector,
    Transport,
};

/// Longest single wait for the network, so that a caller who leaves frees its thread soon.
const SLICE: Duration = Duration::from_millis(100);
/// Addresses of one host that are tried; ureq has room for 16.
const MAX_ADDRESSES: usize = 8;

/// Resolves through [`Lookup`]. With a proxy ureq asks it for the proxy alone, whose address is the
/// superuser's choice.
#[derive(Debug)]
pub(crate) struct JudgingResolver {
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) proxy: Option<Uri>,
}

impl Resolver for JudgingResolver {
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
            Some(_) => return Err(other(LookupError::Unknown("only the proxy connects".into()))),
        };
        let mut result = self.empty();
        addresses.into_iter().take(MAX_ADDRESSES).for_each(|a| result.push(a));
        Ok(result)
    }
}

/// TCP as ureq opens it (to the addresses of the resolver), with [`Watched`] around it.
#[derive(Debug, Default)]
pub(crate) struct WatchedTcp(TcpConnector);

impl<In: Transport> Connector<In> for WatchedTcp {
    type Out = Either<In, Watched>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        // a tunnel through the proxy; its TCP connection came from here too
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        attempt::mark_connected();
        let tcp = Connector::<()>::connect(&self.0, details, None)?;
        Ok(tcp.map(|tcp| Either::B(Watched(Box::new(tcp)))))
    }
}

/// A connection that gives up at the fetch's deadline, however slowly bytes trickle in, and when
/// the caller leaves.
#[derive(Debug)]
pub(crate) struct Watched(Box<dyn Transport>);

impl Transport for Watched {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        // requests are small and fit the socket's buffer: no need to wake up in between
        self.0.transmit_output(amount, until_deadline(timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let (started, timeout) = (std::time::Instant::now(), until_deadline(timeout));
        loop {
            if attempt::over() {
                return Err(Error::Timeout(timeout.reason));
            }
            let left = timeout.after.saturating_sub(started.elapsed());
            let slice = NextTimeout { after: Wait::Exact(left.min(SLICE)), ..timeout };
            match self.0.await_input(slice) {
                Err(Error::Timeout(_)) if left > SLICE => {}
                result => return result,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // TLS above asks the socket alone, and has perhaps not yet taken all that was read from it
        self.0.buffers().input().is_empty() && self.0.is_open()
    }
}

fn until_deadline(timeout: NextTimeout) -> NextTimeout {
    NextTimeout { after: Wait::Exact((*timeout.after).min(attempt::left())), ..timeout }
}

/// TLS as ureq does it, with one configuration for all. ureq builds a new one (certificate store
/// and all) for each connection whose request has settings of its own, and all of ours have: their
/// deadlines.
#[derive(Debug, Default)]
pub(crate) struct SharedTls(RustlsConnector);

impl<In: Transport> Connector<In> for SharedTls {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        // a chain that opened nothing (no address answered) has failed before it came here
        if chained.is_none() {
            return Err(Error::ConnectionFailed);
        }
        let shared = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: false,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&shared, chained)
    }
}

/// The outermost link: notices bytes behind the announced end of an answer, wherever they are
/// found.
#[derive(Debug, Default)]
pub(crate) struct WatchedEnd;

impl<In: Transport> Connector<In> for WatchedEnd {
    type Out = Ended<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(Ended))
    }
}

/// A connection that ends where headers do not, and that tells the [`attempt`] on this thread when
/// bytes lie on it that nobody asked for.
#[derive(Debug)]
pub(crate) struct Ended<T: Transport>(T);

impl<T: Transport> Transport for Ended<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // more is asked for although there is no room for it: ureq would take that for the end of
        // the connection
        let unused = self.0.buffers().input().len();
        if unused >= MAX_HEADERS {
            return Err(Error::LargeResponseHeader(unused, MAX_HEADERS));
        }
        self.0.await_input(timeout)
    }

    /// Asked when a connection goes into the pool and when it is taken out of it.
    fn is_open(&mut self) -> bool {
        if self.0.is_open() {
            return true;
        }
        // Closed, or bytes: the probe has taken the first of them. Of TLS nothing can be told,
        // which ends with bytes, too.
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

impl<T: Transport> Drop for Ended<T> {
    fn drop(&mut self) {
        // ureq closes a connection by dropping it, with what it has read and not used
        if !self.0.buffers().input().is_empty() {
            attempt::mark_surplus();
        }
    }
}
