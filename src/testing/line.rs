//! A client's end of its connection: the bytes that it sends and receives, with TLS between them
//! and the pipe if the harness is over TLS.
//!
//! It knows no meaning of the bytes.

#[cfg(feature = "_tls")]
use crate::error::TlsFailure;
use crate::transport::faults::End;
#[cfg(feature = "_tls")]
use crate::transport::faults::Faults;
use crate::transport::memory::FarEnd;
#[cfg(feature = "_tls")]
use crate::transport::tls::Client;

pub(super) struct Line {
    pub(super) far: FarEnd,
    #[cfg(feature = "_tls")]
    tls: Option<Box<Client>>,
    /// Why the handshake failed, if it did and that was not reported.
    #[cfg(feature = "_tls")]
    failure: Option<TlsFailure>,
}

/// What has come.
pub(super) struct Arrived {
    pub(super) bytes: Vec<u8>,
    /// The number of bytes that were read from the pipe. Over TLS they are not those of `bytes`.
    pub(super) read: usize,
    pub(super) end: Option<End>,
    /// Why the session over TLS failed, if it did.
    #[cfg(feature = "_tls")]
    pub(super) failure: Option<TlsFailure>,
}

impl From<FarEnd> for Line {
    fn from(far: FarEnd) -> Self {
        Self {
            far,
            #[cfg(feature = "_tls")]
            tls: None,
            #[cfg(feature = "_tls")]
            failure: None,
        }
    }
}

impl Line {
    /// Sends bytes: without TLS, or in records of their own.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        #[cfg(feature = "_tls")]
        if let Some(tls) = &mut self.tls {
            tls.write(bytes);
            return self.far.send(&tls.take_output());
        }
        self.far.send(bytes);
    }

    /// Ends the client's side. Over TLS, close_notify comes before FIN.
    pub(super) fn end(&mut self, end: End) {
        #[cfg(feature = "_tls")]
        if let (Some(tls), End::Fin) = (&mut self.tls, end) {
            tls.close();
            self.far.send(&tls.take_output());
        }
        self.far.end(end);
    }

    /// Reads up to `most` bytes from the pipe.
    pub(super) fn receive(&mut self, most: usize) -> Arrived {
        let (bytes, end) = self.far.receive(most);
        let read = bytes.len();
        #[cfg(feature = "_tls")]
        if let Some(tls) = &mut self.tls {
            let heard = tls.hear(&bytes);
            self.far.send(&tls.take_output());
            let failure = self.failure.take().or(heard.failure);
            return Arrived { bytes: heard.plaintext, read, end, failure };
        }
        Arrived {
            bytes,
            read,
            end,
            #[cfg(feature = "_tls")]
            failure: None,
        }
    }

    /// Whether close_notify has not come over TLS.
    #[cfg(feature = "_tls")]
    pub(super) fn is_truncated(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| tls.is_unclosed())
    }

    /// Makes a session over TLS of the bytes between this end and the server's, whose handshake is
    /// done now: `serve` lets the server react, and returns whether it has failed. The faults begin
    /// behind it.
    #[cfg(feature = "_tls")]
    pub(super) fn begin_tls(&mut self, faults: Faults, mut serve: impl FnMut() -> bool) {
        let tls = self.tls.insert(Box::new(Client::new()));
        loop {
            let output = tls.take_output();
            self.far.send(&output);
            let failed = serve();
            let (input, _) = self.far.receive(usize::MAX);
            self.failure = self.failure.take().or(tls.hear(&input).failure);
            if output.is_empty() && input.is_empty() {
                return self.far.begin(faults, failed);
            }
        }
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.far.fmt(f)
    }
}
