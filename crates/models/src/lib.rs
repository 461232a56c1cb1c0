//! Model folders seen from outside: which graphs a family needs, which files hold them, which
//! folders lie here.
//!
//! Names and sizes only: no graph is opened, so that the extension, the download and the command
//! line can all ask. Whether a model works is known to whoever loads it (`crates/captioner`).

mod error;
mod family;
mod files;
mod installed;
mod selection;

pub use error::ModelsError;
pub use family::{ModelFamily, family, model_types};
pub use files::{GraphFile, NamedFile, graph_file, is_external_data};
pub use installed::{InstalledModel, model_type_of, read_json, scan, styles_of};
pub use selection::{GraphChoice, GraphDtype, GraphSelection, choose};

/// Small files that decide what a caption says, where a folder has them. The first three no folder
/// can do without.
pub const CONFIGURATION: [&str; 11] = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "captions.json",
];
/// How many of [`CONFIGURATION`] must be there.
pub const REQUIRED: usize = 3;
