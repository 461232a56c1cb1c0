//! The search of one caption: the meaning of its rows, and its end.
//!
//! The batch calls [`CaptionSearch::advance`] once per decode step with the logits of this
//! caption's rows, and follows the result.

use super::beam::BeamSearch;
use super::greedy::GreedySearch;
use super::settings::GenerationSettings;
use super::step::{NotNumbers, SearchAdvance, SearchFrame};
use std::sync::Arc;

/// A caption that is being generated.
pub(crate) struct CaptionSearch {
    settings: Arc<GenerationSettings>,
    /// Length of the prompt (1 for an encoder-decoder: the start token).
    prompt: usize,
    /// Greatest length of the whole sequence.
    limit: usize,
    rows: Rows,
}

enum Rows {
    GreedySearch(GreedySearch),
    BeamSearch(BeamSearch),
}

impl CaptionSearch {
    /// A search after `prompt` for at most `max_new_tokens`; the folder's own limit applies too.
    pub fn new(
        settings: Arc<GenerationSettings>,
        prompt: &[i64],
        max_new_tokens: u32,
    ) -> CaptionSearch {
        let limit = settings.sequence_limit(prompt.len(), max_new_tokens);
        let rows = match settings.num_beams {
            1 => Rows::GreedySearch(GreedySearch::new(prompt)),
            beams => Rows::BeamSearch(BeamSearch::new(prompt, beams as usize)),
        };
        CaptionSearch { settings, prompt: prompt.len(), limit, rows }
    }

    /// Processes the logits of one step. `logits` has one row per row of the last
    /// [`SearchAdvance::Continue`]; the first call, after prefill, has a single row that all beams
    /// share.
    pub fn advance(&mut self, logits: &[&[f32]]) -> Result<SearchAdvance, NotNumbers> {
        let frame =
            SearchFrame { settings: &self.settings, prompt: self.prompt, limit: self.limit };
        match &mut self.rows {
            Rows::GreedySearch(greedy) => greedy.advance(frame, logits.first().ok_or(NotNumbers)?),
            Rows::BeamSearch(beams) => beams.advance(frame, logits),
        }
    }
}
