//! What was agreed on with a peer, and the counts of handshakes.

use crate::error::{TlsFailure, by_cause};

/// A version of TLS. A newer version is greater.
///
/// ```
/// use ikisocket::TlsVersion;
///
/// assert!(TlsVersion::Tls13 > TlsVersion::Tls12);
/// assert_eq!(TlsVersion::Tls13.to_string(), "TLS 1.3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl std::fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

/// What was agreed on in a TLS handshake, and which certificate the client has shown. Filters and
/// pages see it by [`Incoming::tls`](crate::Incoming::tls), all other callbacks by
/// [`Socket::tls`](crate::Socket::tls).
///
/// ```
/// use ikisocket::{Response, Server, TlsVersion};
///
/// let mut server = Server::builder().build(())?;
/// server.filter(|_, _, incoming| match incoming.tls() {
///     Some(tls) if tls.version >= TlsVersion::Tls13 => Ok(()),
///     _ => Err(Response::text("TLS 1.3 only.").with_status(403)),
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// The name of the cipher suite as IANA registers it, such as `TLS_AES_128_GCM_SHA256` or
    /// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// The name that the client asked for (SNI, RFC 6066 §3), in lower case, at most 253 bytes.
    /// `None` if it gave none, as clients do that connect to an address. The client may ask for any
    /// name, also for one that has no [certificate](crate::Tls::name) here.
    pub server_name: Option<String>,
    /// The protocol that was agreed on (ALPN, RFC 7301): `http/1.1`, or `None` if the client
    /// offered none.
    pub alpn: Option<String>,
    /// Whether an earlier session was resumed by a ticket (RFC 8446 §2.2, RFC 5077).
    pub resumed: bool,
    /// The client's certificates in DER, its own first, then those that it sent to lead to a root.
    /// There are none if the server asks for none, or if the client has none. They passed the
    /// checks of [`Tls::client_certificates`](crate::Tls::client_certificates). A resumed session
    /// has those of the earlier one.
    pub certificates: Vec<Vec<u8>>,
}

/// TLS handshakes, by their result: [`Stats::tls`](crate::Stats::tls). All are counts since the
/// server was built, and never fall.
///
/// A handshake that neither completes nor fails, because the client leaves or its time is over, is
/// in none of them.
///
/// ```
/// # let mut server = ikisocket::Server::builder().build(())?;
/// let tls = server.stats().tls;
/// println!("{} handshakes, {} of them resumed", tls.tls12 + tls.tls13, tls.resumed);
/// for (cause, count) in tls.failures.iter().filter(|(_, count)| *count > 0) {
///     println!("{count} failed: {cause}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsStats {
    /// Complete handshakes of TLS 1.2.
    pub tls12: u64,
    /// Complete handshakes of TLS 1.3.
    pub tls13: u64,
    /// Those of both that resumed an earlier session.
    pub resumed: u64,
    /// Sessions that failed, also after their handshake, by cause.
    pub failures: TlsFailures,
}

by_cause! {
    /// TLS sessions that failed, by cause: see [`TlsFailure`]. A session that ended without
    /// close_notify has not failed: [`Disconnects::tls`](crate::Disconnects::tls) counts it if its
    /// connection was open.
    TlsFailures {
        /// A plain HTTP request.
        plain_http,
        /// Bytes that begin no handshake.
        not_tls,
        /// The client speaks neither TLS 1.2 nor 1.3.
        version,
        /// No common cipher suite, key exchange or signature.
        nothing_in_common,
        /// The client offered protocols without `http/1.1`.
        alpn,
        /// No client certificate, where one is required.
        certificate_missing,
        /// A client certificate that was not accepted.
        certificate,
        /// The peer sent an alert. Most often it does not trust the server's certificate.
        alert,
        /// The peer broke the protocol, or something else went wrong.
        other,
    }
}

impl TlsFailures {
    pub(super) fn count(&mut self, failure: &TlsFailure) {
        *match failure {
            TlsFailure::PlainHttp => &mut self.plain_http,
            TlsFailure::NotTls => &mut self.not_tls,
            TlsFailure::Version => &mut self.version,
            TlsFailure::NothingInCommon(_) => &mut self.nothing_in_common,
            TlsFailure::Alpn => &mut self.alpn,
            TlsFailure::CertificateMissing => &mut self.certificate_missing,
            TlsFailure::Certificate(_) => &mut self.certificate,
            TlsFailure::Alert(_) => &mut self.alert,
            // The session has ended, and has not failed.
            TlsFailure::Truncated => return,
            TlsFailure::Other(_) => &mut self.other,
        } += 1;
    }
}
