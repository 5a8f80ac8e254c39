//! What the server promises on the wire: every test talks to it through a raw TCP socket, byte by
//! byte where that matters.

mod backpressure;
mod elements;
mod frames;
mod hostile;
mod http;
mod kit;
mod refusals;
mod smuggling;
mod upgrade;
