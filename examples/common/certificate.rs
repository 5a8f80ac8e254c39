//! `--tls CERT KEY`: the certificate and the key of an example, and listening with them. SIGHUP
//! makes it read both files again.
#![allow(dead_code)] // Not every example has all of it.

use std::error::Error;
use std::net::SocketAddr;

use ikisocket::{BindError, Server};

/// What `--help` says about `--tls`.
pub const HELP: &str = "\
--tls CERT KEY  speaks TLS with this certificate chain and this private key (PEM files). kill -HUP
makes it read both again, for connections from then on. To try it, on this machine alone:
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \\
        -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \\
        -keyout key.pem -out cert.pem
A browser warns of it, because no authority vouches for it. It does not warn of one that mkcert
(https://github.com/FiloSottile/mkcert) makes after `mkcert -install`:
    mkcert -cert-file cert.pem -key-file key.pem localhost 127.0.0.1";

/// The certificate that was asked for, if one was.
pub struct Certificate(Option<Files>);

impl Certificate {
    /// No TLS.
    pub fn none() -> Self {
        Self(None)
    }

    /// The values of `--tls`, read now.
    pub fn read(chain: String, key: String) -> Result<Self, Box<dyn Error>> {
        Files::read(chain, key).map(|files| Self(Some(files)))
    }

    /// Listens on this address, with TLS if there is a certificate.
    pub fn listen<S>(
        &self,
        server: &mut Server<S>,
        address: &str,
    ) -> Result<SocketAddr, BindError> {
        match &self.0 {
            Some(files) => files.listen(server, address),
            None => server.listen(address),
        }
    }

    /// The settings, to add to them.
    #[cfg(feature = "_tls")]
    pub fn tls(&self) -> Option<&ikisocket::Tls> {
        self.0.as_ref().map(|files| &files.tls)
    }

    /// Reads the files again if SIGHUP has come since the last call.
    pub fn renew(&self) {
        if let Some(files) = &self.0 {
            files.renew();
        }
    }
}

#[cfg(feature = "_tls")]
use with_tls::Files;
#[cfg(not(feature = "_tls"))]
use without_tls::Files;

#[cfg(feature = "_tls")]
mod with_tls {
    use std::error::Error;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use ikisocket::{BindError, Server, Tls};

    pub struct Files {
        chain: String,
        key: String,
        pub tls: Tls,
        /// SIGHUP has come.
        renew: Arc<AtomicBool>,
    }

    impl Files {
        pub fn read(chain: String, key: String) -> Result<Self, Box<dyn Error>> {
            let tls = Tls::pem(&chain, &key)?;
            let renew = Arc::new(AtomicBool::new(false));
            #[cfg(unix)]
            signal_hook::flag::register(signal_hook::consts::SIGHUP, renew.clone())?;
            Ok(Self { chain, key, tls, renew })
        }

        pub fn listen<S>(
            &self,
            server: &mut Server<S>,
            address: &str,
        ) -> Result<SocketAddr, BindError> {
            server.listen_tls(address, &self.tls)
        }

        /// A pair that cannot be used changes nothing.
        pub fn renew(&self) {
            if self.renew.swap(false, Ordering::Relaxed) {
                match self.tls.replace(&self.chain, &self.key) {
                    Ok(()) => println!("read the certificate again"),
                    Err(error) => println!("the old certificate stays: {error}"),
                }
            }
        }
    }
}

/// In a build without TLS there is no such value.
#[cfg(not(feature = "_tls"))]
mod without_tls {
    use std::error::Error;
    use std::net::SocketAddr;

    use ikisocket::{BindError, Server};

    pub enum Files {}

    impl Files {
        pub fn read(_: String, _: String) -> Result<Self, Box<dyn Error>> {
            Err("--tls: this program was built without TLS: build it with `--features tls`".into())
        }

        pub fn listen<S>(&self, _: &mut Server<S>, _: &str) -> Result<SocketAddr, BindError> {
            match *self {}
        }

        pub fn renew(&self) {
            match *self {}
        }
    }
}
