//! From logits to token ids: settings, rules, greedy and beam search.
//!
//! Depends on no family and no session: [`CaptionSearch`] receives rows of logits and returns the
//! tokens to feed next. Follows the reference implementation's order of operations exactly, and its
//! precision (float32).

mod beam;
mod greedy;
mod numbers;
mod rules;
mod search;
mod settings;
mod sources;
mod step;

pub(crate) use search::CaptionSearch;
pub use settings::{EarlyStopping, GenerationSettings};
pub(crate) use step::SearchAdvance;
