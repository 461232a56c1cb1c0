//! From logits to token ids: settings, rules, greedy and beam search.
//!
//! Knows no family and no session: [`Search`] is handed rows of logits and answers with the tokens
//! to feed next. Mirrors the reference implementation's order of operations exactly; where floats
//! are involved, in its precision (float32).

mod beam;
mod greedy;
mod numbers;
mod rules;
mod search;
mod settings;
mod sources;

pub(crate) use search::{Advance, Outcome, Search};
pub use settings::{EarlyStopping, GenerationSettings};
