//! The engine: server, scheduler, command line.
fn main() {}
