//! A folder with a `remote.json`: the model is on a server, which gets the pictures.
//!
//! Read here and nowhere else, so that listing, choosing and serving agree on what is valid.

mod ownership;
mod settings;

pub use ownership::{FolderGuard, MAX_KEY};
pub use settings::{
    CaptionFields, ImageLimits, RemotePrice, RemoteProtocol, RemoteSettings, WithoutConfidence,
};

/// The file that makes a folder a remote model.
pub const REMOTE_FILE: &str = "remote.json";
/// The family of a remote model: `caption.models()` shows it, and `captions.json` keeps its
/// prompts under this name.
pub const REMOTE_FAMILY: &str = "remote";
