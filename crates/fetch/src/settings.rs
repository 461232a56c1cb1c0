//! What a fetcher may do. Built by the engine from the server's `pg_caption.*` settings, read and
//! checked once.

use crate::error::FetchError;
use ipnet::IpNet;
use pg_caption_wire::EngineConfig;
use std::net::IpAddr;
use std::time::Duration;

/// Names the project and its version to every server that is asked.
pub const USER_AGENT: &str =
    concat!("pg_caption/", env!("CARGO_PKG_VERSION"), " (+", env!("CARGO_PKG_REPOSITORY"), ")");

/// For the first byte of an answer and the headers after it. A server that takes longer over one
/// picture holds a thread and a place that others wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What a fetcher may do. `Default` is DESIGN's table of settings.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Networks open although they are not public: `127.0.0.0/8`, `fd00::/8`, or a single address.
    pub allowed_networks: Vec<String>,
    /// Host patterns (`cdn.example.com`, `*.example.com`, each with an optional `:port`); empty:
    /// every public host.
    pub allowed_hosts: Vec<String>,
    /// `http://[user:password@]host:port` of a proxy that understands CONNECT. Never taken from the
    /// environment.
    pub proxy: Option<String>,
    /// Largest picture, bytes, after content decoding.
    pub max_bytes: u64,
    /// The most that [`crate::Reserve`] can ever grant, bytes: reserved at most for a body that
    /// does not say how long it is.
    pub room: u64,
    /// To look the name up, and again to connect (TLS included).
    pub connect_timeout: Duration,
    /// From the request to the end of the answer's headers.
    pub answer_timeout: Duration,
    /// For one image, redirects included.
    pub total_timeout: Duration,
    /// Redirects followed for one image.
    pub max_redirects: u32,
    /// Fetches at once, in all: sizes the connection pool and the look-up threads. The engine has
    /// this many fetch threads.
    pub concurrency: usize,
    /// Fetches at once for one host.
    pub host_concurrency: usize,
    /// Sent to every server.
    pub user_agent: String,
}

impl Default for FetchSettings {
    fn default() -> Self {
        FetchSettings::from(&EngineConfig::default())
    }
}

impl From<&EngineConfig> for FetchSettings {
    fn from(config: &EngineConfig) -> Self {
        FetchSettings {
            allowed_networks: config.allowed_networks.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            proxy: config.proxy.clone().filter(|p| !p.trim().is_empty()),
            max_bytes: config.max_image_size,
            room: u64::MAX,
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            answer_timeout: ANSWER_TIMEOUT,
            total_timeout: Duration::from_millis(config.fetch_timeout_ms),
            max_redirects: config.max_redirects,
            concurrency: config.fetch_concurrency as usize,
            host_concurrency: config.host_concurrency as usize,
            user_agent: USER_AGENT.into(),
        }
    }
}

/// Reads `pg_caption.allowed_networks`.
///
/// # Errors
/// [`FetchError::Setting`] naming what is not a network.
pub fn networks(list: &[String]) -> Result<Vec<IpNet>, FetchError> {
    let read = |text: &str| {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| FetchError::Setting {
            setting: "pg_caption.allowed_networks",
            reason: format!("\"{text}\" is not a network in CIDR form such as 10.2.0.0/16"),
        })
    };
    list.iter().map(|n| n.trim()).filter(|n| !n.is_empty()).map(read).collect()
}

/// Reads `pg_caption.proxy`.
///
/// # Errors
/// [`FetchError::Setting`]; the words never repeat the value, which may hold a password.
pub(crate) fn proxy(text: &str) -> Result<ureq::Proxy, FetchError> {
    let bad =
        |reason: &str| FetchError::Setting { setting: "pg_caption.proxy", reason: reason.into() };
    let proxy = ureq::Proxy::new(text.trim())
        .map_err(|_| bad("it is not a URL such as http://proxy.example.com:3128"))?;
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(proxy),
        _ => Err(bad("only http and https proxies are supported")),
    }
}
