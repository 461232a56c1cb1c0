//! Log lines: one line each on standard error, which PostgreSQL's launcher reads. A reader that has
//! gone away is no reason to panic (as `eprintln!` would): the end of standard input ends the
//! engine in order.

use std::fmt::Display;
use std::io::{Write, stderr};

/// Writes one line.
pub fn line(words: impl Display) {
    let mut text = words.to_string().replace(['\n', '\r'], " ");
    text.push('\n');
    // One write, so that lines of several threads do not mix.
    let _ = stderr().write_all(text.as_bytes());
}
