//! The HTTP client of a command-line program: uses the proxy and the certificates of the
//! environment, follows redirects, and keeps a connection as long as data arrives.

use crate::{HubError, HubLocation};
use std::sync::Arc;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::time::Duration as Wait;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, NextTimeout,
    RustlsConnector, TcpConnector, Transport,
};
use ureq::{Agent, Body};

/// Limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Limit for the head of a response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection without data for this long counts as broken.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client for one hub.
pub(crate) struct Client<'a> {
    pub(crate) location: &'a HubLocation,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(crate) fn new(location: &'a HubLocation) -> Client<'a> {
        let roots: Vec<_> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|c| Certificate::from_der(c).to_owned())
            .collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        // ureq takes the proxy from the environment by default.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("pg_caption/", env!("CARGO_PKG_VERSION")))
            // The hub redirects to other hosts for files; they must not receive the token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(HEAD_TIMEOUT))
            .tls_config(tls)
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(IdleTimeoutTcp::default())
                .chain(RustlsConnector::default());
        Client { location, agent: Agent::with_parts(config, connector, DefaultResolver::default()) }
    }

    /// Requests an address of the hub, starting at byte `from`.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = self.location.token() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| self.network_error(e))
    }

    /// The error for a connection that failed.
    pub(crate) fn network_error(&self, reason: impl ToString) -> HubError {
        HubError::Network { host: self.location.host().into(), reason: reason.to_string() }
    }
}

/// TCP with an idle timeout. ureq's own limits hold for a whole body, which may take hours.
#[derive(Debug, Default)]
struct IdleTimeoutTcp(TcpConnector);

impl<In: Transport> Connector<In> for IdleTimeoutTcp {
    type Out = Either<In, IdleTimeout>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        // A tunnel through the proxy already has a connection.
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let tcp = Connector::<()>::connect(&self.0, details, None)?;
        Ok(tcp.map(|tcp| Either::B(IdleTimeout(Box::new(tcp)))))
    }
}

#[derive(Debug)]
struct IdleTimeout(Box<dyn Transport>);

impl Transport for IdleTimeout {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(NextTimeout {
            after: Wait::Exact((*timeout.after).min(IDLE_TIMEOUT)),
            ..timeout
        })
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }
}
