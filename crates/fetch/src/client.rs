//! The HTTP client with every convenience switched off that would decide something for us:
//! redirects, proxies of the environment, statuses as errors, inflating, its own resolver and its
//! own certificates.

use crate::error::FetchError;
use crate::lookup::Lookup;
use crate::settings::{self, FetchSettings};
use crate::transport::{JudgingResolver, SharedTls, WatchedEnd, WatchedTcp};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};

/// What is decoded, best first; anything else may come too and is judged by its content.
const ACCEPT: &str =
    "image/webp,image/jpeg,image/png,image/gif,image/bmp,image/tiff,image/*;q=0.8,*/*;q=0.5";
/// Status line and headers of one response, bytes. Also what is read ahead at once: behind a
/// preliminary answer (1xx) ureq takes all that it has read for headers, a picture too.
pub(crate) const MAX_HEADERS: usize = 64 * 1024;
/// Idle connections are closed after this; most servers close theirs a little later.
pub(crate) const IDLE: Duration = Duration::from_secs(10);

/// The client, and whether it knows any certificate authority.
pub(crate) struct Client {
    pub(crate) agent: Agent,
    pub(crate) has_roots: bool,
}

/// Builds the client. `roots`: DER certificates trusted instead of the system's.
pub(crate) fn client(
    settings: &FetchSettings,
    lookup: Arc<Lookup>,
    roots: Option<Vec<Vec<u8>>>,
) -> Result<Client, FetchError> {
    let proxy = settings.proxy.as_deref().map(settings::proxy).transpose()?;
    // unreadable certificates are skipped as every other program skips them; none at all is said
    // when https is used
    let roots = roots.unwrap_or_else(|| {
        rustls_native_certs::load_native_certs().certs.iter().map(|c| c.to_vec()).collect()
    });
    let certificates: Vec<_> =
        roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let has_roots = !certificates.is_empty();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .proxy(proxy.clone())
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(settings.user_agent.as_str())
        .accept(ACCEPT)
        .accept_encoding("gzip")
        .max_response_header_size(MAX_HEADERS)
        .input_buffer_size(MAX_HEADERS)
        .timeout_connect(Some(settings.connect_timeout))
        .max_idle_connections(settings.concurrency.max(1))
        .max_idle_connections_per_host(settings.host_concurrency.max(1))
        .max_idle_age(IDLE)
        .tls_config(tls)
        .build();
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(WatchedTcp::default())
            .chain(SharedTls::default())
            .chain(WatchedEnd);
    let resolver = JudgingResolver { lookup, proxy: proxy.map(|p| p.uri().clone()) };
    Ok(Client { agent: Agent::with_parts(config, connector, resolver), has_roots })
}
