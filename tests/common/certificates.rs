//! The certificates of `tests/tls`, and the settings of both sides that are made of them.
#![allow(dead_code)] // No test file needs all of it.

use std::sync::Arc;

use ikisocket::Tls;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// A file of the test certificates.
pub fn file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The server's settings, with the certificate and key of this name.
pub fn tls_as(name: &str) -> Tls {
    Tls::pem(&file(&format!("{name}.pem")), &file(&format!("{name}.key"))).unwrap()
}

pub fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap()
}

/// The settings of a client that trusts this root, perhaps with a certificate of its own.
pub fn client(
    versions: &[&'static SupportedProtocolVersion],
    root: &str,
    own: Option<&str>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(root)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![certificate(name)], key).unwrap()
        }
    }
}

/// The same, for a client that resumes no session.
pub fn forgetful(
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&str>,
) -> Arc<ClientConfig> {
    let mut config = client(versions, "root", own);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
