//! The settings of rustls for raw and for the minimal client: the provider that the features
//! choose, one suite and one group, so that every server that is compared agrees on the same.

use std::error::Error;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
#[cfg(not(any(feature = "tls-graviola", feature = "tls-ring")))]
use rustls::crypto::aws_lc_rs as crypto;
#[cfg(all(feature = "tls-ring", not(feature = "tls-graviola")))]
use rustls::crypto::ring as crypto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, ClientConfig, NamedGroup, RootCertStore, ServerConfig};
#[cfg(feature = "tls-graviola")]
use rustls_graviola as crypto;

/// The root of the test certificates.
const ROOT: &str = "tests/tls/root.pem";

/// A client's settings. Without `resume` each handshake is a full one.
pub fn client(resume: bool) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ROOT)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(narrow()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// A server's settings, the same as the library's: tickets, and nothing stored.
pub fn server(chain: &str, key: &str) -> Result<Arc<ServerConfig>, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = crypto::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The provider with AES-128-GCM and X25519 alone.
fn narrow() -> CryptoProvider {
    let mut provider = crypto::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    provider
}
