//! The model folder: families, file names, dtypes, configuration files, installed folders.
//!
//! The one owner of these facts. The extension, the download, the command line and the captioner
//! all read them here. Names, sizes and small files only: no graph is opened, and whether a
//! model works is known only after `crates/captioner` has loaded it.

mod cascade;
mod error;
mod family;
mod files;
mod installed;
mod json;
mod languages;
mod remote;
mod selection;

pub use cascade::{CASCADE_FAMILY, CASCADE_FILE, CascadeMeanwhile, CascadeSettings, is_cascade};
pub use error::ModelsError;
pub use family::{ModelFamily, aliases, family, model_types};
pub use files::{
    CONFIG_FILES, ConfigFile, GraphFile, NamedFile, graph_file, graph_file_name, is_external_data,
};
pub use installed::{InstalledModel, is_model, is_remote, scan, styles_of};
pub use json::{
    MAX_CONFIG, MAX_TOKENIZER, if_exists, model_type_of, read_file, read_json, refuse_pointer,
};
pub use languages::{ModelLanguages, follows_instructions};
pub use remote::{
    CaptionFields, FolderGuard, ImageLimits, MAX_KEY, REMOTE_FAMILY, REMOTE_FILE, RemotePrice,
    RemoteProtocol, RemoteSettings, WithoutConfidence,
};
pub use selection::{GraphChoice, GraphDtype, GraphSelection, choose};
