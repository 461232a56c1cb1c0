//! Caption styles: which styles exist, what each asks of a model, and what its text must look like.
//!
//! Pure text: no model, no picture, no PostgreSQL. The extension resolves style names with it and
//! sends the whole definition with each request. The engine builds the model's prompt from the
//! definition and postprocesses the generated text.

mod clean;
mod fill;
mod folder;
mod markup;
mod nothing;
mod opener;
mod patch;
mod phrase;
mod postprocess;
mod refusal;
mod repeat;
mod row;
mod sentence;
mod smalltalk;
mod speech;
mod style;
mod thinking;
mod turns;
mod validate;
mod vocabulary;
mod words;

pub use fill::{FillDefinition, FillError};
pub use folder::{FolderError, languages_of_folder, of_folder};
pub use nothing::{EmptyText, empty_text};
pub use opener::stock_opener;
pub use patch::StylePatch;
pub use postprocess::{TextEnding, echoes, postprocess};
pub use refusal::TextRefusal;
pub use row::row_problem;
pub use sentence::{cut, sentences};
pub use smalltalk::closing_in;
pub use style::{CaptionStyle, StyleRules, StyleTask, builtin, builtin_names};
pub use validate::{
    MAX_CHARS, MAX_INSTRUCTION, MAX_NAME, MAX_PROMPTS, MIN_CHARS, MIN_MAX_CHARS, StyleError,
    validate,
};
pub use vocabulary::{FunctionWords, function_words};

/// Smallest `max_tokens` of a call, in generated tokens.
pub const MIN_TOKENS: u32 = 32;
/// Largest `max_tokens` of a call, in generated tokens.
pub const MAX_TOKENS: u32 = 256;
/// Default `max_tokens` of a call.
pub const DEFAULT_TOKENS: u32 = 64;

/// What is wrong with a JSON value, with names in quotation marks as in PostgreSQL's messages.
pub(crate) fn json_problem(error: &serde_json::Error) -> String {
    error.to_string().replace('`', "\"")
}
