//! The client's side of a TLS session, for clients in memory.
//!
//! Bytes go in and bytes come out: it knows no pipe. It accepts every certificate, because it tests
//! a server and not that server's certificate.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::provider;
use super::session::failure;
use crate::error::TlsFailure;

/// The name that clients ask for.
const NAME: &str = "localhost";

pub(crate) struct Client(ClientConnection);

/// The result of handling input.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) plaintext: Vec<u8>,
    /// Why the session failed, if it did.
    pub(crate) failure: Option<TlsFailure>,
}

impl Client {
    /// A client that has said nothing yet.
    ///
    /// # Panics
    ///
    /// If the processor cannot run the crypto provider. Then there are no settings of a server
    /// either.
    pub(crate) fn new() -> Self {
        let provider = Arc::new(provider::chosen().expect("the server's settings need it too"));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
            .with_no_client_auth();
        // Each handshake is like the first one.
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(NAME).expect("it is a name");
        let mut connection =
            ClientConnection::new(Arc::new(config), name).expect("the settings are complete");
        connection.set_buffer_limit(None);
        Self(connection)
    }

    /// Takes plaintext to be sent. What is written before the handshake is complete goes out
    /// behind it. It is lost if the session has failed.
    pub(crate) fn write(&mut self, plaintext: &[u8]) {
        let _ = self.0.writer().write_all(plaintext);
    }

    /// Says that nothing more will be written (RFC 8446 §6.1), if the session has not failed.
    pub(crate) fn close(&mut self) {
        if self.0.process_new_packets().is_ok() {
            self.0.send_close_notify();
        }
    }

    /// Takes the records that are due.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut output).expect("a list takes everything");
        }
        output
    }

    /// Handles input.
    pub(crate) fn hear(&mut self, mut input: &[u8]) -> Heard {
        let mut heard = Heard::default();
        while !input.is_empty() && self.0.wants_read() {
            let read = self.0.read_tls(&mut input);
            debug_assert!(matches!(read, Ok(1..)), "it wants more: {read:?}");
            let result = self.0.process_new_packets();
            // What came before a failure counts. The error is that there is nothing more.
            let _ = self.0.reader().read_to_end(&mut heard.plaintext);
            if let Err(error) = result {
                heard.failure = Some(failure(&error));
                break;
            }
        }
        heard
    }

    /// Whether the server could have sent close_notify, and has not.
    pub(crate) fn is_unclosed(&mut self) -> bool {
        self.0.process_new_packets().is_ok_and(|state| !state.peer_has_closed())
    }
}

/// Trusts every server that has the key of its certificate.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
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
