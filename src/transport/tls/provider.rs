//! The crypto provider that the features choose. It is passed to rustls explicitly, and not
//! installed for the process, where another crate may have installed its own.
//!
//! If several features are on, the first of this order is chosen: `tls-graviola`, `tls-ring`,
//! `tls-aws-lc-rs`. The last one is that of `tls`, so the choice of a program counts even if
//! another crate turns on `tls`.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
#[cfg(not(any(feature = "tls-graviola", feature = "tls-ring")))]
use rustls::crypto::aws_lc_rs as crypto;
#[cfg(all(feature = "tls-ring", not(feature = "tls-graviola")))]
use rustls::crypto::ring as crypto;
use rustls::server::ProducesTickets;
#[cfg(feature = "tls-graviola")]
use rustls_graviola as crypto;

use crate::error::TlsError;

/// The chosen provider.
///
/// # Errors
///
/// [`TlsError::Processor`] if this processor cannot run it: it would panic.
pub(super) fn chosen() -> Result<CryptoProvider, TlsError> {
    #[cfg(feature = "tls-graviola")]
    if !graviola::util::is_cpu_supported() {
        return Err(TlsError::Processor { provider: "graviola" });
    }
    Ok(crypto::default_provider())
}

/// A source of tickets with keys of its own, which it changes every 6 hours.
pub(super) fn tickets() -> Result<Arc<dyn ProducesTickets>, TlsError> {
    crypto::Ticketer::new().map_err(|error| TlsError::Unusable { reason: error.to_string() })
}
