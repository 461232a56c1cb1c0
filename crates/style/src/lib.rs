//! The registers of a caption: which styles exist, what each asks of a model, and what its text
//! must look like.
//!
//! Pure text: no model, no picture, no PostgreSQL. The extension validates style names with it and
//! sends the whole definition along with a request; the engine asks the model in the style's words
//! and tidies what comes back.

mod clean;
mod folder;
mod opener;
mod postprocess;
mod refusal;
mod sentence;
mod style;
mod validate;

pub use folder::{FolderError, of_folder};
pub use postprocess::{TextEnding, echoes, tidy};
pub use refusal::TextRefusal;
pub use style::{CaptionStyle, StyleRules, StyleTask, builtin, builtin_names};
pub use validate::{MAX_CHARS, MAX_INSTRUCTION, MAX_NAME, MAX_PROMPTS, StyleError, validate};

/// Smallest `max_tokens` a caller may ask for, in generated tokens.
pub const MIN_TOKENS: u32 = 32;
/// Largest `max_tokens` a caller may ask for, in generated tokens.
pub const MAX_TOKENS: u32 = 256;
/// `max_tokens` when the caller says nothing.
pub const DEFAULT_TOKENS: u32 = 64;
