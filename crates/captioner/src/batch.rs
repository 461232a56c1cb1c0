//! Captions being generated together: rows, who owns them, and when they leave.
//!
//! Called by [`crate::Captioner`], one method per session call. Knows searches and caches, no
//! family and no picture. Rows that finished or were cancelled leave before the next step, never in
//! the middle of one.

use crate::cache::{Cache, Rows};
use crate::family::{Family, Logits};
use crate::generation::{Advance, Search};
use crate::{CaptionSequence, FinishedCaption, ModelError};

/// One caption and its rows.
struct Active {
    key: u64,
    search: Search,
    /// For each row of the next step: the cache row it continues, and the token to feed.
    next: Vec<(usize, i64)>,
    cancelled: bool,
}

/// A batch over caches of `V`.
pub(crate) struct Running<V> {
    captions: Vec<Active>,
    cache: Option<Cache<V>>,
}

impl<V: Rows> Running<V> {
    /// Prefill. Refuses sequences that may not share a batch.
    pub fn begin<F: Family<Value = V> + ?Sized>(
        family: &mut F,
        sequences: &[CaptionSequence],
    ) -> Result<(Running<V>, Vec<FinishedCaption>), ModelError> {
        let Some(first) = sequences.first() else {
            return Ok((Running { captions: Vec::new(), cache: None }, Vec::new()));
        };
        for (i, other) in sequences.iter().enumerate() {
            let differs = if other.features.bucket != first.features.bucket {
                "features"
            } else if other.prompt.bucket != first.prompt.bucket {
                "prompts"
            } else if other.generation != first.generation {
                "generation settings"
            } else if sequences[..i].iter().any(|s| s.key == other.key) {
                return Err(ModelError::Batch(format!("key {} occurs twice", other.key)));
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
            search: Search::new(s.generation.clone(), &s.prompt.ids, s.max_new_tokens),
            // Prefill has one row per caption; its beams spring from it.
            next: vec![(row, 0)],
            cancelled: false,
        });
        let mut running = Running { captions: captions.collect(), cache: Some(cache) };
        let spans: Vec<(usize, usize)> = (0..sequences.len()).map(|row| (row, 1)).collect();
        let finished = running.advance(&logits, &spans)?;
        Ok((running, finished))
    }

    /// One decode step of everything still in the batch.
    pub fn step<F: Family<Value = V> + ?Sized>(
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

    /// Hands every caption its rows of the logits; `spans` are (first row, rows) in the captions'
    /// order.
    fn advance(
        &mut self,
        logits: &Logits,
        spans: &[(usize, usize)],
    ) -> Result<Vec<FinishedCaption>, ModelError> {
        let mut finished = Vec::new();
        let mut spans = spans.iter();
        let mut failed = false;
        self.captions.retain_mut(|caption| {
            let (first, count) = *spans.next().expect("one span per caption");
            let rows: Vec<&[f32]> = (first..first + count).map(|row| logits.row(row)).collect();
            match caption.search.advance(&rows) {
                Ok(Advance::Continue(next)) => {
                    caption.next =
                        next.into_iter().map(|(source, token)| (first + source, token)).collect();
                    true
                }
                Ok(Advance::Done(outcome)) => {
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

    /// Captions still running.
    pub fn len(&self) -> usize {
        self.captions.iter().filter(|c| !c.cancelled).count()
    }

    /// Keys still running.
    pub fn keys(&self) -> Vec<u64> {
        self.captions.iter().filter(|c| !c.cancelled).map(|c| c.key).collect()
    }

    /// Marks captions whose caller left.
    pub fn cancel(&mut self, keys: &[u64]) {
        for caption in self.captions.iter_mut().filter(|c| keys.contains(&c.key)) {
            caption.cancelled = true;
        }
        if self.len() == 0 {
            self.captions.clear();
            self.cache = None;
        }
    }

    /// Cache bytes held now.
    pub fn bytes(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::bytes)
    }
}

#[cfg(test)]
mod tests;
