//! TLS at the client, by rustls with its buffers: one session for each connection, what they share,
//! and what was agreed on. Knows no poll.

use super::{Failure, TargetError, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    ProtocolVersion, RootCertStore, SignatureScheme,
};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Whether this build can do it.
pub const IS_BUILT_IN: bool = true;

/// What a browser offers for a WebSocket.
const ALPN: &[u8] = b"http/1.1";

/// What the sessions with one server share, on all threads.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// The version and the cipher suite of the first handshake.
    agreed: OnceLock<String>,
    full: AtomicU64,
    resumed: AtomicU64,
}

impl Tls {
    pub fn new(host: &str, trust: &Trust, resume: bool) -> Result<Tls, TargetError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TargetError::Tls(format!("{host:?} is no name for a certificate")))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Nothing => return Err(TargetError::TrustsNothing),
            Trust::Anything => Arc::new(AcceptAnything(provider.clone())),
            Trust::Roots(file) => {
                WebPkiServerVerifier::builder_with_provider(roots(file)?, provider.clone())
                    .build()
                    .map_err(|error| TargetError::Tls(error.to_string()))?
            }
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TargetError::Tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        if !resume {
            config.resumption = Resumption::disabled();
        }
        Ok(Tls(Arc::new(Shared {
            config: Arc::new(config),
            name,
            agreed: OnceLock::new(),
            full: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
        })))
    }

    /// The version and the cipher suite, once there was a handshake.
    pub fn agreed(&self) -> Option<&str> {
        self.0.agreed.get().map(String::as_str)
    }

    /// The handshakes so far: full ones, and those that resumed a session.
    pub fn handshakes(&self) -> [u64; 2] {
        [&self.0.full, &self.0.resumed].map(|count| count.load(Ordering::Relaxed))
    }

    fn count(&self, connection: &ClientConnection) {
        let count = match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.0.resumed,
            _ => &self.0.full,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.0.agreed.get_or_init(|| {
            let version = match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                _ => "TLS",
            };
            let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
            let suite = suite.and_then(|suite| suite.as_str()).unwrap_or("an unknown suite");
            // The registered name has no version in it.
            format!("{version}, {}", suite.replace("TLS13_", "TLS_"))
        });
    }
}

/// The certificates in a file.
fn roots(file: &Path) -> Result<Arc<RootCertStore>, TargetError> {
    let wrong =
        |why: &dyn std::fmt::Display| TargetError::Tls(format!("--ca {}: {why}", file.display()));
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|e| wrong(&e))?;
    let mut roots = RootCertStore::empty();
    // Of a system's many roots some may be of a kind that is not known here.
    if roots.add_parsable_certificates(certificates).0 == 0 {
        return Err(wrong(&"there is no certificate in it (PEM) that can be a root"));
    }
    Ok(Arc::new(roots))
}

/// TLS of one connection.
pub struct Session {
    connection: ClientConnection,
    tls: Tls,
}

impl Session {
    pub fn new(tls: &Tls) -> Result<Session, Failure> {
        let connection = ClientConnection::new(tls.0.config.clone(), tls.0.name.clone())
            .map_err(|error| Failure::Tls(error.to_string()))?;
        Ok(Session { connection, tls: tls.clone() })
    }

    /// Takes what was received, and appends what it says to `plaintext`. What is to be sent by that
    /// goes out with the next [`flush`](Self::flush).
    pub fn receive(&mut self, mut input: &[u8], plaintext: &mut Vec<u8>) -> Result<(), Failure> {
        let was_handshaking = self.connection.is_handshaking();
        while !input.is_empty() {
            self.connection.read_tls(&mut input)?;
            let state = self.connection.process_new_packets().map_err(|error| describe(&error))?;
            let before = plaintext.len();
            plaintext.resize(before + state.plaintext_bytes_to_read(), 0);
            self.connection.reader().read_exact(&mut plaintext[before..])?;
            if state.peer_has_closed() {
                break; // FIN follows.
            }
        }
        if was_handshaking && !self.connection.is_handshaking() {
            self.tls.count(&self.connection);
        }
        Ok(())
    }

    /// Takes bytes to be encrypted: as many as it has room for, and before the end of the handshake
    /// to keep them until then.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.connection.writer().write(bytes)
    }

    /// Sends what is encrypted. An error of the kind `WouldBlock` means that the socket is full.
    pub fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => _ = result?,
            }
        }
        Ok(())
    }
}

/// What a failure means to the person at the tool.
fn describe(error: &Error) -> Failure {
    let hint = match error {
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => ": the --ca does not vouch for it; --insecure accepts any",
        Error::InvalidMessage(_) => ": does the server speak TLS on this port?",
        _ => "",
    };
    Failure::Tls(format!("{error}{hint}"))
}

/// For `--insecure`. Signatures are checked nevertheless, so that the work is that of a client that
/// does trust the certificate.
#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
