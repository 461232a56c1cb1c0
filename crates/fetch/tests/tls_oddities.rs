//! Promises about unusual TLS servers: names, protocols, messages after the handshake, and
//! certificates of any size. Each ends as a picture or as a failure of that fetch.

mod test_server;

use pg_caption_fetch::{FetchError, Fetcher, FetcherParts};
use pg_caption_wire::FailureClass;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ConnectionTrafficSecrets, DEFAULT_VERSIONS, ServerConfig, ServerConnection, StreamOwned,
};
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use test_server::certificates::*;
use test_server::*;

type TlsStream = StreamOwned<ServerConnection, TcpStream>;

const PICTURE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture";

/// Answers each request with `answer`, which may use the TLS connection in any way.
fn server(
    config: ServerConfig,
    answer: impl Fn(&mut TlsStream) -> io::Result<()> + Send + Sync + 'static,
) -> TestServer {
    let config = Arc::new(config);
    TestServer::raw(move |stream, log| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        while let Some(head) = read_head(&mut tls) {
            log.requests.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
            if answer(&mut tls).and_then(|()| tls.flush()).is_err() {
                return;
            }
        }
    })
}

fn picture(tls: &mut TlsStream) -> io::Result<()> {
    tls.write_all(PICTURE)
}

fn trusting(authority: &Authority) -> Fetcher {
    let here: &[&[&str]] = &[&["127.0.0.1"]];
    let names = ["shop.example", "shop.example.", "evil.example"].map(|name| (name, here));
    let names = TestNames::new(&names);
    let roots = Some(vec![authority.der.clone()]);
    Fetcher::with_parts(settings(), FetcherParts { resolver: names, roots }).unwrap()
}

fn url(host: &str, server: &TestServer) -> String {
    format!("https://{host}:{}/p.jpg", server.port)
}

#[track_caller]
fn assert_tls_failure(fetcher: &Fetcher, url: &str) {
    let error = get(fetcher, url).unwrap_err();
    assert!(matches!(error, FetchError::Tls { no_roots: false, .. }), "{error:?}");
    assert_eq!((error.code().as_str(), error.class()), ("tls", FailureClass::Retry));
}

/// Certificates by the name that the client sends; the last one without a name.
#[derive(Debug)]
struct NamedCertificates(Vec<(&'static str, Arc<CertifiedKey>)>);

impl ResolvesServerCert for NamedCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = |entry: &&(&str, _)| hello.server_name() == Some(entry.0);
        self.0.iter().find(named).or(self.0.last()).map(|entry| entry.1.clone())
    }
}

/// A server with a certificate for each name. Each response is the name of the connection.
fn server_by_name(authority: &Authority, names: &[&'static str]) -> TestServer {
    let certified = |name: &&'static str| {
        let identity = identity(Some(authority), &[name], |_| {});
        let key = default_provider().key_provider.load_private_key(identity.key.into()).unwrap();
        (*name, Arc::new(CertifiedKey::new(vec![identity.certificate], key)))
    };
    let certificates = NamedCertificates(names.iter().map(certified).collect());
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    server(config, |tls| {
        let name = tls.conn.server_name().unwrap_or_default().to_owned();
        write!(tls, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
    })
}

#[test]
fn a_server_that_needs_the_name_gets_it() {
    let authority = authority();
    let server = server_by_name(&authority, &["shop.example", "other.example"]);
    let fetcher = trusting(&authority);
    for host in ["shop.example", "SHOP.example", "shop.example."] {
        assert_eq!(bytes(get(&fetcher, &url(host, &server))), b"shop.example", "{host}");
    }
    // No name is sent for an address: the server presents the certificate of another host.
    assert_tls_failure(&fetcher, &url("127.0.0.1", &server));
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn names_of_one_server_share_no_connection() {
    let authority = authority();
    let server = server_by_name(&authority, &["shop.example", "evil.example"]);
    let fetcher = trusting(&authority);
    for host in ["shop.example", "evil.example", "shop.example", "evil.example"] {
        assert_eq!(bytes(get(&fetcher, &url(host, &server))), host.as_bytes());
    }
    assert_eq!(server.connections(), 2, "one for each name");
}

#[test]
fn a_certificate_for_an_address_is_accepted() {
    let authority = authority();
    let config = identity(Some(&authority), &["127.0.0.1"], |_| {}).server();
    let server = server(config, picture);
    assert_eq!(bytes(get(&trusting(&authority), &url("127.0.0.1", &server))), b"picture");
    assert_tls_failure(&trusting(&authority), &url("shop.example", &server));
}

#[test]
fn http_2_alone_is_a_failure_of_the_fetch() {
    // SETTINGS and GOAWAY, as a server of HTTP/2 sends them before it has read the request.
    const FRAMES: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\x01";
    let authority = authority();
    for end in [false, true] {
        let mut config = identity(Some(&authority), &["shop.example"], |_| {}).server();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let server = server(config, move |tls| {
            tls.write_all(FRAMES)?;
            tls.flush()?;
            if end { Err(io::Error::other("closed")) } else { Ok(()) }
        });
        let error = get(&trusting(&authority), &url("shop.example", &server)).unwrap_err();
        assert_eq!(error.code(), "not_http", "{error:?}");
    }
}

/// A server that sends so many session tickets after the handshake.
fn ticketing(authority: &Authority, count: usize) -> TestServer {
    let mut config = identity(Some(authority), &["shop.example"], |_| {}).server();
    config.send_tls13_tickets = count;
    server(config, picture)
}

#[test]
fn tickets_after_the_handshake_are_bounded() {
    let authority = authority();
    let (some, flood) = (ticketing(&authority, 20), ticketing(&authority, 5000));
    let fetcher = trusting(&authority);
    for _ in 0..2 {
        assert_eq!(bytes(get(&fetcher, &url("shop.example", &some))), b"picture");
    }
    let error = get(&fetcher, &url("shop.example", &flood)).unwrap_err();
    assert_eq!((error.code().as_str(), error.class()), ("connect", FailureClass::Retry));
}

/// A server that changes its keys so often before each response.
fn rekeying(authority: &Authority, times: usize) -> TestServer {
    let config = identity(Some(authority), &["shop.example"], |_| {}).server();
    server(config, move |tls| {
        for _ in 0..times {
            tls.conn.refresh_traffic_keys().map_err(io::Error::other)?;
            tls.flush()?;
        }
        picture(tls)
    })
}

#[test]
fn changed_keys_are_followed_to_a_limit() {
    let authority = authority();
    let server = rekeying(&authority, 3);
    assert_eq!(bytes(get(&trusting(&authority), &url("shop.example", &server))), b"picture");
    let flood = rekeying(&authority, 5000);
    assert_tls_failure(&trusting(&authority), &url("shop.example", &flood));
}

/// Encrypts a record of TLS 1.2 with AES-128-GCM.
fn record(key: &LessSafeKey, iv: &[u8], sequence: u64, kind: u8, plain: &[u8]) -> Vec<u8> {
    let explicit = sequence.to_be_bytes();
    let nonce: [u8; 12] = [&iv[..4], &explicit].concat().try_into().unwrap();
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    let header = [&[kind, 3, 3][..], &length(plain.len())].concat();
    let mut sealed = plain.to_vec();
    let aad = Aad::from([&sequence.to_be_bytes()[..], &header].concat());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).unwrap();
    [&[kind, 3, 3][..], &length(8 + sealed.len()), &explicit, &sealed].concat()
}

/// A server of TLS 1.2 that requests a new handshake so often before its only response.
fn renegotiating(authority: &Authority, times: u64) -> TestServer {
    const HELLO_REQUEST: [u8; 4] = [0; 4];
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let mut config = identity(Some(authority), &["shop.example"], |_| {}).server_of(
        provider,
        &[&rustls::version::TLS12],
        vec![],
    );
    config.enable_secret_extraction = true;
    let config = Arc::new(config);
    TestServer::raw(move |stream, log| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        let Some(head) = read_head(&mut tls) else { return };
        log.requests.lock().unwrap().push(head);
        // From here on this function writes the records.
        let (connection, mut socket) = tls.into_parts();
        let (first, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { unreachable!() };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        let mut records = Vec::new();
        for sequence in first..first + times {
            records.extend(record(&key, iv.as_ref(), sequence, 22, &HELLO_REQUEST));
        }
        records.extend(record(&key, iv.as_ref(), first + times, 23, PICTURE));
        let _ = socket.write_all(&records);
        // Until the client closes the connection.
        let _ = io::copy(&mut socket, &mut io::sink());
    })
}

#[test]
fn renegotiation_is_declined() {
    let authority = authority();
    for harmless in [0, 1] {
        let server = renegotiating(&authority, harmless);
        let answer = get(&trusting(&authority), &url("shop.example", &server));
        assert_eq!(bytes(answer), b"picture", "{harmless} requests");
    }
    let flood = renegotiating(&authority, 1000);
    assert_tls_failure(&trusting(&authority), &url("shop.example", &flood));
}

/// A server whose certificate is for that many names, `shop.example` last.
fn many_names(authority: &Authority, count: usize) -> TestServer {
    let names: Vec<String> = (1..count).map(|n| format!("name-{n:06}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["shop.example"]).collect();
    server(identity(Some(authority), &names, |_| {}).server(), picture)
}

#[test]
fn a_certificate_may_have_2000_names() {
    let authority = authority();
    let server = many_names(&authority, 2000);
    assert_eq!(bytes(get(&trusting(&authority), &url("shop.example", &server))), b"picture");
}

#[test]
fn oversized_certificates_end_the_handshake() {
    let authority = authority();
    // A certificate of 1 MB.
    let server_of_many = many_names(&authority, 45_000);
    assert_tls_failure(&trusting(&authority), &url("shop.example", &server_of_many));
    // A chain of 1 MB.
    let padding = identity(None, &["padding.example"], |_| {}).certificate;
    let count = 1_000_000 / padding.len();
    let chain: Vec<CertificateDer> = std::iter::repeat_n(padding, count).collect();
    let identity = identity(Some(&authority), &["shop.example"], |_| {});
    let server_of_chain =
        server(identity.server_of(default_provider(), DEFAULT_VERSIONS, chain), picture);
    assert_tls_failure(&trusting(&authority), &url("shop.example", &server_of_chain));
    assert_eq!(server_of_many.requests().len() + server_of_chain.requests().len(), 0);
}

// Each certificate of the chain may have issued each other one: checking every path would not end.
#[test]
fn a_maze_of_issuers_ends() {
    let (trusted, maze) = (authority(), authority());
    let issuer = |_| {
        identity(Some(&maze), &[], |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        })
        .certificate
    };
    let chain: Vec<CertificateDer> = (0..120).map(issuer).collect();
    let identity = identity(Some(&maze), &["shop.example"], |_| {});
    let server = server(identity.server_of(default_provider(), DEFAULT_VERSIONS, chain), picture);
    assert_tls_failure(&trusting(&trusted), &url("shop.example", &server));
    assert!(server.requests().is_empty());
}
