//! The fuzz targets. Each is a function of bytes that panics if a promise does not hold, and a
//! function that generates inputs of the right shape.
//!
//! They are here once and run twice: by libFuzzer (`cargo fuzz run NAME -s none`), and with the
//! seeds and a fixed number of made inputs in the tests of `ikisocket` (`tests/fuzz.rs`), which
//! include this file.

pub mod bus;
pub mod connection;
#[cfg(feature = "deflate")]
pub mod deflate;
pub mod frames;
pub mod input;
pub mod resp;
#[cfg(feature = "deflate")]
pub mod slow_inflate;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tls")]
pub mod tls_client;
pub mod upgrade;
