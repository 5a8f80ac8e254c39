//! TLS (RFC 8446, RFC 5246) by rustls: a stream like the others, and the settings for it.

#[cfg(feature = "testing")]
mod client;
mod info;
mod provider;
mod session;
mod settings;
mod stream;

#[cfg(feature = "testing")]
pub(crate) use client::Client;
pub use info::{TlsFailures, TlsInfo, TlsStats, TlsVersion};
pub use settings::{ClientCertificates, Pem, Tls};
pub(crate) use stream::{Common, LEAST_BUFFER, TlsStream};
