//! A crypto provider that the processor cannot run is an error, and no panic.

use std::process::Command;

use ikisocket::{Tls, TlsError};

fn settings() -> Result<Tls, TlsError> {
    Tls::pem(include_bytes!("tls/localhost.pem"), include_bytes!("tls/localhost.key"))
}

#[test]
#[cfg(all(debug_assertions, target_arch = "x86_64"))]
fn a_processor_that_cannot_run_graviola_is_named_in_the_error() {
    // Debug builds of graviola take this variable for a processor without these instructions.
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["has_no_adx", "--exact", "--ignored"]).env("GRAVIOLA_CPU_DISABLE_adx", "1");
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "the child of another test"]
fn has_no_adx() {
    let error = settings().unwrap_err();
    assert_eq!(error, TlsError::Processor { provider: "graviola" });
    assert!(error.to_string().contains("use the feature `tls` instead"), "{error}");
}
