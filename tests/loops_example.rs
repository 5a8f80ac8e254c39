//! The tests in memory of the example `loops`. They are a target of their own, because Cargo builds
//! no program of an example that is a test target itself, and `tests/examples.rs` runs the program.

#[allow(dead_code)]
#[path = "../examples/loops/main.rs"]
mod example;
