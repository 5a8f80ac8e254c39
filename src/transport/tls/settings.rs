//! What a server is and accepts: certificates by name, the clients' certificates, tickets.

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

/// PEM text (RFC 7468), or the file that it is in. The methods of [`Tls`] take what converts into
/// it:
///
/// | argument | is |
/// |---|---|
/// | `&str`, `&String`, `&Path`, `&PathBuf` | the path of a file, which is read during the call |
/// | `&[u8]`, `&[u8; N]`, `&Vec<u8>` | the text itself |
///
/// Sections of other kinds, and lines outside sections, are skipped. So the chain and the key may
/// be in one file, which is then given twice.
///
/// ```
/// use ikisocket::Tls;
///
/// # let (chain, key) = ("tests/tls/localhost.pem", "tests/tls/localhost.key");
/// // For instance from an environment variable: text in a `String` is given as bytes.
/// let key: String = std::fs::read_to_string(key)?;
/// let tls = Tls::pem(chain, key.as_bytes())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// A client is asked for a certificate, and may have none. One that shows a certificate which
    /// the roots do not vouch for is refused ([`TlsFailure::Certificate`](crate::TlsFailure)).
    ///
    /// A browser that has a fitting certificate asks its user which one to show.
    Requested,
    /// A client without a certificate is refused as well
    /// ([`TlsFailure::CertificateMissing`](crate::TlsFailure)). Health checks and pages at this
    /// address need one too.
    Required,
}

/// TLS for listening sockets ([`Server::listen_tls`](crate::Server::listen_tls)): the server's
/// certificates and keys, and whether clients have to show a certificate. It needs the feature
/// `tls`, or another of the features that choose a crypto provider. The manual has a [chapter on
/// TLS](crate::manual::tls).
///
/// TLS 1.3 (RFC 8446) and 1.2 (RFC 5246) are spoken, with the suites and the key exchanges of
/// rustls: all of them have forward secrecy. By ALPN (RFC 7301), `http/1.1` is agreed on. Early
/// data is refused, because an attacker can send it again (RFC 8446 §8). Sessions are resumed by
/// tickets (RFC 8446 §4.6.1, RFC 5077), with keys that change every 6 hours and are accepted for
/// 12. These keys are only in memory: another `Tls`, or another process, has its own.
///
/// A clone is another handle to the same settings. It may be used on any thread: what is changed
/// there holds for every server that listens with a clone. A change holds for later connections;
/// open ones go on as they are.
///
/// What is not guaranteed: whether the chain leads to a root that clients know, and whether the
/// certificates have expired. Neither is checked here; clients check both.
///
/// ```no_run
/// use ikisocket::{Server, Tls};
///
/// let tls = Tls::pem("/etc/ikisocket/chain.pem", "/etc/ikisocket/key.pem")?;
/// let mut server = Server::builder().build(())?;
/// server.listen_tls("[::]:443", &tls)?;
///
/// std::thread::spawn(move || {
///     // Whenever there is a new certificate:
///     if let Err(error) = tls.replace("/etc/ikisocket/chain.pem", "/etc/ikisocket/key.pem") {
///         eprintln!("the old certificate stays: {error}");
///     }
/// });
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
    /// TLS with one certificate, for all names ([`name`](Self::name) adds others).
    ///
    /// `chain` has the server's certificate first, then those that lead to a root that clients
    /// know. `key` is its private key, not encrypted, in PKCS #8, PKCS #1 or SEC 1. Both are PEM: a
    /// path or the text itself ([`Pem`]). Files are read during this call and not again, so the
    /// process may give up its privileges afterwards.
    ///
    /// ```
    /// use ikisocket::{Server, Tls};
    ///
    /// # let (chain, key) = ("tests/tls/localhost.pem", "tests/tls/localhost.key");
    /// let tls = Tls::pem(chain, key)?;
    /// let mut server = Server::builder().build(())?;
    /// let address = server.listen_tls("127.0.0.1:0", &tls)?;
    /// println!("wss://{address}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`TlsError::Read`]: a file cannot be read.
    /// - [`TlsError::NoCertificate`], [`TlsError::NoKey`]: there is none in it, or the key is
    ///   encrypted.
    /// - [`TlsError::Pem`]: the PEM, the certificate or the key is broken, or the crypto provider
    ///   cannot use such a key.
    /// - [`TlsError::Mismatch`]: the key belongs to another certificate.
    /// - [`TlsError::Processor`]: this processor cannot run the crypto provider.
    /// - [`TlsError::Unusable`]: the system has no random numbers for the keys of tickets.
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

    /// Replaces the certificate and key that [`pem`](Self::pem) set, for handshakes that begin from
    /// now on. Certificates of [names](Self::name) stay. Open connections continue, and tickets
    /// stay valid: a client that resumes a session is shown no certificate. On an error nothing is
    /// changed.
    ///
    /// It reads the files on the calling thread. No handshake waits meanwhile.
    ///
    /// ```
    /// use ikisocket::{Tls, TlsError};
    ///
    /// # std::env::set_current_dir("tests/tls")?;
    /// let tls = Tls::pem("localhost.pem", "localhost.key")?;
    /// tls.replace("renewed.pem", "renewed.key")?;
    ///
    /// let half = tls.replace("localhost.pem", "renewed.key");
    /// assert!(matches!(half, Err(TlsError::Mismatch { .. }))); // the renewed pair stays
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`pem`](Self::pem), except [`TlsError::Processor`] and
    /// [`TlsError::Unusable`].
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
    /// them, for handshakes that begin from now on.
    ///
    /// Capitals and small letters are the same. `*.example.org` stands for `a.example.org` and all
    /// others with one label more, but neither for `example.org` nor for `b.a.example.org`. An
    /// exact name is preferred to it. Other clients, and those that ask for no name because they
    /// connect to an address, get the certificate of [`pem`](Self::pem).
    ///
    /// What is not checked: whether the `Host` header of the request has the same name. Compare
    /// [`TlsInfo::server_name`](crate::TlsInfo::server_name) in a filter if that matters.
    ///
    /// ```
    /// use ikisocket::{Tls, TlsError};
    ///
    /// # std::env::set_current_dir("tests/tls")?;
    /// let tls = Tls::pem("localhost.pem", "localhost.key")?;
    /// tls.name("chat.example", "example.pem", "example.key")?;
    /// tls.name("*.example.org", "example.pem", "example.key")?;
    ///
    /// let wrong = tls.name("example.com", "example.pem", "example.key");
    /// assert!(matches!(wrong, Err(TlsError::Name { .. }))); // the certificate has another name
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same as those of [`replace`](Self::replace); [`TlsError::Name`] if `name` is not a DNS
    /// name, or if the certificate is not valid for it. On an error nothing is changed.
    pub fn name<'a>(
        &self,
        name: &str,
        chain: impl Into<Pem<'a>>,
        key: impl Into<Pem<'a>>,
    ) -> Result<(), TlsError> {
        let pair = pair(chain.into(), key.into(), &self.0.provider)?;
        let name = without_dot(name);
        check_name(&name, &pair).map_err(|reason| TlsError::Name { name: name.clone(), reason })?;
        self.0.certificates.change(|table| {
            table.by_name.insert(name, pair);
        });
        Ok(())
    }

    /// Forgets the certificate of a [name](Self::name), for handshakes that begin from now on.
    /// Returns whether there was one. Clients that ask for this name then get the certificate of
    /// [`pem`](Self::pem).
    pub fn forget_name(&self, name: &str) -> bool {
        let name = without_dot(name);
        self.0.certificates.change(|table| table.by_name.remove(&name).is_some())
    }

    /// Asks clients for a certificate that one of the `roots` (PEM) vouches for, or requires one,
    /// for connections that are accepted from now on. Default: no client is asked.
    ///
    /// Three things are checked: signatures lead from the client's certificate to one of the roots,
    /// none of these certificates has expired, and they may be used for client authentication (RFC
    /// 5280 §4.2.1.12; a certificate without this extension may be used for all). The names in it
    /// are not looked at: which client may do what is for a [filter](crate::Server::filter) to
    /// decide, from [`Incoming::tls`](crate::Incoming::tls). The manual has [a
    /// recipe](crate::manual::cookbook::client_certificates).
    ///
    /// What is not checked: revocation lists. And a session that is resumed has the certificate of
    /// the earlier one, which is not checked again, even if it has expired meanwhile. A client that
    /// comes back every few hours can go on like this as long as the process runs. Filters are
    /// called for each connection, so they can refuse such a client.
    ///
    /// It may be called again with other roots, or the other demand. Then tickets that were given
    /// before are not accepted any more. It cannot be taken back: that takes a new `Tls`.
    ///
    /// ```
    /// use ikisocket::{ClientCertificates, Server, Tls};
    ///
    /// # std::env::set_current_dir("tests/tls")?;
    /// let tls = Tls::pem("localhost.pem", "localhost.key")?;
    /// tls.client_certificates("root.pem", ClientCertificates::Required)?;
    /// let mut server = Server::builder().build(())?;
    /// server.listen_tls("127.0.0.1:0", &tls)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TlsError::Read`], [`TlsError::NoCertificate`] and [`TlsError::Pem`] if the roots cannot be
    /// read or used; [`TlsError::Unusable`] if the system has no random numbers. On an error
    /// nothing is changed.
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

    /// Appends the secrets of sessions to the file that the environment variable `SSLKEYLOGFILE`
    /// names, for debugging. With this file Wireshark can read the connections, and so can an
    /// attacker. Default: off, whatever the variable says.
    ///
    /// It holds for connections that are accepted from now on, and cannot be taken back. The file
    /// is opened during this call, and written while handshakes run, on the thread of the loop.
    /// Without the variable, or if the file cannot be opened, nothing is written and no error is
    /// reported.
    ///
    /// ```no_run
    /// # let tls = ikisocket::Tls::pem("chain.pem", "key.pem")?;
    /// if cfg!(debug_assertions) {
    ///     tls.key_log()?;
    /// }
    /// # Ok::<(), ikisocket::TlsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TlsError::Unusable`] if the settings cannot be made again.
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

/// The name as clients send it (RFC 6066 §3): in lower case, and without the dot of the root.
fn without_dot(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A label that no certificate has: one that is valid for it is valid for every label.
const NO_LABEL: &str = "ikisocket-looks-for-a-wildcard";

/// Checks that a certificate is valid for a name.
fn check_name(name: &str, pair: &CertifiedKey) -> Result<(), String> {
    // A certificate for `*.example.org` is valid for each such name.
    let example = match name.strip_prefix("*.") {
        Some(parent) => format!("{NO_LABEL}.{parent}"),
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
