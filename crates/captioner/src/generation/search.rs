//! One caption's search: what its rows mean, and when it is over.
//!
//! The batch calls [`Search::advance`] once per decode step with the logits of this caption's rows
//! and does what it answers.

use super::beam::Beams;
use super::greedy::Greedy;
use super::rules::Position;
use super::settings::GenerationSettings;
use pg_caption_wire::FinishReason;
use std::sync::Arc;

/// A caption that is being generated.
pub(crate) struct Search {
    settings: Arc<GenerationSettings>,
    /// Length of the prompt (1 for an encoder-decoder: the start token).
    prompt: usize,
    /// Greatest length of the whole sequence.
    limit: usize,
    rows: Rows,
}

enum Rows {
    Greedy(Greedy),
    Beams(Beams),
}

/// What to do after a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Advance {
    /// The rows of the next step: for each, which row of this step its cache continues, and the
    /// token to feed.
    Continue(Vec<(usize, i64)>),
    /// The caption is complete.
    Done(Outcome),
}

/// A complete caption.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// New ids, the end token included when it was produced.
    pub ids: Vec<i64>,
    /// Why it ended; a forced final end token counts as `Length`.
    pub finish: FinishReason,
    /// Geometric mean of the probabilities the model gave the tokens it chose (forced ones left
    /// out), 0..=1.
    pub confidence: f32,
}

/// Logits that are not numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotNumbers;

impl Search {
    /// A search after `prompt` for at most `max_new_tokens` (the folder's own bound holds as well).
    pub fn new(settings: Arc<GenerationSettings>, prompt: &[i64], max_new_tokens: u32) -> Search {
        let limit = settings.sequence_limit(prompt.len(), max_new_tokens);
        let rows = match settings.num_beams {
            1 => Rows::Greedy(Greedy::new(prompt)),
            beams => Rows::Beams(Beams::new(prompt, beams as usize)),
        };
        Search { settings, prompt: prompt.len(), limit, rows }
    }

    /// Consumes the logits of one step. `logits` has one row per row of the last
    /// [`Advance::Continue`]; the first call, after prefill, has exactly one, which all beams
    /// share.
    pub fn advance(&mut self, logits: &[&[f32]]) -> Result<Advance, NotNumbers> {
        let frame = Frame { settings: &self.settings, prompt: self.prompt, limit: self.limit };
        match &mut self.rows {
            Rows::Greedy(greedy) => greedy.advance(frame, logits.first().ok_or(NotNumbers)?),
            Rows::Beams(beams) => beams.advance(frame, logits),
        }
    }
}

/// What stays the same during a search.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub settings: &'a GenerationSettings,
    pub prompt: usize,
    pub limit: usize,
}

impl Frame<'_> {
    pub fn at<'s>(&self, sequence: &'s [i64]) -> Position<'s> {
        Position { sequence, prompt: self.prompt, limit: self.limit }
    }

    /// A sequence that is complete.
    pub fn outcome(&self, sequence: &[i64], tally: Tally) -> Outcome {
        let (before, last) = sequence.split_at(sequence.len() - 1);
        let ended = self.settings.eos_token_id.contains(&last[0])
            && !self.at(before).is_forced_end(self.settings);
        let finish = if ended { FinishReason::Stop } else { FinishReason::Length };
        Outcome { ids: sequence[self.prompt..].to_vec(), finish, confidence: tally.mean() }
    }
}

/// Log-probabilities of the tokens the model itself chose.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Tally {
    sum: f64,
    tokens: u32,
}

impl Tally {
    /// With one more token.
    pub fn with(self, log_probability: f32) -> Tally {
        Tally { sum: self.sum + log_probability as f64, tokens: self.tokens + 1 }
    }

    fn mean(self) -> f32 {
        if self.tokens == 0 {
            1.0
        } else {
            (self.sum / self.tokens as f64).exp().clamp(0.0, 1.0) as f32
        }
    }
}
