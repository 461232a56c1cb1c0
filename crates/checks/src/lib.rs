//! What must hold for any bytes a stranger sends: plain functions, one for each fuzz target in
//! `fuzz/fuzz_targets`.
//!
//! Driven by libFuzzer there and by `tests/mutations.rs` in `make test`. They return what is wrong
//! instead of panicking, because a decoder's panic is caught where it happens and is no failure of
//! ours.

mod address;
mod picture;
mod wire;

pub use address::address;
pub use picture::picture;
pub use wire::wire;

/// What is wrong.
pub type Outcome = Result<(), String>;

/// For fuzzers: ends the process if something is wrong. Panics that are caught stay silent, so that
/// only what is returned counts.
pub fn abort_on(outcome: Outcome) {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    if let Err(wrong) = outcome {
        eprintln!("{wrong}");
        std::process::abort();
    }
}
