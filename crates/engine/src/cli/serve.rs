//! `pg_caption_engine serve`: for PostgreSQL's launcher, or with `--http` for other machines.

use super::{ServeArgs, locate};
use crate::http::{self, HttpOptions};
use crate::test_hook::DecodeHook;

/// Serves. Returns only if it could not start.
///
/// # Errors
/// No configuration, no socket, no model, or a key that cannot be used.
pub fn run(options: &ServeArgs, hook: DecodeHook) -> Result<(), String> {
    let Some(address) = options.http else {
        return crate::serve::run(hook).map_err(|error| error.to_string());
    };
    let model = locate::folder_or_default(options.model.as_deref())?;
    let mut config = locate::config(model, options.onnxruntime.as_deref())?;
    options.settings.apply(&mut config)?;
    let http = HttpOptions {
        address,
        key_file: options.key_file.clone(),
        queue: options.queue.into(),
        connections: options.connections.into(),
        largest: u64::from(options.max_body) << 20,
    };
    http::run(&http, config, hook)
}
