//! One TLS session: records in, plaintext and records out. The handshake is a part of it.
//!
//! It uses the unbuffered API of rustls 0.23, and hides it: it knows no socket, and no buffer but
//! its arguments. Only this file, `settings`, `provider` and `client` name types of rustls.

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{self, ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{
    AlertDescription, CertificateError, Error, HandshakeKind, PeerIncompatible, ProtocolVersion,
};

use super::info::{TlsInfo, TlsVersion};
use super::settings::{Config, take_name};
use crate::error::TlsFailure;

/// The most plaintext of one record (RFC 8446 §5.1).
pub(super) const RECORD: usize = 16 * 1024;
/// The most bytes of one record: its header and the most ciphertext of RFC 5246 §6.2.3, which is
/// longer than that of RFC 8446 §5.2.
pub(super) const LONGEST_RECORD: usize = 5 + RECORD + 2048;
/// The bytes that encryption adds to a record, for most suites. A record that needs more says so.
const OVERHEAD: usize = 32;
/// The bytes of an alert as a record, for every suite.
const ALERT: usize = 64;

pub(super) struct Session {
    connection: UnbufferedServerConnection,
    server_name: Option<Box<str>>,
}

/// The result of handling input.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// The bytes of input that are handled. The others have to come again, unchanged, in front of
    /// what follows.
    pub(super) consumed: usize,
    pub(super) plaintext: usize,
    /// The number of records with plaintext.
    pub(super) records: usize,
    /// The peer has sent close_notify: it sends nothing more (RFC 8446 §6.1).
    pub(super) closed: bool,
}

impl Session {
    pub(super) fn new(Config(config): Config) -> Result<Self, TlsFailure> {
        let connection =
            UnbufferedServerConnection::new(config).map_err(|error| failure(&error))?;
        Ok(Self { connection, server_name: None })
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Keeps the name that the client has asked for, if it did in the input of just now.
    pub(super) fn keep_name(&mut self) {
        if let Some(name) = take_name() {
            self.server_name = Some(name);
        }
    }

    /// Handles input. `plaintext` must be as long as the input, or longer. Records that the session
    /// sends by itself are appended to `out`: those of the handshake, answers to key updates, and
    /// the alert if it fails.
    pub(super) fn receive(
        &mut self,
        input: &mut [u8],
        plaintext: &mut [u8],
        out: &mut Records,
    ) -> (Received, Result<(), TlsFailure>) {
        let mut received = Received::default();
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut input[received.consumed..]);
            let mut done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        let end = received.plaintext + record.payload.len();
                        plaintext[received.plaintext..end].copy_from_slice(record.payload);
                        received.plaintext = end;
                        received.records += 1;
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => received.closed = true,
                // Early data is refused, so none is read.
                Ok(_) => done = true,
                Err(error) => {
                    received.consumed += discard;
                    self.encode_queued(&mut input[received.consumed..], out);
                    return (received, Err(failure(&error)));
                }
            }
            received.consumed += discard;
            if done {
                return (received, Ok(()));
            }
        }
    }

    /// Appends what is queued when input has failed, the alert as the last. `rest` is the input
    /// that is not consumed. With nothing queued, a call would handle the record that has failed
    /// again.
    pub(super) fn encode_queued(&mut self, rest: &mut [u8], out: &mut Records) {
        while self.connection.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) =
                self.connection.process_tls_records(rest).state
        {
            encode(data, out);
        }
    }

    /// Appends a record with this plaintext, of at most [`RECORD`] bytes. `kept` is the input that
    /// is not consumed. A record that the session owes comes first.
    pub(super) fn encrypt(
        &mut self,
        kept: &mut [u8],
        plaintext: &[u8],
        out: &mut Records,
    ) -> Result<(), TlsFailure> {
        self.write(kept, plaintext.len() + OVERHEAD, out, |traffic, into| {
            traffic.encrypt(plaintext, into)
        })
    }

    /// Appends close_notify: nothing more will be written.
    pub(super) fn close(&mut self, kept: &mut [u8], out: &mut Records) -> Result<(), TlsFailure> {
        self.write(kept, ALERT, out, |traffic, into| traffic.queue_close_notify(into))
    }

    fn write(
        &mut self,
        kept: &mut [u8],
        len: usize,
        out: &mut Records,
        mut write: impl FnMut(&mut WriteTraffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsFailure> {
        loop {
            // What was not consumed before is not consumed now either: nothing has come.
            match self.connection.process_tls_records(kept).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return out.append(len, |into| match write(&mut traffic, into) {
                        Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                        Err(EncryptError::EncryptExhausted) => Err(None),
                        Ok(written) => Ok(written),
                    });
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                Ok(_) => return Err(TlsFailure::Other("the session cannot write".into())),
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    /// What was agreed on, once the handshake is complete.
    pub(super) fn info(&self) -> Option<TlsInfo> {
        if self.connection.is_handshaking() {
            return None;
        }
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        Some(TlsInfo {
            version: self.version()?,
            // The registered name has no version in it.
            cipher_suite: suite.as_str().unwrap_or("unknown").replace("TLS13_", "TLS_"),
            server_name: self.server_name.as_deref().map(str::to_owned),
            alpn: self
                .connection
                .alpn_protocol()
                .map(|name| String::from_utf8_lossy(name).into_owned()),
            resumed: self.is_resumed(),
            certificates: self
                .connection
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
        })
    }

    pub(super) fn version(&self) -> Option<TlsVersion> {
        match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some(TlsVersion::Tls12),
            ProtocolVersion::TLSv1_3 => Some(TlsVersion::Tls13),
            _ => None,
        }
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

/// Records on their way to a socket. The memory stays, so that it is cleared only once.
#[derive(Default)]
pub(super) struct Records {
    memory: Vec<u8>,
    len: usize,
}

impl Records {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends records that were made before.
    pub(super) fn put(&mut self, records: &[u8]) {
        self.memory.truncate(self.len);
        self.memory.extend_from_slice(records);
        self.len = self.memory.len();
    }

    /// Appends what `write` writes. It is offered `len` bytes, and more if it asks for more; its
    /// error is the number of bytes that it needs, or `None` if no number is enough.
    fn append(
        &mut self,
        len: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
    ) -> Result<(), TlsFailure> {
        let mut needed = len;
        loop {
            let end = self.len + needed;
            if self.memory.len() < end {
                self.memory.resize(end, 0);
            }
            match write(&mut self.memory[self.len..]) {
                Ok(written) => {
                    self.len += written;
                    return Ok(());
                }
                Err(Some(more)) if more > needed => needed = more,
                Err(_) => return Err(TlsFailure::Other("the keys are used up".to_owned())),
            }
        }
    }
}

/// Appends a record that the session sends by itself.
fn encode(mut data: EncodeTlsData<'_>, out: &mut Records) {
    let result = out.append(0, |into| {
        data.encode(into).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    });
    debug_assert!(result.is_ok(), "a record is encoded once");
}

/// Why a session failed, in the library's own terms.
pub(super) fn failure(error: &Error) -> TlsFailure {
    match error {
        Error::PeerIncompatible(reason) => match reason {
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // Older versions have no such extension (RFC 5246 §7.4.1.4.1). It is looked for first.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired => TlsFailure::Version,
            _ => TlsFailure::NothingInCommon(format!("{reason:?}")),
        },
        Error::NoApplicationProtocol => TlsFailure::Alpn,
        Error::NoCertificatesPresented => TlsFailure::CertificateMissing,
        Error::InvalidCertificate(reason) => TlsFailure::Certificate(describe(reason)),
        Error::AlertReceived(alert) => TlsFailure::Alert(alert_name(*alert)),
        error => TlsFailure::Other(error.to_string()),
    }
}

fn describe(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "its issuer is not among the roots".to_owned(),
        error => error.to_string(),
    }
}

/// The name of an alert as RFC 8446 §6.2 writes it.
fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownPSKIdentity => return "unknown_psk_identity".to_owned(),
        AlertDescription::UnrecognisedName => return "unrecognized_name".to_owned(),
        AlertDescription::Unknown(number) => return format!("number {number}"),
        _ => {}
    }
    let (mut name, mut in_word) = (String::new(), false);
    for c in format!("{alert:?}").chars() {
        if c.is_ascii_uppercase() && in_word {
            name.push('_');
        }
        in_word = c.is_ascii_lowercase();
        name.push(c.to_ascii_lowercase());
    }
    name
}

type EncodeTlsData<'c> = unbuffered::EncodeTlsData<'c, ServerConnectionData>;
type WriteTraffic<'c> = unbuffered::WriteTraffic<'c, ServerConnectionData>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tls::Tls;

    /// A session that has received a hello of this version, without extensions.
    fn hello(version: [u8; 2]) -> Result<(), TlsFailure> {
        let file = |name| format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"));
        let tls = Tls::pem(&file("localhost.pem"), &file("localhost.key")).unwrap();
        let random = [7; 32];
        // No session id; TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384; no compression.
        let rest = [0, 0, 2, 0xc0, 0x2c, 1, 0];
        let body = [&version[..], &random, &rest].concat();
        let len = body.len() as u8;
        let mut record = [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat();
        let mut plaintext = vec![0; record.len()];
        let mut session = Session::new(tls.config()).unwrap();
        let (_, result) = session.receive(&mut record, &mut plaintext, &mut Records::default());
        result
    }

    #[test]
    fn alerts_have_the_names_of_the_rfc() {
        for (number, name) in [
            (10, "unexpected_message"),
            (20, "bad_record_mac"),
            (42, "bad_certificate"),
            (48, "unknown_ca"),
            (112, "unrecognized_name"),
            (115, "unknown_psk_identity"),
            (120, "no_application_protocol"),
            (200, "number 200"),
        ] {
            assert_eq!(alert_name(AlertDescription::from(number)), name);
        }
    }

    #[test]
    fn a_client_of_an_older_version_fails_because_of_that() {
        assert_eq!(hello([3, 1]), Err(TlsFailure::Version), "TLS 1.0");
        assert_eq!(hello([3, 2]), Err(TlsFailure::Version), "TLS 1.1");
    }
}
