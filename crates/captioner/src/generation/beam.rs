//! Beam search as in the reference implementation since its vectorised rewrite (transformers 4.50).
//!
//! Candidates are the best `max(2, 1 + end tokens) * beams` continuations. Those that end (by an
//! end token or the limit) and are among the first `beams` enter a pool sorted by length-normalised
//! score. The best of the others continue.

use super::numbers::{LogSoftmax, best};
use super::rules;
use super::settings::EarlyStopping;
use super::step::{ChosenTokens, NotNumbers, SearchAdvance, SearchFrame, SearchOutcome};

/// The reference's stand-in for minus infinity: finite, so that sums and quotients of it keep their
/// order.
const NEVER: f32 = -1e9;

#[derive(Clone)]
struct Running {
    sequence: Vec<i64>,
    score: f32,
    chosen: ChosenTokens,
}

#[derive(Clone)]
struct Pooled {
    /// `None`: an empty slot.
    sequence: Option<(Vec<i64>, ChosenTokens)>,
    score: f32,
    finished: bool,
}

/// All rows of one caption.
pub(super) struct BeamSearch {
    /// Best first.
    running: Vec<Running>,
    /// Best first; always as many as beams.
    pool: Vec<Pooled>,
    /// Never becomes true again: once false, the pool is closed.
    can_improve: bool,
}

struct Candidate {
    source: usize,
    token: i64,
    score: f32,
    ends: bool,
    chosen: ChosenTokens,
}

impl BeamSearch {
    pub fn new(prompt: &[i64], beams: usize) -> BeamSearch {
        // All beams start equal. A low score for all but one makes the first step choose different
        // tokens.
        let running = (0..beams).map(|beam| Running {
            sequence: prompt.to_vec(),
            score: if beam == 0 { 0.0 } else { NEVER },
            chosen: ChosenTokens::default(),
        });
        BeamSearch {
            running: running.collect(),
            pool: vec![Pooled { sequence: None, score: NEVER, finished: false }; beams],
            can_improve: true,
        }
    }

    pub fn advance(
        &mut self,
        frame: SearchFrame,
        logits: &[&[f32]],
    ) -> Result<SearchAdvance, NotNumbers> {
        let beams = self.running.len();
        let candidates = self.candidates(frame, logits)?;
        let length = self.running[0].sequence.len() + 1;
        let extended = |c: &Candidate| {
            let mut sequence = self.running[c.source].sequence.clone();
            sequence.push(c.token);
            sequence
        };

        // The best continuations that do not end go on; those that end get the lowest score.
        let continued =
            best(candidates.iter().map(|c| c.score + if c.ends { NEVER } else { 0.0 }), beams);
        let running: Vec<Running> = continued
            .iter()
            .map(|(i, score)| Running {
                sequence: extended(&candidates[*i]),
                score: *score,
                chosen: candidates[*i].chosen,
            })
            .collect();
        // After prefill all beams share its one row. A forced first token is then the only
        // candidate, so low-scored beams continue as well.
        let last = logits.len().saturating_sub(1);
        let rows: Vec<(usize, i64)> = continued
            .iter()
            .map(|(i, _)| (candidates[*i].source.min(last), candidates[*i].token))
            .collect();

        // Candidates among the first `beams` that end join the pool.
        let penalty = frame.settings.length_penalty;
        let stop_when_full = frame.settings.early_stopping == EarlyStopping::WhenFull;
        let full = self.pool.iter().all(|p| p.finished) && stop_when_full;
        let divisor = ((length - frame.prompt) as f32).powf(penalty);
        let mut pool = std::mem::take(&mut self.pool);
        for (rank, candidate) in candidates.iter().enumerate() {
            let finished = candidate.ends && rank < beams;
            let mut score = candidate.score / divisor;
            for barred in [full, !self.can_improve, !finished] {
                score += if barred { NEVER } else { 0.0 };
            }
            pool.push(Pooled {
                sequence: Some((extended(candidate), candidate.chosen)),
                score,
                finished,
            });
        }
        self.pool = best(pool.iter().map(|p| p.score), beams)
            .into_iter()
            .map(|(i, _)| pool[i].clone())
            .collect();
        self.running = running;

        let room = frame.limit - frame.prompt;
        let reach = if frame.settings.early_stopping == EarlyStopping::Never && penalty > 0.0 {
            room
        } else {
            length - frame.prompt
        };
        let hope =
            self.running.first().map_or(NEVER, |best| best.score / (reach as f32).powf(penalty));
        let worst = self.pool.iter().map(|p| p.score).fold(f32::INFINITY, f32::min);
        self.can_improve &= self.pool.iter().any(|p| hope > if p.finished { worst } else { NEVER });
        let full = self.pool.iter().all(|p| p.finished) && stop_when_full;
        if !self.can_improve || full || candidates.iter().all(|c| c.ends) {
            return Ok(SearchAdvance::Done(self.outcome(frame)));
        }
        Ok(SearchAdvance::Continue(rows))
    }

    /// The best continuations of all rows, best first.
    fn candidates(
        &self,
        frame: SearchFrame,
        logits: &[&[f32]],
    ) -> Result<Vec<Candidate>, NotNumbers> {
        let normalisers = logits
            .iter()
            .map(|row| LogSoftmax::of(row).ok_or(NotNumbers))
            .collect::<Result<Vec<_>, _>>()?;
        // After prefill one row of logits stands for all beams, whose sequences are still equal.
        let row_of = |beam: usize| beam.min(logits.len().saturating_sub(1));
        let mut scores = Vec::with_capacity(logits.len());
        for (beam, (row, normaliser)) in logits.iter().zip(&normalisers).enumerate() {
            let mut scored: Vec<f32> = row.iter().map(|x| normaliser.log_probability(*x)).collect();
            rules::apply(frame.settings, frame.at(&self.running[beam].sequence), &mut scored);
            scores.push(scored);
        }
        let vocabulary = scores.first().ok_or(NotNumbers)?.len();
        if vocabulary == 0 || scores.iter().any(|row| row.len() != vocabulary) {
            return Err(NotNumbers);
        }
        let keep = 2.max(1 + frame.settings.eos_token_id.len()) * self.running.len();
        let all = self.running.iter().enumerate().flat_map(|(beam, running)| {
            scores[row_of(beam)].iter().map(move |s| s + running.score)
        });
        let candidate = |(index, score): (usize, f32)| {
            let (source, token) = (index / vocabulary, index % vocabulary);
            let from = &self.running[source];
            let row = row_of(source);
            let forced = frame.at(&from.sequence).is_forced(frame.settings);
            let chosen = if forced {
                from.chosen
            } else {
                from.chosen.with(normalisers[row].log_probability(logits[row][token]))
            };
            let token = token as i64;
            let ends = frame.settings.eos_token_id.contains(&token)
                || from.sequence.len() + 1 >= frame.limit;
            Candidate { source, token, score, ends, chosen }
        };
        Ok(best(all, keep).into_iter().map(candidate).collect())
    }

    fn outcome(&self, frame: SearchFrame) -> SearchOutcome {
        match &self.pool[0].sequence {
            Some((sequence, chosen)) => frame.outcome(sequence, *chosen),
            // No candidate ended: return the best running sequence.
            None => frame.outcome(&self.running[0].sequence, self.running[0].chosen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::search::CaptionSearch;
    use super::super::settings::GenerationSettings;
    use super::*;
    use pg_caption_wire::FinishReason;
    use serde_json::json;
    use std::sync::Arc;

    /// Runs a search on a table: after token t the logits are `table[t]`. Natural logarithms of
    /// probabilities are suitable values.
    fn run(settings: serde_json::Value, max_new: u32, table: &[Vec<f32>]) -> SearchOutcome {
        let settings = Arc::new(GenerationSettings::default().overridden(&settings).unwrap());
        let beams = settings.num_beams as usize;
        let mut search = CaptionSearch::new(settings, &[0], max_new);
        let mut tokens = vec![0usize];
        for _ in 0..1000 {
            let rows: Vec<&[f32]> = tokens.iter().map(|t| table[*t].as_slice()).collect();
            match search.advance(&rows).unwrap() {
                SearchAdvance::Done(outcome) => return outcome,
                SearchAdvance::Continue(rows) => {
                    assert_eq!(rows.len(), beams);
                    assert!(rows.iter().all(|(source, _)| *source < beams));
                    tokens = rows.iter().map(|(_, t)| *t as usize).collect();
                }
            }
        }
        panic!("a search that never ends");
    }

    fn ln(rows: &[&[f32]]) -> Vec<Vec<f32>> {
        rows.iter().map(|row| row.iter().map(|p| p.ln()).collect()).collect()
    }

    /// Greedy search takes 1 (0.5) and ends with 0.5 * 0.4; the better text starts with the
    /// second-best token: 0.4 * 0.9.
    fn garden_path() -> Vec<Vec<f32>> {
        ln(&[
            &[0.05, 0.5, 0.4, 0.05],
            &[0.3, 0.15, 0.15, 0.4],
            &[0.04, 0.03, 0.03, 0.9],
            &[0.25, 0.25, 0.25, 0.25],
        ])
    }

    #[test]
    fn beams_find_what_greedy_search_misses() {
        let outcome = run(json!({ "num_beams": 2, "eos_token_id": 3 }), 8, &garden_path());
        assert_eq!((outcome.ids, outcome.finish), (vec![2, 3], FinishReason::Stop));
        assert!((outcome.confidence - 0.36f32.sqrt()).abs() < 1e-4, "{}", outcome.confidence);
        assert_eq!(
            run(json!({ "num_beams": 1, "eos_token_id": 3 }), 8, &garden_path()).ids,
            [1, 3]
        );
    }

    #[test]
    fn truncated_text_is_the_best_of_its_length() {
        let outcome = run(json!({ "num_beams": 2, "eos_token_id": 7 }), 2, &garden_path());
        assert_eq!((outcome.ids, outcome.finish), (vec![2, 3], FinishReason::Length));
    }

    #[test]
    fn length_penalty_decides_between_lengths() {
        // Immediate end: probability 0.3. The sequence 1, 2, end: 0.6 * 0.6 * 0.6 = 0.216.
        let table = ln(&[
            &[0.05, 0.6, 0.05, 0.3],
            &[0.2, 0.1, 0.6, 0.1],
            &[0.2, 0.1, 0.1, 0.6],
            &[0.25; 4],
        ]);
        assert_eq!(
            run(json!({ "num_beams": 3, "eos_token_id": 3, "length_penalty": 2.0 }), 3, &table).ids,
            [1, 2, 3]
        );
        assert_eq!(
            run(json!({ "num_beams": 3, "eos_token_id": 3, "length_penalty": -2.0 }), 3, &table)
                .ids,
            [3]
        );
    }

    #[test]
    fn every_early_stopping_rule_ends_within_the_limit() {
        for rule in [json!(true), json!(false), json!("never")] {
            for max_new in 1..12 {
                let settings = json!({
                    "num_beams": 3, "eos_token_id": 3, "early_stopping": rule,
                    "no_repeat_ngram_size": 2
                });
                let outcome = run(settings, max_new, &garden_path());
                assert!(
                    !outcome.ids.is_empty() && outcome.ids.len() <= max_new as usize,
                    "{rule} {max_new}: {:?}",
                    outcome.ids
                );
                assert!((0.0..=1.0).contains(&outcome.confidence));
            }
        }
    }

    #[test]
    fn a_forced_final_end_token_is_a_length_finish() {
        let settings = json!({ "num_beams": 2, "eos_token_id": 0, "forced_eos_token_id": 0 });
        let outcome = run(settings, 3, &garden_path());
        assert_eq!((outcome.ids.last(), outcome.finish), (Some(&0), FinishReason::Length));
    }

    #[test]
    fn forced_first_tokens_continue_one_row() {
        let settings = json!({ "num_beams": 3, "eos_token_id": 3, "forced_bos_token_id": 1 });
        let mut search = CaptionSearch::new(
            Arc::new(GenerationSettings::default().overridden(&settings).unwrap()),
            &[0],
            8,
        );
        let SearchAdvance::Continue(rows) = search.advance(&[&garden_path()[0]]).unwrap() else {
            panic!("ended immediately")
        };
        assert_eq!(rows, [(0, 1), (0, 1), (0, 1)]);
    }

    #[test]
    fn rows_of_unequal_length_are_refused() {
        let settings =
            Arc::new(GenerationSettings::default().overridden(&json!({ "num_beams": 2 })).unwrap());
        let mut search = CaptionSearch::new(settings, &[0], 8);
        assert!(search.advance(&[&[0.0, 1.0], &[0.0]]).is_err());
    }
}
