//! The model folder: families, file names, dtypes, configuration files, installed folders.
//!
//! The one owner of these facts. The extension, the download, the command line and the captioner
//! all read them here. Names, sizes and small files only: no graph is opened, and whether a
//! model works is known only after `crates/captioner` has loaded it.

mod error;
mod family;
mod files;
mod installed;
mod json;
mod selection;

pub use error::ModelsError;
pub use family::{ModelFamily, aliases, family, model_types};
pub use files::{
    CONFIG_FILES, ConfigFile, GraphFile, NamedFile, graph_file, graph_file_name, is_external_data,
};
pub use installed::{InstalledModel, scan, styles_of};
pub use json::{
    MAX_CONFIG, MAX_TOKENIZER, if_exists, model_type_of, read_file, read_json, refuse_pointer,
};
pub use selection::{GraphChoice, GraphDtype, GraphSelection, choose};
