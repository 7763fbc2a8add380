//! The forebay binary: arguments, workers, engine, HTTP, shutdown.
#![forbid(unsafe_code)]

fn main() {}
