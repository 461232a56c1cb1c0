//! A batch: captions that are generated together, the rows of each, and when rows leave.
//!
//! Called by [`crate::Captioner`], one method per session call. Depends on searches and caches,
//! never on a family or a picture. Finished and cancelled rows leave before the next step, never
//! during one.

use crate::ModelError;
use crate::cache::{DecoderCache, RowTensor};
use crate::family::FamilyRunner;
use crate::generation::{CaptionSearch, SearchAdvance};
use crate::logits::LogitRows;
use crate::sequence::{CaptionSequence, FinishedCaption};

/// One caption and its rows.
struct Active {
    key: u64,
    search: CaptionSearch,
    /// For each row of the next step: the cache row that it continues, and the token to feed.
    next: Vec<(usize, i64)>,
    cancelled: bool,
}

/// A batch over caches of `V`.
pub(crate) struct RunningBatch<V> {
    captions: Vec<Active>,
    cache: Option<DecoderCache<V>>,
}

impl<V: RowTensor> RunningBatch<V> {
    /// Runs the prefill.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for sequences that may not share a batch; errors of the family.
    pub fn begin<F: FamilyRunner<Value = V> + ?Sized>(
        family: &mut F,
        sequences: &[CaptionSequence],
    ) -> Result<(RunningBatch<V>, Vec<FinishedCaption>), ModelError> {
        let Some(first) = sequences.first() else {
            return Ok((RunningBatch { captions: Vec::new(), cache: None }, Vec::new()));
        };
        for (i, other) in sequences.iter().enumerate() {
            let differs = if other.features.bucket != first.features.bucket {
                "features"
            } else if other.prompt.bucket != first.prompt.bucket {
                "prompts"
            } else if other.generation != first.generation {
                "generation settings"
            } else if sequences[..i].iter().any(|s| s.key == other.key) {
                return Err(ModelError::Batch(format!("duplicate key {}", other.key)));
            } else {
                continue;
            };
            return Err(ModelError::Batch(format!(
                "sequences {} and {} differ in their {differs}",
                first.key, other.key
            )));
        }
        let inputs: Vec<_> = sequences.iter().map(|s| (&*s.features, &s.prompt)).collect();
        let (logits, cache) = family.prefill(&inputs)?;
        let captions = sequences.iter().enumerate().map(|(row, s)| Active {
            key: s.key,
            search: CaptionSearch::new(s.generation.clone(), &s.prompt.ids, s.max_new_tokens),
            // Prefill has one row per caption; its beams start from that row.
            next: vec![(row, 0)],
            cancelled: false,
        });
        let mut running = RunningBatch { captions: captions.collect(), cache: Some(cache) };
        let spans: Vec<(usize, usize)> = (0..sequences.len()).map(|row| (row, 1)).collect();
        let finished = running.advance(&logits, &spans)?;
        Ok((running, finished))
    }

    /// Runs one decode step of every running caption.
    pub fn step<F: FamilyRunner<Value = V> + ?Sized>(
        &mut self,
        family: &mut F,
    ) -> Result<Vec<FinishedCaption>, ModelError> {
        self.captions.retain(|c| !c.cancelled);
        let Some(cache) = self.cache.as_mut().filter(|_| !self.captions.is_empty()) else {
            self.cache = None;
            return Ok(Vec::new());
        };
        let sources: Vec<usize> =
            self.captions.iter().flat_map(|c| c.next.iter().map(|(source, _)| *source)).collect();
        let tokens: Vec<i64> =
            self.captions.iter().flat_map(|c| c.next.iter().map(|(_, token)| *token)).collect();
        cache.rearrange(&sources)?;
        let logits = family.step(cache, &tokens)?;
        let mut spans = Vec::with_capacity(self.captions.len());
        let mut row = 0;
        for caption in &self.captions {
            spans.push((row, caption.next.len()));
            row += caption.next.len();
        }
        self.advance(&logits, &spans)
    }

    /// Passes each caption its rows of the logits. `spans` holds (first row, rows) in the order of
    /// the captions.
    fn advance(
        &mut self,
        logits: &LogitRows,
        spans: &[(usize, usize)],
    ) -> Result<Vec<FinishedCaption>, ModelError> {
        let mut finished = Vec::new();
        let mut spans = spans.iter();
        let mut failed = false;
        self.captions.retain_mut(|caption| {
            let (first, count) = *spans.next().expect("one span per caption");
            let rows: Vec<&[f32]> = (first..first + count).map(|row| logits.row(row)).collect();
            match caption.search.advance(&rows) {
                Ok(SearchAdvance::Continue(next)) => {
                    caption.next =
                        next.into_iter().map(|(source, token)| (first + source, token)).collect();
                    true
                }
                Ok(SearchAdvance::Done(outcome)) => {
                    if !caption.cancelled {
                        finished.push(FinishedCaption {
                            key: caption.key,
                            ids: outcome.ids,
                            finish: outcome.finish,
                            confidence: outcome.confidence,
                        });
                    }
                    false
                }
                Err(_) => {
                    failed = true;
                    false
                }
            }
        });
        if failed {
            return Err(logits.not_numbers());
        }
        if self.captions.is_empty() {
            self.cache = None;
        }
        Ok(finished)
    }

    /// Number of running captions.
    pub fn len(&self) -> usize {
        self.captions.iter().filter(|c| !c.cancelled).count()
    }

    /// Keys of the running captions.
    #[cfg(test)]
    pub fn keys(&self) -> Vec<u64> {
        self.captions.iter().filter(|c| !c.cancelled).map(|c| c.key).collect()
    }

    /// Cancels captions whose client disconnected.
    pub fn cancel(&mut self, keys: &[u64]) {
        for caption in self.captions.iter_mut().filter(|c| keys.contains(&c.key)) {
            caption.cancelled = true;
        }
        if self.len() == 0 {
            self.captions.clear();
            self.cache = None;
        }
    }

    /// Bytes held by the cache.
    pub fn bytes(&self) -> usize {
        self.cache.as_ref().map_or(0, DecoderCache::bytes)
    }
}

#[cfg(test)]
mod tests;
