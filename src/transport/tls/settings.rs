//! What a server is and accepts: certificates by name, the clients' certificates, tickets.
//!
//! Only this file and `session` name types of rustls.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, KeyLogFile, RootCertStore, ServerConfig};

use super::provider;
use crate::error::TlsError;

/// The protocol that is agreed on by ALPN (RFC 7301): a WebSocket begins with HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";

/// PEM text, or the file that it is in.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Pem<'a> {
    /// A file, which is read once.
    File(&'a Path),
    /// The text itself.
    Text(&'a [u8]),
}

impl<'a> From<&'a str> for Pem<'a> {
    /// The path of a file.
    fn from(path: &'a str) -> Self {
        Self::File(Path::new(path))
    }
}

impl<'a> From<&'a String> for Pem<'a> {
    /// The path of a file.
    fn from(path: &'a String) -> Self {
        Self::File(Path::new(path))
    }
}

impl<'a> From<&'a Path> for Pem<'a> {
    fn from(path: &'a Path) -> Self {
        Self::File(path)
    }
}

impl<'a> From<&'a PathBuf> for Pem<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self::File(path)
    }
}

impl<'a> From<&'a [u8]> for Pem<'a> {
    /// The text itself.
    fn from(text: &'a [u8]) -> Self {
        Self::Text(text)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Pem<'a> {
    /// The text itself, as from `include_bytes!`.
    fn from(text: &'a [u8; N]) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Vec<u8>> for Pem<'a> {
    /// The text itself.
    fn from(text: &'a Vec<u8>) -> Self {
        Self::Text(text)
    }
}

/// Shows where it is from, without its text.
impl fmt::Display for Pem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Text(text) => write!(f, "a text of {} bytes", text.len()),
        }
    }
}

impl Pem<'_> {
    fn read(self) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::File(path) => std::fs::read(path)
                .map_err(|error| TlsError::Read { path: path.to_owned(), error: error.into() }),
            Self::Text(text) => Ok(text.to_vec()),
        }
    }

    fn certificates(self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let text = self.read()?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err(TlsError::NoCertificate { from: self.to_string() })
            }
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.faulty(&error)),
        }
    }

    fn key(self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let text = self.read()?;
        match PrivateKeyDer::from_pem_slice(&text) {
            Ok(key) => Ok(key),
            Err(pem::Error::NoItemsFound) => {
                let encrypted = b"BEGIN ENCRYPTED PRIVATE KEY";
                let encrypted = text.windows(encrypted.len()).any(|part| part == encrypted);
                Err(TlsError::NoKey { from: self.to_string(), encrypted })
            }
            Err(error) => Err(self.faulty(&error)),
        }
    }

    fn faulty(self, error: &pem::Error) -> TlsError {
        TlsError::Pem { from: self.to_string(), reason: error.to_string() }
    }
}

/// Whether clients have to show a certificate: [`Tls::client_certificates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// A client may have none. One that has a certificate which the roots do not vouch for is
    /// refused.
    Requested,
    /// A client without a certificate is refused.
    Required,
}

/// TLS for listening sockets ([`Server::listen_tls`](crate::Server::listen_tls)): the server's
/// certificates and keys, and whether clients have to show one. It needs the feature `tls`, or
/// another of the features that choose a crypto provider.
///
/// TLS 1.3 and 1.2 are spoken. Early data is refused, because an attacker can send it again
/// (RFC 8446 §8). Sessions are resumed by tickets, with keys that change every 6 hours and are
/// accepted for 12.
///
/// A clone is another handle to the same settings. It may be used on any thread: what is changed
/// there holds for all connections that are accepted afterwards, by every server that has a clone.
///
/// ```no_run
/// use ikisocket::{Server, Tls};
///
/// let tls = Tls::pem("/etc/ikisocket/chain.pem", "/etc/ikisocket/key.pem")?;
/// let mut server = Server::builder().build(())?;
/// server.listen_tls("[::]:443", &tls)?;
/// server.run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    provider: Arc<CryptoProvider>,
    certificates: Arc<Certificates>,
    config: RwLock<Arc<ServerConfig>>,
    /// What `config` was made from. It is locked while that is changed.
    choices: RwLock<Choices>,
}

#[derive(Clone, Default)]
struct Choices {
    clients: Option<(Arc<RootCertStore>, ClientCertificates)>,
    key_log: bool,
}

/// The settings that one connection is accepted with.
#[derive(Clone)]
pub(super) struct Config(pub(super) Arc<ServerConfig>);

impl Tls {
    /// TLS with one certificate. `chain` has the server's certificate first, then those that lead
    /// to a root that clients know; `key` is its private key (PKCS #8, PKCS #1 or SEC 1). Both are
    /// PEM: a path (`&str`, `&Path`) or the text itself (`&[u8]`). Files are read now and not
    /// again, so the process may give up its privileges afterwards.
    ///
    /// # Errors
    ///
    /// [`TlsError`] says which file is missing, empty or wrong, whether the key belongs to another
    /// certificate, and whether the processor cannot run the crypto provider.
    pub fn pem<'a>(chain: impl Into<Pem<'a>>, key: impl Into<Pem<'a>>) -> Result<Self, TlsError> {
        let provider = Arc::new(provider::chosen()?);
        let pair = pair(chain.into(), key.into(), &provider)?;
        let certificates =
            Arc::new(Certificates(RwLock::new(Table { default: pair, by_name: HashMap::new() })));
        let choices = Choices::default();
        let config = config(&provider, &certificates, &choices, provider::tickets()?)?;
        Ok(Self(Arc::new(Shared {
            provider,
            certificates,
            config: RwLock::new(Arc::new(config)),
            choices: RwLock::new(choices),
        })))
    }

    /// Replaces the certificate and key that [`pem`](Self::pem) set, for connections that are
    /// accepted from now on. Open connections continue, and their tickets stay valid. On an error
    /// nothing is changed.
    ///
    /// # Errors
    ///
    /// The same as those of [`pem`](Self::pem).
    pub fn replace<'a>(
        &self,
        chain: impl Into<Pem<'a>>,
        key: impl Into<Pem<'a>>,
    ) -> Result<(), TlsError> {
        let pair = pair(chain.into(), key.into(), &self.0.provider)?;
        self.0.certificates.change(|table| table.default = pair);
        Ok(())
    }

    /// Sets the certificate and key for clients that ask for `name` (SNI, RFC 6066 §3), or replaces
    /// them. `*.example.org` stands for every name with one label more. Other clients, and those
    /// that ask for no name, get the certificate of [`pem`](Self::pem).
    ///
    /// # Errors
    ///
    /// The same as those of [`pem`](Self::pem); [`TlsError::Name`] if `name` is not a DNS name, or
    /// if the certificate is not valid for it. On an error nothing is changed.
    pub fn name<'a>(
        &self,
        name: &str,
        chain: impl Into<Pem<'a>>,
        key: impl Into<Pem<'a>>,
    ) -> Result<(), TlsError> {
        let pair = pair(chain.into(), key.into(), &self.0.provider)?;
        let name = name.to_ascii_lowercase();
        check_name(&name, &pair).map_err(|reason| TlsError::Name { name: name.clone(), reason })?;
        self.0.certificates.change(|table| {
            table.by_name.insert(name, pair);
        });
        Ok(())
    }

    /// Forgets the certificate for a name; returns whether there was one.
    pub fn forget_name(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.0.certificates.change(|table| table.by_name.remove(&name).is_some())
    }

    /// Asks clients for a certificate that one of the `roots` (PEM) vouches for, or requires one.
    /// Only the chain is checked; what the certificate permits is for a
    /// [filter](crate::Server::filter) to decide ([`Incoming::tls`](crate::Incoming::tls)).
    /// Revocation lists are not looked at.
    ///
    /// It may be called again with other roots. As always, open connections continue. Tickets that
    /// were given before are not accepted any more.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if the roots cannot be read or used. On an error nothing is changed.
    pub fn client_certificates<'a>(
        &self,
        roots: impl Into<Pem<'a>>,
        demand: ClientCertificates,
    ) -> Result<(), TlsError> {
        let pem = roots.into();
        let mut roots = RootCertStore::empty();
        for certificate in pem.certificates()? {
            roots.add(certificate).map_err(|error| TlsError::Pem {
                from: pem.to_string(),
                reason: error.to_string(),
            })?;
        }
        self.choose(true, |choices| choices.clients = Some((Arc::new(roots), demand)))
    }

    /// Writes the secrets of sessions to the file that the environment variable `SSLKEYLOGFILE`
    /// names, for debugging. With that file the connections can be read, by Wireshark and by an
    /// attacker. Without
    /// the variable nothing is written.
    ///
    /// # Errors
    ///
    /// [`TlsError`], if the settings cannot be made again.
    pub fn key_log(&self) -> Result<(), TlsError> {
        self.choose(false, |choices| choices.key_log = true)
    }

    /// The settings for a connection that is accepted now.
    pub(super) fn config(&self) -> Config {
        Config(Arc::clone(&self.0.config.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Changes a choice and makes the settings again.
    fn choose(&self, new_tickets: bool, change: impl FnOnce(&mut Choices)) -> Result<(), TlsError> {
        let Shared { provider, certificates, config: current, choices } = &*self.0;
        let mut choices = choices.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = choices.clone();
        change(&mut changed);
        let tickets =
            if new_tickets { provider::tickets()? } else { Arc::clone(&self.config().0.ticketer) };
        let made = Arc::new(config(provider, certificates, &changed, tickets)?);
        *current.write().unwrap_or_else(PoisonError::into_inner) = made;
        *choices = changed;
        Ok(())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = self.0.certificates.table();
        f.debug_struct("Tls")
            .field("names", &certificates.by_name.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A certificate with its key.
fn pair(
    chain: Pem<'_>,
    key: Pem<'_>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let (certificates, private) = (chain.certificates()?, key.key()?);
    match CertifiedKey::from_der(certificates, private, provider) {
        Ok(pair) => Ok(Arc::new(pair)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::Mismatch { chain: chain.to_string(), key: key.to_string() })
        }
        Err(Error::InvalidCertificate(error)) => {
            Err(TlsError::Pem { from: chain.to_string(), reason: error.to_string() })
        }
        Err(error) => Err(TlsError::Pem { from: key.to_string(), reason: error.to_string() }),
    }
}

/// Checks that a certificate is valid for a name.
fn check_name(name: &str, pair: &CertifiedKey) -> Result<(), String> {
    // A certificate for `*.example.org` is valid for each such name.
    let example = match name.strip_prefix("*.") {
        Some(parent) => format!("a.{parent}"),
        None => name.to_owned(),
    };
    let server_name = match ServerName::try_from(example) {
        Ok(server_name @ ServerName::DnsName(_)) => server_name,
        _ => return Err("it is not a DNS name".to_owned()),
    };
    let certificate = pair.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate
        .and_then(|certificate| rustls::client::verify_server_name(&certificate, &server_name))
        .map_err(|_| "the certificate is not valid for it".to_owned())
}

fn config(
    provider: &Arc<CryptoProvider>,
    certificates: &Arc<Certificates>,
    choices: &Choices,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let unusable = |error: &dyn fmt::Display| TlsError::Unusable { reason: error.to_string() };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = match &choices.clients {
        None => builder.with_no_client_auth(),
        Some((roots, demand)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::clone(roots),
                Arc::clone(provider),
            );
            let verifier = match demand {
                ClientCertificates::Requested => verifier.allow_unauthenticated(),
                ClientCertificates::Required => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&error))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::clone(certificates) as _);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Tickets hold what a session needs, so nothing is stored here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.max_early_data_size = 0;
    if choices.key_log {
        config.key_log = Arc::new(KeyLogFile::new());
    }
    Ok(config)
}

/// The certificates by name. They may be changed while handshakes look one up.
struct Certificates(RwLock<Table>);

struct Table {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Table) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

thread_local! {
    /// The name that the last client asked for, if [`take_name`] has not taken it yet.
    static NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Takes the name for which a certificate was looked up on this thread since the last call. A
/// session of the unbuffered API does not give it out, and looks the certificate up while it
/// handles input.
pub(super) fn take_name() -> Option<Box<str>> {
    NAME.take()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NAME.set(hello.server_name().map(Box::from));
        let table = self.table();
        let by_name = hello.server_name().and_then(|name| {
            table.by_name.get(name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                table.by_name.get(&format!("*.{parent}"))
            })
        });
        Some(Arc::clone(by_name.unwrap_or(&table.default)))
    }
}
