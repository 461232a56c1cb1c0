//! Greedy search: the best token of each step.

use super::numbers::{LogSoftmax, argmax};
use super::rules;
use super::step::{ChosenTokens, NotNumbers, SearchAdvance, SearchFrame};

/// The one row of a greedy caption.
pub(super) struct GreedySearch {
    sequence: Vec<i64>,
    chosen: ChosenTokens,
    scores: Vec<f32>,
}

impl GreedySearch {
    pub fn new(prompt: &[i64]) -> GreedySearch {
        GreedySearch {
            sequence: prompt.to_vec(),
            chosen: ChosenTokens::default(),
            scores: Vec::new(),
        }
    }

    pub fn advance(
        &mut self,
        frame: SearchFrame,
        logits: &[f32],
    ) -> Result<SearchAdvance, NotNumbers> {
        let normaliser = LogSoftmax::of(logits).ok_or(NotNumbers)?;
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        let at = frame.at(&self.sequence);
        rules::apply(frame.settings, at, &mut self.scores);
        let token = argmax(&self.scores);
        if !at.is_forced(frame.settings) {
            self.chosen = self.chosen.with(normaliser.log_probability(logits[token]));
        }
        let token = token as i64;
        self.sequence.push(token);
        if frame.settings.eos_token_id.contains(&token) || self.sequence.len() >= frame.limit {
            return Ok(SearchAdvance::Done(frame.outcome(&self.sequence, self.chosen)));
        }
        Ok(SearchAdvance::Continue(vec![(0, token)]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::CaptionSearch;
    use super::super::settings::GenerationSettings;
    use super::super::step::SearchOutcome;
    use super::*;
    use pg_caption_wire::FinishReason;
    use serde_json::json;
    use std::sync::Arc;

    /// Runs a search on a table: after token t the logits are `table[t]`.
    fn run(settings: serde_json::Value, max_new: u32, table: &[&[f32]]) -> SearchOutcome {
        let mut search = CaptionSearch::new(
            Arc::new(GenerationSettings::default().overridden(&settings).unwrap()),
            &[0],
            max_new,
        );
        let mut token = 0;
        loop {
            match search.advance(&[table[token]]).unwrap() {
                SearchAdvance::Done(outcome) => return outcome,
                SearchAdvance::Continue(rows) => {
                    assert_eq!(rows.len(), 1);
                    token = rows[0].1 as usize;
                }
            }
        }
    }

    const CHAIN: &[&[f32]] = &[
        &[0.0, 5.0, 0.0, 0.0],
        &[0.0, 0.0, 5.0, 0.0],
        &[0.0, 0.0, 0.0, 5.0],
        &[9.0, 0.0, 0.0, 8.0],
    ];

    #[test]
    fn ends_at_the_end_token_and_keeps_it() {
        let outcome = run(json!({ "eos_token_id": 3 }), 64, CHAIN);
        assert_eq!((outcome.ids, outcome.finish), (vec![1, 2, 3], FinishReason::Stop));
    }

    #[test]
    fn a_start_token_never_ends_the_text() {
        let outcome = run(json!({ "eos_token_id": 0 }), 64, CHAIN);
        assert_eq!((outcome.ids, outcome.finish), (vec![1, 2, 3, 0], FinishReason::Stop));
    }

    #[test]
    fn stops_at_the_limit() {
        let outcome = run(json!({ "eos_token_id": 3 }), 2, CHAIN);
        assert_eq!((outcome.ids, outcome.finish), (vec![1, 2], FinishReason::Length));
    }

    #[test]
    fn a_forced_last_end_token_is_no_stop() {
        assert_eq!(run(json!({ "eos_token_id": 3 }), 3, CHAIN).finish, FinishReason::Stop);
        let forced = run(json!({ "eos_token_id": 3, "forced_eos_token_id": 3 }), 2, CHAIN);
        assert_eq!((forced.ids, forced.finish), (vec![1, 3], FinishReason::Length));
    }

    #[test]
    fn confidence_is_a_geometric_mean() {
        let p = (5f64).exp() / ((5f64).exp() + 3.0);
        let plain = run(json!({ "eos_token_id": 3 }), 64, CHAIN);
        assert!((plain.confidence as f64 - p).abs() < 1e-5, "{}", plain.confidence);
        let forced = run(json!({ "eos_token_id": 3, "forced_bos_token_id": 2 }), 64, CHAIN);
        assert_eq!(forced.ids, [2, 3]);
        assert!((forced.confidence as f64 - p).abs() < 1e-5, "forced tokens do not count");
    }

    #[test]
    fn non_finite_logits_choose_no_token() {
        let mut search = CaptionSearch::new(Arc::new(GenerationSettings::default()), &[0], 8);
        assert_eq!(search.advance(&[&[0.0, f32::NAN]]), Err(NotNumbers));
        assert_eq!(search.advance(&[]), Err(NotNumbers));
    }
}
