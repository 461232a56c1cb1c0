//! The connection to a model server: certificates, limits of answers, and reuse.

use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_models::RemoteSettings;
use pg_caption_remote::{ApiKey, ModelServer, RemoteFault, ServerOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn settings(base_url: &str, more: &str) -> RemoteSettings {
    let json = format!(r#"{{"protocol": "openai", "base_url": "{base_url}", "model": "m"{more}}}"#);
    RemoteSettings::parse(json.as_bytes(), Path::new("remote.json")).unwrap()
}

fn server(settings: &RemoteSettings, authorities: Option<Vec<u8>>) -> ModelServer {
    ModelServer::new(settings, ServerOptions { authorities, connect_timeout: None }).unwrap()
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// An authority as PEM, and a server on loopback with a certificate of it that answers every
/// request with what it was sent as authorization.
fn tls_server() -> (String, String) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(connection) = ServerConnection::new(config.clone()) else { continue };
            let mut stream = StreamOwned::new(connection, stream);
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                request.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
            // To close a socket with unread bytes resets the connection: the client may lose the
            // answer.
            let length = header("content-length: ").map_or(0, |length| length.parse().unwrap());
            let _ = stream.read_exact(&mut vec![0; length]);
            let body = header("authorization: ").unwrap_or("nothing").len().to_string();
            let _ = write!(
                stream,
                "HTTP/1.1 200 x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.flush();
        }
    });
    (url, authority)
}

#[test]
fn a_certificate_of_the_ca_file_is_accepted() {
    let (url, authority) = tls_server();
    let settings = settings(&url, r#", "api_key_file": "key""#);
    // The system's store does not have the authority: the key is not sent.
    let refused = server(&settings, None);
    refused.set_key(Some(ApiKey::new(b"sk-1", &settings.base_url).unwrap()));
    let fault = refused.post(b"{}", later(), Box::new(|| false)).unwrap_err();
    assert!(
        matches!(&fault, RemoteFault::Refused(why) if why.contains("certificate")),
        "{fault:?}"
    );
    let accepted = server(&settings, Some(authority.clone().into_bytes()));
    accepted.set_key(Some(ApiKey::new(b"sk-1", &settings.base_url).unwrap()));
    let answer = accepted.post(b"{}", later(), Box::new(|| false)).unwrap();
    assert_eq!(answer.body, "bearer sk-1".len().to_string().as_bytes());
    for (pem, cause) in [("", "no certificate"), ("-----BEGIN CERTIFICATE-----\n", "ca_file")] {
        let options = ServerOptions { authorities: Some(pem.into()), connect_timeout: None };
        let error = ModelServer::new(&settings, options).err().unwrap();
        assert!(error.contains(cause), "{error}");
    }
}

#[test]
fn an_answer_of_more_than_a_megabyte_is_refused() {
    for (length, fits) in [((1 << 20), true), ((1 << 20) + 1, false)] {
        let model =
            ScriptedServer::start(move |_| ScriptedAnswer::status(200, &"x".repeat(length)));
        let server = server(&settings(&model.url(), ""), None);
        let answer = server.post(b"{}", later(), Box::new(|| false));
        match fits {
            true => assert_eq!(answer.unwrap().body.len(), length),
            false => assert!(matches!(answer, Err(RemoteFault::Malformed(_)))),
        }
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let other = ScriptedServer::start(|_| ScriptedAnswer::text("A cat", None));
    let location = format!("Location: {}/chat/completions\r\n", other.url());
    let model =
        ScriptedServer::start(move |_| ScriptedAnswer::Full(307, location.clone(), String::new()));
    let server = server(&settings(&model.url(), ""), None);
    let answer = server.post(b"{}", later(), Box::new(|| false)).unwrap();
    assert_eq!((answer.status, other.seen().len()), (307, 0));
}

#[test]
fn a_slow_answer_ends_at_the_timeout() {
    let model = ScriptedServer::start(|_| {
        std::thread::sleep(Duration::from_secs(2));
        ScriptedAnswer::text("A cat", None)
    });
    let slow = server(&settings(&model.url(), r#", "timeout": 0.2"#), None);
    let fault = slow.post(b"{}", later(), Box::new(|| false)).unwrap_err();
    assert_eq!(fault, RemoteFault::Slow(Duration::from_millis(200)));
    let left = server(&settings(&model.url(), ""), None);
    let fault = left.post(b"{}", later(), Box::new(|| true)).unwrap_err();
    assert_eq!(fault, RemoteFault::Cancelled);
}

#[test]
fn connections_are_reused_and_replaced() {
    let model = ScriptedServer::start(|_| ScriptedAnswer::text("A cat", None));
    let server = server(&settings(&model.url(), ""), None);
    let ask = || server.post(b"{}", later(), Box::new(|| false));
    for _ in 0..3 {
        assert_eq!(ask().unwrap().status, 200);
    }
    assert!(model.seen().iter().all(|request| request.connection == 1));
    model.kill();
    assert!(matches!(ask(), Err(RemoteFault::Down(_) | RemoteFault::Reset(_))));
    model.restart();
    assert_eq!(ask().unwrap().status, 200);
    let unknown = self::server(&settings("http://nowhere.invalid/v1", ""), None);
    let fault = unknown.post(b"{}", later(), Box::new(|| false)).unwrap_err();
    assert!(matches!(fault, RemoteFault::Down(_)), "{fault:?}");
}
