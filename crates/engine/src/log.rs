//! Log lines: one line each on standard error, which PostgreSQL's launcher reads.
//!
//! A closed standard error must not cause a panic, as `eprintln!` would: the end of standard input
//! stops the engine in an orderly way.

use std::fmt::Display;
use std::io::{Write, stderr};

/// Writes one line.
pub fn line(message: impl Display) {
    let mut text = message.to_string().replace(['\n', '\r'], " ");
    text.push('\n');
    // One write, so that lines of several threads do not mix.
    let _ = stderr().write_all(text.as_bytes());
}
