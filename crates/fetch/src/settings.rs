//! Limits and permissions of a fetcher. The engine makes them from its configuration, once.

use crate::error::FetchError;
use crate::request_headers::RequestHeaders;
use ipnet::IpNet;
use pg_caption_wire::EngineConfig;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The user agent: project and version.
pub const USER_AGENT: &str =
    concat!("pg_caption/", env!("CARGO_PKG_VERSION"), " (+", env!("CARGO_PKG_REPOSITORY"), ")");

/// Limit for the status line and the headers. A slower server would occupy a thread and a permit
/// for too long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes that a body must bring in each window of time: 4 kB/s with the shortest window. That is
/// 1/400 of what the largest picture needs (50 MB in 30 s). Over the slowest mobile links (5 kB/s)
/// a picture of 150 kB still arrives within the total limit.
const WINDOW_BYTES: u64 = 40 << 10;
/// The shortest window. A picture that is complete by then may be as slow as it likes.
const SHORTEST_WINDOW: Duration = Duration::from_secs(10);
/// Windows within a longer total limit: who allows more time, allows slower hosts.
const WINDOWS: u32 = 3;

/// Limits and permissions of a fetcher. The defaults are those of the table of settings in
/// `crates/wire`.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Networks that are open although they are not public: `127.0.0.0/8`, `fd00::/8`, or one
    /// address.
    pub allowed_networks: Vec<String>,
    /// Host patterns (`cdn.example.com`, `*.example.com`, each with an optional `:port`); empty:
    /// every public host.
    pub allowed_hosts: Vec<String>,
    /// `http://[user:password@]host:port` of a proxy that supports CONNECT. The environment is
    /// ignored.
    pub proxy: Option<String>,
    /// Largest body after content decoding, bytes.
    pub max_bytes: u64,
    /// Largest possible reservation by [`crate::Reserve`], bytes. Used for bodies of unknown
    /// length.
    pub room: u64,
    /// Limit for the look-up of the name, and again for connecting (TLS included).
    pub connect_timeout: Duration,
    /// Limit from the request to the end of the response headers.
    pub answer_timeout: Duration,
    /// Limit for one image, redirects included.
    pub total_timeout: Duration,
    /// Window of time in which a body must bring [`FetchSettings::window_bytes`].
    pub rate_window: Duration,
    /// Fewest bytes of a body in each window.
    pub window_bytes: u64,
    /// Most redirects for one image.
    pub max_redirects: u32,
    /// Concurrent fetches: size of the connection pool and number of look-up threads. The engine
    /// has this many fetch threads.
    pub concurrency: usize,
    /// Concurrent fetches from one host.
    pub host_concurrency: usize,
    /// The user agent of all requests without one in `headers`.
    pub user_agent: String,
    /// Headers of requests to chosen origins.
    pub headers: Arc<RequestHeaders>,
}

impl Default for FetchSettings {
    fn default() -> Self {
        FetchSettings::from(&EngineConfig::default())
    }
}

impl From<&EngineConfig> for FetchSettings {
    fn from(config: &EngineConfig) -> Self {
        let total_timeout = Duration::from_millis(config.fetch_timeout_ms);
        FetchSettings {
            allowed_networks: config.allowed_networks.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            proxy: config.proxy.clone().filter(|p| !p.trim().is_empty()),
            max_bytes: config.max_image_size,
            room: u64::MAX,
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            answer_timeout: ANSWER_TIMEOUT,
            total_timeout,
            rate_window: SHORTEST_WINDOW.max(total_timeout / WINDOWS),
            window_bytes: WINDOW_BYTES,
            max_redirects: config.max_redirects,
            concurrency: config.fetch_concurrency as usize,
            host_concurrency: config.host_concurrency as usize,
            user_agent: USER_AGENT.into(),
            // The caller reads the file.
            headers: Arc::default(),
        }
    }
}

/// Parses `pg_caption.allowed_networks`.
///
/// # Errors
/// [`FetchError::Setting`] with the invalid network.
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

/// Parses `pg_caption.proxy`.
///
/// # Errors
/// [`FetchError::Setting`], without the value, which may contain a password.
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
