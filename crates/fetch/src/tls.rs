//! TLS with one shared configuration, and what is wrong with a certificate that is refused. ureq
//! would build a configuration, the certificate store included, for each request with its own
//! settings, and its errors do not say which certificates a host has sent.

use crate::attempt;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use std::io::{Read, Write};
use std::sync::Arc;
use ureq::Error;
use ureq::unversioned::transport::time::{Duration as Wait, Instant as Moment};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};
use webpki::EndEntityCert;

/// What is wrong with the certificate of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// The host sends its certificate alone, and no known authority has signed it.
    Incomplete,
    /// No known authority has signed the chain.
    UnknownAuthority,
    /// The certificate is its own authority.
    SelfSigned,
    /// It is no longer valid.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It is for other names.
    OtherName,
    /// Anything else.
    Other,
}

impl CertificateFault {
    /// What to do.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            CertificateFault::Incomplete => {
                "The host sends its certificate without the intermediate certificate of its \
                 authority, which browsers find elsewhere. Its operator must serve the whole \
                 chain. If the authority is a private one, install it in this server's \
                 certificate store."
            }
            CertificateFault::SelfSigned => {
                "The host's certificate is self-signed. Install it in this server's certificate \
                 store, or have the host use a certificate of an authority."
            }
            CertificateFault::Expired => {
                "The host's certificate has expired. Its operator must renew it. Check the clock \
                 of this server, too."
            }
            CertificateFault::NotYetValid => {
                "The host's certificate is not valid yet. Check the clock of this server."
            }
            CertificateFault::OtherName => {
                "The host's certificate is for other names. Use one of them in the URL, or have \
                 the host's operator add the name."
            }
            CertificateFault::UnknownAuthority | CertificateFault::Other => {
                "Check the host's certificate, or install its authority in this server's \
                 certificate store."
            }
        }
    }

    fn of(
        error: &rustls::Error,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> CertificateFault {
        use CertificateError as E;
        let rustls::Error::InvalidCertificate(error) = error else {
            return CertificateFault::Other;
        };
        match error {
            E::Expired | E::ExpiredContext { .. } => CertificateFault::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => CertificateFault::NotYetValid,
            E::NotValidForName | E::NotValidForNameContext { .. } => CertificateFault::OtherName,
            _ if is_self_signed(certificate) => CertificateFault::SelfSigned,
            E::UnknownIssuer if others.is_empty() => CertificateFault::Incomplete,
            E::UnknownIssuer => CertificateFault::UnknownAuthority,
            _ => CertificateFault::Other,
        }
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|it| it.issuer() == it.subject())
}

/// Verifies as rustls does, and notes in the [`attempt`] of this thread why it refuses.
#[derive(Debug)]
struct NotingVerifier(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for NotingVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify_server_cert(certificate, others, name, ocsp, now).inspect_err(|error| {
            attempt::note_certificate(Some(CertificateFault::of(error, certificate, others)));
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The certificate authorities of the system as DER, with `SSL_CERT_FILE` and `SSL_CERT_DIR`.
/// Unreadable ones are skipped, as by other programs.
pub fn system_roots() -> Vec<Vec<u8>> {
    rustls_native_certs::load_native_certs().certs.iter().map(|der| der.to_vec()).collect()
}

/// Opens TLS for https, over the connection of the connector before it.
#[derive(Debug)]
pub struct SharedTls {
    config: Arc<ClientConfig>,
}

impl SharedTls {
    /// Trusts the authorities with these DER certificates; unreadable ones are skipped, as by other
    /// programs. Also returns whether any is left.
    ///
    /// # Errors
    /// The versions of TLS do not fit the cryptography.
    pub fn new(roots: Vec<Vec<u8>>) -> Result<(SharedTls, bool), rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.into_iter().map(CertificateDer::from));
        let (store, has_roots) = (Arc::new(store.clone()), !store.is_empty());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        // The verifier cannot be built without authorities; then every certificate is refused.
        let config =
            match WebPkiServerVerifier::builder_with_provider(store.clone(), provider).build() {
                Ok(verifier) => builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(NotingVerifier(verifier)))
                    .with_no_client_auth(),
                Err(_) => builder.with_root_certificates(store).with_no_client_auth(),
            };
        Ok((SharedTls { config: Arc::new(config) }, has_roots))
    }
}

impl<In: Transport> Connector<In> for SharedTls {
    type Out = Either<In, TlsStream>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        // No address accepted the connection.
        let Some(inner) = chained else { return Err(Error::ConnectionFailed) };
        if !details.needs_tls() || inner.is_tls() {
            return Ok(Some(Either::A(inner)));
        }
        let host = details.uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| Error::Tls("the host is no name that TLS can verify"))?;
        let mut conn = ClientConnection::new(self.config.clone(), name)?;
        let mut sock = TransportAdapter::new(inner.boxed(), details.current_time.clone());
        sock.set_timeout(remaining(details));
        attempt::note_certificate(None);
        conn.complete_io(&mut sock)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(TlsStream { buffers, stream: StreamOwned { conn, sock } })))
    }
}

/// The time to connect, less what TCP has taken of it.
fn remaining(details: &ConnectionDetails) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Moment::Exact(now), Moment::Exact(begun)) = ((details.current_time)(), details.now)
        && !timeout.after.is_not_happening()
    {
        let taken = now.saturating_duration_since(begun);
        timeout.after = Wait::Exact(timeout.after.saturating_sub(taken));
    }
    timeout
}

/// A TLS connection.
pub struct TlsStream {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl Transport for TlsStream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
