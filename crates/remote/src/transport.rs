//! Sends a request to the server and reads its answer, within limits. The only module that does
//! I/O.
//!
//! The address of `base_url` is connected to as it is: an administrator wrote it. It opens nothing
//! for the addresses of pictures, which `crates/fetch` judges.

use crate::fault::RemoteFault;
use crate::key::ApiKey;
use pg_caption_fetch::{SharedTls, USER_AGENT, await_unless, requested_pause, system_roots};
use pg_caption_models::RemoteSettings;
use std::cell::RefCell;
use std::io::{self, Read};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use ureq::config::Config;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{PemItem, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};
use ureq::{Agent, Error};
use url::Url;

/// The header by which a server of pg_caption is recognised. Its value is the width and height that
/// its model needs: `224x224`.
pub const OWN_HEADER: &str = "x-pg-caption";
/// Limit of the request that asks who the server is.
const RECOGNITION: Duration = Duration::from_secs(3);
/// Largest answer, bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Largest status line and headers, bytes.
const MAX_HEADERS: usize = 64 << 10;
/// Largest side that a model can need, pixels.
const MAX_SIDE: u32 = 8192;
/// Idle connections are closed after this time.
const MAX_IDLE: Duration = Duration::from_secs(20);
/// Longest single wait for the network, so that a request whose caller left is closed soon.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Shortest pause that a server can ask for.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// Addresses of one name to try; ureq has space for 16.
const MAX_ADDRESSES: usize = 8;

/// An answer of the server, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAnswer {
    /// HTTP status.
    pub status: u16,
    /// The pause it asks for.
    pub wait: Option<Duration>,
    /// Width and height that its model needs, if it is a server of pg_caption.
    pub own: Option<(u32, u32)>,
    /// At most 1 MB. Occurrences of the key are replaced.
    pub body: Vec<u8>,
}

/// What a connection needs besides `remote.json`.
#[derive(Debug, Default)]
pub struct ServerOptions {
    /// Certificate authorities as PEM, instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Time limit for one connection.
    pub connect_timeout: Option<Duration>,
}

/// A connection to a model server, shared by threads. Connections are reused.
pub struct ModelServer {
    agent: Agent,
    url: Url,
    uri: Uri,
    key: Mutex<Option<ApiKey>>,
    timeout: Duration,
    connect_timeout: Duration,
}

/// The request that runs on this thread. ureq calls its transports internally, and a pooled
/// connection outlives a request, so it cannot hold this.
struct Attempt {
    deadline: Instant,
    is_left: Box<dyn Fn() -> bool>,
    /// A connection was opened instead of taken from the pool.
    connected: bool,
}

thread_local! {
    static CURRENT: RefCell<Option<Attempt>> = const { RefCell::new(None) };
}

fn is_left() -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(|attempt| (attempt.is_left)()))
}

fn time_left() -> Duration {
    CURRENT.with_borrow(|current| {
        let deadline = current.as_ref().map(|attempt| attempt.deadline);
        deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
    })
}

impl ModelServer {
    /// A client of the server of these settings. Connects to nothing yet.
    ///
    /// # Errors
    /// The reason, as text: there is no certificate in `ca_file`, or the address is no HTTP URI.
    pub fn new(settings: &RemoteSettings, options: ServerOptions) -> Result<ModelServer, String> {
        let roots = match &options.authorities {
            Some(pem) => authorities(pem)?,
            None => system_roots(),
        };
        let (tls, _) = SharedTls::new(roots).map_err(|error| format!("TLS: {error}"))?;
        let connections = settings.concurrency as usize;
        let config = Agent::config_builder()
            // Not the proxy of the environment.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(USER_AGENT)
            .accept("application/json")
            .max_response_header_size(MAX_HEADERS)
            .input_buffer_size(MAX_HEADERS)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .max_idle_age(MAX_IDLE)
            .build();
        let url = settings.endpoint();
        let uri = url.as_str().parse::<Uri>().map_err(|error| format!("\"base_url\": {error}"))?;
        // A key over http goes to the own machine or network only.
        let private_only = settings.api_key_file.is_some() && url.scheme() == "http";
        let connector = ().chain(PatientTcp::default()).chain(tls);
        let agent = Agent::with_parts(config, connector, ServerResolver { private_only });
        Ok(ModelServer {
            agent,
            url,
            uri,
            key: Mutex::new(None),
            timeout: settings.timeout,
            connect_timeout: options.connect_timeout.unwrap_or(Duration::from_secs(5)),
        })
    }

    /// Sets the key of further requests.
    pub fn set_key(&self, key: Option<ApiKey>) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }

    fn key(&self) -> Option<ApiKey> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends one request and waits for its answer until `deadline`, or until `is_left` is true.
    ///
    /// # Errors
    /// A fault of the connection. A status is never an error.
    pub fn post(
        &self,
        body: &[u8],
        deadline: Instant,
        is_left: Box<dyn Fn() -> bool>,
    ) -> Result<ServerAnswer, RemoteFault> {
        let own = Instant::now() + self.timeout;
        let deadline = deadline.min(own);
        CURRENT.set(Some(Attempt { deadline, is_left, connected: false }));
        let key = self.key();
        let answer = loop {
            match self.send(body, key.as_ref()) {
                // The server had closed a pooled connection: each retry uses one up, so the last
                // one uses a new connection.
                Err(RemoteFault::Reset(_)) if took_pooled() && !time_left().is_zero() => {}
                answer => break answer,
            }
        };
        CURRENT.set(None);
        let (status, headers, mut body) = answer?;
        let key_text = key.filter(|_| !body.is_empty());
        if let Some(key) = key_text {
            body = redacted(body, &key);
        }
        let wait = requested_pause(status, &headers, SHORTEST_WAIT, SystemTime::now());
        let own = own_size(&headers);
        Ok(ServerAnswer { status, own, wait, body })
    }

    /// Whether a server of pg_caption answers there now; then the width and height that its model
    /// needs. A server that is away is recognised by its first answer.
    pub fn recognise(&self) -> Option<(u32, u32)> {
        let mut url = self.url.clone();
        let path = url.path().strip_suffix("/chat/completions")?.to_owned() + "/models";
        url.set_path(&path);
        let deadline = Instant::now() + RECOGNITION;
        CURRENT.set(Some(Attempt { deadline, is_left: Box::new(|| false), connected: false }));
        let mut request = self.agent.get(url.as_str().parse::<Uri>().ok()?);
        if let Some(value) = self.key().and_then(|key| key.header_for(&url)) {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .config()
            .timeout_global(Some(RECOGNITION))
            .timeout_connect(Some(self.connect_timeout.min(RECOGNITION)))
            .build();
        let answer = request.call().map_err(|error| self.explain(error));
        let answer = answer.and_then(|response| self.read(response));
        CURRENT.set(None);
        own_size(&answer.ok()?.1)
    }

    fn send(
        &self,
        body: &[u8],
        key: Option<&ApiKey>,
    ) -> Result<(u16, HeaderMap, Vec<u8>), RemoteFault> {
        let left = time_left();
        let mut request = self.agent.post(self.uri.clone());
        request = request.header(header::CONTENT_TYPE, "application/json");
        if let Some(value) = key.and_then(|key| key.header_for(&self.url)) {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .config()
            .timeout_global(Some(left))
            .timeout_connect(Some(self.connect_timeout.min(left)))
            .build();
        let response = request.send(body).map_err(|error| self.explain(error))?;
        self.read(response)
    }

    fn read(
        &self,
        response: Response<ureq::Body>,
    ) -> Result<(u16, HeaderMap, Vec<u8>), RemoteFault> {
        let (head, content) = response.into_parts();
        let mut body = Vec::new();
        content
            .into_reader()
            .take(MAX_ANSWER + 1)
            .read_to_end(&mut body)
            .map_err(|error| self.explain(error.into()))?;
        if body.len() as u64 > MAX_ANSWER {
            return Err(RemoteFault::Malformed(format!(
                "its answer is larger than {MAX_ANSWER} bytes"
            )));
        }
        Ok((head.status.as_u16(), head.headers, body))
    }

    /// Translates an error of the HTTP client.
    fn explain(&self, error: Error) -> RemoteFault {
        if is_left() {
            return RemoteFault::Cancelled;
        }
        let reason = error.to_string();
        match error {
            Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                RemoteFault::Down("there was no connection in time".into())
            }
            Error::Timeout(_) => RemoteFault::Slow(self.timeout),
            Error::Io(error) => self.io(error),
            Error::Tls(_) | Error::Rustls(_) | Error::TlsRequired | Error::Pem(_) => {
                RemoteFault::Refused(format!("the certificate was refused: {reason}"))
            }
            Error::HostNotFound => RemoteFault::Down("the name has no address".into()),
            Error::ConnectionFailed => RemoteFault::Down(reason),
            Error::Other(other) => match other.downcast::<PublicAddress>() {
                Ok(refused) => RemoteFault::Refused(refused.to_string()),
                Err(_) => RemoteFault::Down(reason),
            },
            _ => RemoteFault::Malformed(format!("it is not HTTP/1.1: {reason}")),
        }
    }

    fn io(&self, error: io::Error) -> RemoteFault {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof,
            WouldBlock,
        };
        // Both arrive inside of an I/O error while a body is read.
        let inner = error.get_ref();
        if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return RemoteFault::Refused(format!("the certificate was refused: {error}"));
        }
        let is_timeout = inner
            .and_then(|inner| inner.downcast_ref::<Error>())
            .is_some_and(|inner| matches!(inner, Error::Timeout(_)));
        match error.kind() {
            _ if is_timeout => RemoteFault::Slow(self.timeout),
            TimedOut | WouldBlock => RemoteFault::Slow(self.timeout),
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof => {
                RemoteFault::Reset(error.to_string())
            }
            _ => RemoteFault::Down(error.to_string()),
        }
    }
}

fn own_size(headers: &HeaderMap) -> Option<(u32, u32)> {
    let (width, height) = headers.get(OWN_HEADER)?.to_str().ok()?.split_once('x')?;
    let side = |text: &str| text.parse().ok().filter(|side| (1..=MAX_SIDE).contains(side));
    Some((side(width)?, side(height)?))
}

fn redacted(body: Vec<u8>, key: &ApiKey) -> Vec<u8> {
    match String::from_utf8(body) {
        Ok(text) => key.redact(&text).into_bytes(),
        Err(error) => key.redact(&String::from_utf8_lossy(error.as_bytes())).into_bytes(),
    }
}

/// The certificates of a PEM file, as DER.
fn authorities(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate.der().to_vec()),
            Ok(_) => {}
            Err(error) => return Err(format!("\"ca_file\" cannot be read: {error}")),
        }
    }
    match found.is_empty() {
        true => Err("\"ca_file\" has no certificate".into()),
        false => Ok(found),
    }
}

/// Whether the last request used a connection of the pool.
fn took_pooled() -> bool {
    CURRENT.with_borrow_mut(|current| {
        current.as_mut().is_some_and(|attempt| !std::mem::take(&mut attempt.connected))
    })
}

/// A key would leave the own network unencrypted.
#[derive(Debug, thiserror::Error)]
#[error("a key is sent over https, or to a loopback or private address; {0} is neither")]
struct PublicAddress(IpAddr);

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

/// The system's resolver.
#[derive(Debug)]
struct ServerResolver {
    private_only: bool,
}

impl Resolver for ServerResolver {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let port =
            uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, port).to_socket_addrs().map_err(|_| Error::HostNotFound)?;
        let mut result = self.empty();
        let mut refused = None;
        for address in found.take(MAX_ADDRESSES) {
            match self.private_only && !is_private(address.ip()) {
                true => refused = Some(address.ip()),
                false => result.push(address),
            }
        }
        match (result.is_empty(), refused) {
            (false, _) => Ok(result),
            (true, Some(address)) => Err(Error::Other(Box::new(PublicAddress(address)))),
            (true, None) => Err(Error::HostNotFound),
        }
    }
}

/// TCP connections that notice soon when the caller has left.
#[derive(Debug, Default)]
struct PatientTcp(TcpConnector);

impl Connector<()> for PatientTcp {
    type Out = PatientStream;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        CURRENT.with_borrow_mut(|current| {
            current.iter_mut().for_each(|attempt| attempt.connected = true);
        });
        let tcp = Connector::<()>::connect(&self.0, details, None)?;
        Ok(tcp.map(|tcp| PatientStream(Box::new(tcp))))
    }
}

#[derive(Debug)]
struct PatientStream(Box<dyn Transport>);

impl Transport for PatientStream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        await_unless(&mut *self.0, timeout, POLL_INTERVAL, is_left)
    }

    fn is_open(&mut self) -> bool {
        // Bytes beyond the end of an answer must not begin the next one.
        self.0.buffers().input().is_empty() && self.0.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_those_of_the_own_network() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("10.1.2.3", true),
            ("192.168.7.1", true),
            ("172.16.0.1", true),
            ("fd00::1", true),
            ("::ffff:10.0.0.1", true),
            ("8.8.8.8", false),
            ("169.254.169.254", false),
            ("2001:4860:4860::8888", false),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
        }
    }
}
