//! A temporary certificate authority, and the TLS configurations of servers with its certificates.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// A certificate authority.
pub struct Authority {
    pub issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
    pub pem: String,
}

/// A new certificate authority.
pub fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

/// An authority below another one.
pub fn intermediate(authority: &Authority, name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    Authority {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

/// A certificate and its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub key: PrivatePkcs8KeyDer<'static>,
}

/// A certificate for `names`, modified by `change`; self-signed without an authority.
pub fn identity(
    authority: Option<&Authority>,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = match authority {
        Some(a) => params.signed_by(&key, &a.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Identity { certificate: certificate.der().clone(), key: key.serialize_der().into() }
}

impl Identity {
    /// The configuration of a server with this certificate.
    pub fn server(self) -> ServerConfig {
        self.server_of(rustls::crypto::ring::default_provider(), rustls::DEFAULT_VERSIONS, vec![])
    }

    /// The same with that cryptography, these versions of TLS, and more certificates in the chain.
    pub fn server_of(
        self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        more: Vec<CertificateDer<'static>>,
    ) -> ServerConfig {
        let key = provider.key_provider.load_private_key(self.key.into()).unwrap();
        let chain = std::iter::once(self.certificate).chain(more).collect();
        ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            // Unchecked: some tests present certificates that no client reads.
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
    }
}
