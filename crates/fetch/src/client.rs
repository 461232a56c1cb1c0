//! The HTTP client without the conveniences that would bypass this crate's rules: redirects,
//! proxies of the environment, statuses as errors, decompression, its own resolver and
//! certificates.

use crate::error::FetchError;
use crate::lenient::LenientHeads;
use crate::lookup::Lookup;
use crate::settings::{self, FetchSettings};
use crate::tls::{SharedTls, system_roots};
use crate::transport::{DeadlineTcp, PolicyResolver, SurplusDetector};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};

/// The decodable formats, best first. Other formats are accepted too and examined by content.
const ACCEPT: &str =
    "image/webp,image/jpeg,image/png,image/gif,image/bmp,image/tiff,image/*;q=0.8,*/*;q=0.5";
/// Largest status line and headers of one response, bytes. Also the size of one read: after a
/// preliminary response (1xx) ureq takes everything it has read, even a picture, for headers.
pub(crate) const MAX_HEADERS: usize = 64 * 1024;
/// Idle connections are closed after this time; most servers close theirs slightly later.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(10);

/// The client, and whether it has any certificate authority.
pub(crate) struct HttpClient {
    pub(crate) agent: Agent,
    pub(crate) has_roots: bool,
}

/// Builds the client. `roots`: DER certificates to trust instead of the system's.
pub(crate) fn client(
    settings: &FetchSettings,
    lookup: Arc<Lookup>,
    roots: Option<Vec<Vec<u8>>>,
) -> Result<HttpClient, FetchError> {
    let proxy = settings.proxy.as_deref().map(settings::proxy).transpose()?;
    // Using https without any is an error.
    let roots = roots.unwrap_or_else(system_roots);
    let (tls, has_roots) = SharedTls::new(roots).map_err(|e| FetchError::Setting {
        setting: "the configuration of TLS",
        reason: e.to_string(),
    })?;
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
        .max_idle_age(MAX_IDLE)
        .build();
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(DeadlineTcp::default())
            .chain(tls)
            .chain(LenientHeads)
            .chain(SurplusDetector);
    let resolver = PolicyResolver { lookup, proxy: proxy.map(|p| p.uri().clone()) };
    Ok(HttpClient { agent: Agent::with_parts(config, connector, resolver), has_roots })
}
