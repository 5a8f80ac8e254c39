//! The client's side of TLS in memory: rustls, and records that rustls would not send. Knows no
//! server and no pipe.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use ikisocket::Tls;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::cipher::{MessageEncrypter, OutboundPlainMessage};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
};

/// The content types of records (RFC 8446 §5.1).
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;

/// The server's settings, made once.
pub fn server_settings() -> &'static Tls {
    static TLS: OnceLock<Tls> = OnceLock::new();
    TLS.get_or_init(|| {
        Tls::pem(
            include_bytes!("../../tests/tls/localhost.pem"),
            include_bytes!("../../tests/tls/localhost.key"),
        )
        .expect("they belong together")
    })
}

/// A client that trusts the test's root, and takes tickets for itself.
pub fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(include_bytes!("../../tests/tls/root.pem"));
        roots.add(root.expect("it is a certificate")).expect("it can be a root");
        Arc::new(roots)
    });
    let mut provider = default_provider();
    // The one that `Forger` knows.
    provider.cipher_suites.retain(|suite| {
        *suite == cipher_suite::TLS13_AES_128_GCM_SHA256
            || *suite == cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    });
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .expect("there is a suite for it")
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config
}

/// The client's session.
pub struct TlsClient {
    pub connection: ClientConnection,
    /// Plaintext that has come.
    pub plaintext: Vec<u8>,
    /// Whether the server's bytes broke the protocol.
    pub failed: bool,
}

impl TlsClient {
    pub fn new(config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let mut connection =
            ClientConnection::new(Arc::clone(config), name).expect("the settings are complete");
        connection.set_buffer_limit(None);
        Self { connection, plaintext: Vec::new(), failed: false }
    }

    pub fn write(&mut self, plaintext: &[u8]) {
        // The error is that the session has failed.
        self.failed |= self.connection.writer().write_all(plaintext).is_err();
    }

    /// Takes the records that are due.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut output).expect("a list takes everything");
        }
        output
    }

    /// Handles what the server has sent.
    pub fn hear(&mut self, mut input: &[u8]) {
        while !input.is_empty() && !self.failed {
            match self.connection.read_tls(&mut input) {
                Ok(1..) => {}
                _ => return,
            }
            self.failed = self.connection.process_new_packets().is_err();
            let _ = self.connection.reader().read_to_end(&mut self.plaintext);
        }
    }

    /// Its keys, with which records are forged from now on; `None` during the handshake, and with
    /// something still to be sent.
    pub fn into_forger(self) -> Option<Forger> {
        let version = self.connection.protocol_version()?;
        let suite = self.connection.negotiated_cipher_suite()?;
        let (sequence, secrets) = self.connection.dangerous_extract_secrets().ok()?.tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { return None };
        let encrypter = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
            SupportedCipherSuite::Tls12(suite) => {
                let (iv, explicit) = iv.as_ref().split_at(4);
                suite.aead_alg.encrypter(key, iv, explicit)
            }
        };
        let mut forger = Forger { encrypter, version, sequence: 0 };
        if sequence > 0 {
            // The provider takes the first number that it sees for 0.
            forger.record(ALERT, b"");
            forger.sequence = sequence;
        }
        Some(forger)
    }
}

/// Makes records of any content, with a client's keys.
pub struct Forger {
    encrypter: Box<dyn MessageEncrypter>,
    version: ProtocolVersion,
    sequence: u64,
}

impl Forger {
    pub fn record(&mut self, content_type: u8, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ: ContentType::from(content_type),
            version: self.version,
            payload: payload.into(),
        };
        let record = self.encrypter.encrypt(message, self.sequence).expect("it fits in a record");
        self.sequence += 1;
        record.encode()
    }
}

/// A record without encryption.
pub fn plain_record(content_type: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("it fits in a record").to_be_bytes();
    [&[content_type, 3, 3], &len[..], payload].concat()
}

/// A handshake message: its type, its length, and as much of its body (RFC 8446 §4).
pub fn handshake_message(message_type: u8, len: u32, body: &[u8]) -> Vec<u8> {
    [&[message_type], &len.to_be_bytes()[1..], body].concat()
}
