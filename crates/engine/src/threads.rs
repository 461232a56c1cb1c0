//! Named threads, used by every part of the engine.

use std::io;
use std::thread;

/// Starts a detached thread. The name appears in `top -H` and in log lines about panics.
///
/// # Errors
/// The system refuses a further thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(body).map(drop)
}
