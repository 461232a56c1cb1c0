//! Languages of captions: which tags name one, how a model is asked for it, and whether an answer
//! is in it.
//!
//! Pure text. The extension checks the tags of styles and fills with it; the engine asks in the
//! language and checks the answer.

mod check;
mod facts;
mod instruct;
mod tag;

pub use check::in_language;
pub use facts::quoted_facts;
pub use instruct::{facts_heading, instruction_in, translated_languages};
pub use tag::{LanguageTag, MAX_TAG, TagError};
