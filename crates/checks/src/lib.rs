//! Properties that hold for arbitrary input bytes, one function for each fuzz target in
//! `fuzz/fuzz_targets`, the style of all failures, and for tests a scripted model server and the
//! code blocks of documents.
//!
//! Called by libFuzzer there and by `tests/mutations.rs` in `make test`. The functions return a
//! violation instead of panicking, because panics of decoders are caught in production and are not
//! violations.

mod address;
mod code_blocks;
mod failure_style;
mod model_server;
mod picture;
mod wire;

pub use address::address;
pub use code_blocks::{CodeBlock, code_blocks, indented_code, pages};
pub use failure_style::{message_violations, style_violations};
pub use model_server::{ScriptedAnswer, ScriptedServer, SeenRequest};
pub use picture::picture;
pub use wire::wire;

/// The violated property, if any.
pub type CheckResult = Result<(), String>;

/// For fuzzers: aborts the process on a violation. Caught panics print nothing.
pub fn abort_on(result: CheckResult) {
    static SILENT_PANICS: std::sync::Once = std::sync::Once::new();
    SILENT_PANICS.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    if let Err(violation) = result {
        eprintln!("{violation}");
        std::process::abort();
    }
}
