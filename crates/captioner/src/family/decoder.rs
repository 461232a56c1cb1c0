//! The autoregressive decoder of encoder-decoder families, in every published layout, behind one
//! interface.
//!
//! * merged with `use_cache_branch`: one graph, two branches; the cached one returns empty
//!   placeholders for cross-attention entries;
//! * merged without it: one graph that takes a past of length 0;
//! * a pair: `decoder_model` for the prompt, `decoder_with_past_model` for the steps;
//! * `decoder_model` alone: every step computes the whole text again.
//!
//! Layouts that do not load are skipped and reported. Names, element types and shapes come from the
//! sessions. If a step graph computes cross-attention keys and values again for every token, they
//! are computed once a picture instead (`hoist.rs`). If a step graph accepts one row of constants
//! for all beams of a caption, only one is kept (`trial.rs` finds out).

mod opening;
mod ports;

use super::hoist::HoistedGraph;
use crate::cache::{CacheEntry, ConstantSharing, DecoderCache, EntryKind};
use crate::logits::LogitRows;
use crate::runtime::{GraphOutputs, GraphSession};
use crate::{ModelError, tensor};
use ort::value::{DynValue, TensorElementType};
use ports::{empty, pasts, present};

/// A decoder in one of its layouts.
pub(super) struct TextDecoder {
    layout: Layout,
    /// Computes, during prefill, the constants of a picture that the step graph reads but the
    /// family does not provide.
    once: Option<HoistedGraph>,
    /// The input that takes tokens: `input_ids`, or `inputs_embeds` where the family embeds them.
    tokens: &'static str,
    /// How many rows of the constants a step takes.
    sharing: ConstantSharing,
}

enum Layout {
    /// `branch`: the graph has the input `use_cache_branch`.
    Merged {
        graph: GraphSession,
        branch: bool,
    },
    Pair {
        first: GraphSession,
        next: GraphSession,
    },
    Alone {
        graph: GraphSession,
    },
}

impl TextDecoder {
    /// The input that takes tokens.
    pub fn tokens(&self) -> &'static str {
        self.tokens
    }

    /// Sets how many rows of the constants a step takes, for caches created from now on.
    pub fn share(&mut self, sharing: ConstantSharing) {
        self.sharing = sharing;
    }

    /// The dimensions of an input, whichever graph has it.
    pub fn input_shape(&self, input: &str) -> Option<Vec<i64>> {
        self.graphs().into_iter().find_map(|graph| Some(graph.input(input)?.1.to_vec()))
    }

    /// How many positions these inputs have, if a graph states it for one of them.
    pub fn positions(&self, inputs: &[&str]) -> Option<usize> {
        let graphs = self.graphs();
        let stated = graphs
            .iter()
            .flat_map(|graph| inputs.iter().filter_map(|input| graph.input(input)?.1.get(1)));
        stated.filter_map(|n| usize::try_from(*n).ok()).filter(|n| *n > 0).max()
    }

    /// Whether cross-attention keys and values are computed once a picture although the published
    /// graph computes them for every token.
    pub fn is_hoisted(&self) -> bool {
        self.once.is_some()
    }

    fn graphs(&self) -> Vec<&GraphSession> {
        let (first, next) = match &self.layout {
            Layout::Merged { graph, .. } | Layout::Alone { graph } => (graph, None),
            Layout::Pair { first, next } => (first, Some(next)),
        };
        [Some(first), next, self.once.as_ref().map(HoistedGraph::graph)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Whether any graph has this input.
    pub fn wants(&self, input: &str) -> bool {
        self.graphs().iter().any(|graph| graph.wants(input))
    }

    /// Element type of an input, whichever graph has it.
    pub fn input_type(&self, input: &str) -> Option<TensorElementType> {
        self.graphs().into_iter().find_map(|graph| Some(graph.input(input)?.0))
    }

    /// Size of the vocabulary, if the graph states it.
    pub fn vocabulary(&self) -> Option<usize> {
        let graph = match &self.layout {
            Layout::Merged { graph, .. }
            | Layout::Alone { graph }
            | Layout::Pair { first: graph, .. } => graph,
        };
        let (_, shape) = graph.output("logits")?;
        usize::try_from(*shape.last()?).ok()
    }

    /// Feeds the prompt. `tokens` is `[rows, length, …]`; `constants` do not change during the
    /// captions.
    pub fn prefill(
        &mut self,
        tokens: DynValue,
        constants: Vec<(&str, DynValue)>,
    ) -> Result<(LogitRows, DecoderCache<DynValue>), ModelError> {
        let [rows, length, ..] = *tensor::shape(&tokens) else {
            return Err(ModelError::run("decoder", "tokens have no positions"));
        };
        let constant = |input: &str, value| CacheEntry {
            input: input.into(),
            kind: EntryKind::Constant,
            value,
        };
        let mut entries: Vec<CacheEntry<DynValue>> =
            constants.into_iter().map(|(input, value)| constant(input, value)).collect();
        if let Some(once) = &mut self.once {
            let made = once.run(&entries)?;
            entries.extend(made.into_iter().map(|(input, value)| constant(&input, value)));
            // Entries that only the first half reads are dropped.
            if let Layout::Merged { graph, .. } = &self.layout {
                entries.retain(|entry| graph.wants(&entry.input));
            }
        }
        let name = self.tokens;
        let (graph, branch, pasts, alone) = match &mut self.layout {
            Layout::Merged { graph, branch } => {
                let pasts = pasts(graph);
                (graph, branch.then_some(false), pasts, false)
            }
            Layout::Pair { first, next } => (first, None, pasts(next), false),
            Layout::Alone { graph } => (graph, None, Vec::new(), true),
        };
        let mut owned = own_inputs(graph, branch, rows, 0, length)?;
        for (past, _) in &pasts {
            // A graph that reads the prompt without a past lacks this input; a merged one takes an
            // empty past.
            if let Some((ty, shape)) = graph.input(past) {
                owned.push((past.clone(), tensor::zeros(ty, empty(shape, rows))?));
            }
        }
        let mut outputs = run(graph, &owned, (name, &tokens), &entries)?;
        let logits = logits(graph, &mut outputs)?;
        for (past, kind) in pasts {
            let value =
                outputs.take(&present(&past)).ok_or_else(|| missing(graph, &present(&past)))?;
            entries.push(CacheEntry { input: past, kind, value });
        }
        if alone {
            entries.push(CacheEntry {
                input: name.into(),
                kind: EntryKind::Growing,
                value: tokens,
            });
        }
        Ok((logits, DecoderCache::new(entries, rows as usize, length as usize, self.sharing)))
    }

    /// Feeds one position per row: `tokens` is `[rows, 1, …]`.
    pub fn step(
        &mut self,
        cache: &mut DecoderCache<DynValue>,
        tokens: DynValue,
    ) -> Result<LogitRows, ModelError> {
        let (rows, before) = (cache.rows() as i64, cache.length as i64);
        let (graph, branch) = match &mut self.layout {
            Layout::Merged { graph, branch } => (graph, branch.then_some(true)),
            Layout::Pair { next, .. } => (next, None),
            Layout::Alone { graph } => {
                let at = cache.entries.iter().position(|e| e.input == self.tokens);
                let at =
                    at.ok_or_else(|| ModelError::run("decoder", "a cache of another layout"))?;
                let all = tensor::join_positions(&cache.entries[at].value, &tokens)?;
                cache.entries.remove(at);
                let owned = own_inputs(graph, None, rows, 0, before + 1)?;
                let mut outputs = run(graph, &owned, (self.tokens, &all), &cache.entries)?;
                cache.entries.push(CacheEntry {
                    input: self.tokens.into(),
                    kind: EntryKind::Growing,
                    value: all,
                });
                cache.length += 1;
                return logits(graph, &mut outputs);
            }
        };
        let owned = own_inputs(graph, branch, rows, before, 1)?;
        let mut outputs = run(graph, &owned, (self.tokens, &tokens), &cache.entries)?;
        for entry in cache.entries.iter_mut().filter(|e| e.kind != EntryKind::Constant) {
            let name = present(&entry.input);
            entry.value = outputs.take(&name).ok_or_else(|| missing(graph, &name))?;
        }
        cache.length += 1;
        logits(graph, &mut outputs)
    }
}

/// Masks and positions, as far as the graph has such inputs. All rows of a batch are equally long,
/// so nothing is masked.
fn own_inputs(
    graph: &GraphSession,
    branch: Option<bool>,
    rows: i64,
    before: i64,
    new: i64,
) -> Result<Vec<(String, DynValue)>, ModelError> {
    let mut owned = Vec::new();
    if let Some(cached) = branch {
        owned.push(("use_cache_branch".into(), tensor::tensor(vec![1], vec![cached])?));
    }
    if graph.wants("attention_mask") {
        owned.push((
            "attention_mask".into(),
            tensor::tensor(vec![rows, before + new], vec![1i64; (rows * (before + new)) as usize])?,
        ));
    }
    if graph.wants("position_ids") {
        let positions = (0..rows).flat_map(|_| before..before + new).collect::<Vec<i64>>();
        owned.push(("position_ids".into(), tensor::tensor(vec![rows, new], positions)?));
    }
    if graph.wants("cache_position") {
        owned.push((
            "cache_position".into(),
            tensor::tensor(vec![new], (before..before + new).collect::<Vec<i64>>())?,
        ));
    }
    if let Some((_, shape)) = graph.input("num_logits_to_keep") {
        owned
            .push(("num_logits_to_keep".into(), tensor::tensor(vec![1; shape.len()], vec![1i64])?));
    }
    Ok(owned)
}

fn run(
    graph: &mut GraphSession,
    owned: &[(String, DynValue)],
    tokens: (&str, &DynValue),
    entries: &[CacheEntry<DynValue>],
) -> Result<GraphOutputs, ModelError> {
    let mut feeds: Vec<(&str, &DynValue)> = Vec::with_capacity(owned.len() + entries.len() + 1);
    feeds.push(tokens);
    feeds.extend(owned.iter().map(|(name, value)| (name.as_str(), value)));
    feeds.extend(
        entries.iter().map(|e| (e.input.as_str(), &e.value)).filter(|(name, _)| graph.wants(name)),
    );
    graph.run(&feeds)
}

fn logits(graph: &GraphSession, outputs: &mut GraphOutputs) -> Result<LogitRows, ModelError> {
    let logits = outputs.take("logits").ok_or_else(|| missing(graph, "logits"))?;
    tensor::last_position(&logits, graph.path()).map_err(|e| ModelError::graph(graph.path(), e))
}

fn missing(graph: &GraphSession, output: &str) -> ModelError {
    ModelError::graph(graph.path(), format!("no output \"{output}\""))
}

#[cfg(test)]
mod tests;
