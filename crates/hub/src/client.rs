//! HTTP as a command-line program does it: the proxy and the certificates of the environment,
//! redirects followed, and patience with every connection as long as something comes.

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

/// To connect, and for the head of an answer.
const CONNECT: Duration = Duration::from_secs(20);
const HEAD: Duration = Duration::from_secs(60);
/// A connection on which nothing comes for so long is broken.
const SILENCE: Duration = Duration::from_secs(60);

/// A client for one hub.
pub(crate) struct Client<'a> {
    pub(crate) place: &'a HubLocation,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(crate) fn new(place: &'a HubLocation) -> Client<'a> {
        let roots: Vec<_> = rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|c| Certificate::from_der(c).to_owned())
            .collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        // The proxy is that of the environment: ureq's own default.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("pg_caption/", env!("CARGO_PKG_VERSION")))
            // Files lie on other hosts than the hub; the token is not for them.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(HEAD))
            .tls_config(tls)
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(PatientTcp::default())
                .chain(RustlsConnector::default());
        Client { place, agent: Agent::with_parts(config, connector, DefaultResolver::default()) }
    }

    /// Asks for an address of the hub, from a byte on.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = self.place.token() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| self.broken(e))
    }

    /// What became of a connection.
    pub(crate) fn broken(&self, reason: impl ToString) -> HubError {
        HubError::Network { host: self.place.host().into(), reason: reason.to_string() }
    }
}

/// TCP that gives up on silence; ureq's own limits are for the whole of a body, which may take
/// hours.
#[derive(Debug, Default)]
struct PatientTcp(TcpConnector);

impl<In: Transport> Connector<In> for PatientTcp {
    type Out = Either<In, Patient>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        // A tunnel through the proxy has its connection already.
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let tcp = Connector::<()>::connect(&self.0, details, None)?;
        Ok(tcp.map(|tcp| Either::B(Patient(Box::new(tcp)))))
    }
}

#[derive(Debug)]
struct Patient(Box<dyn Transport>);

impl Transport for Patient {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(NextTimeout {
            after: Wait::Exact((*timeout.after).min(SILENCE)),
            ..timeout
        })
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }
}
