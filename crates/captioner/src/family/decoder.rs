//! The autoregressive decoder of encoder-decoder families, in every published layout, with one way
//! to call it.
//!
//! * merged with `use_cache_branch`: one graph, two branches; the cached one returns empty dummies
//!   for cross-attention entries;
//! * merged without: one graph that takes a past of length 0;
//! * a pair: `decoder_model` for the prompt, `decoder_with_past_model` for the steps;
//! * `decoder_model` alone: everything is computed again in every step.
//!
//! Layouts that do not load are passed over, with a word in what is loaded instead. Names, element
//! types and shapes come from the sessions. Where a step graph computes cross-attention keys and
//! values again for every token, they are computed once a picture instead (`hoist.rs`). Where a
//! step graph takes what depends on the picture once for all beams of a caption, it is kept and fed
//! once (`trial.rs` finds out).

use super::Logits;
use super::hoist::{self, Hoisted};
use super::trial;
use crate::cache::{Cache, Entry, Kind, Sharing};
use crate::folder::{Folder, Graph as File};
use crate::runtime::{Graph, Outputs};
use crate::{ModelError, tensor};
use ort::value::{DynValue, TensorElementType};

/// Inputs this file feeds by itself.
const OWN: [&str; 5] =
    ["use_cache_branch", "attention_mask", "position_ids", "cache_position", "num_logits_to_keep"];

/// A decoder.
pub(super) struct Decoder {
    layout: Layout,
    /// What the layout's graph reads of a picture beyond what the family gives: computed once, in
    /// prefill.
    once: Option<Hoisted>,
    /// The input that takes tokens: `input_ids`, or `inputs_embeds` of a family that embeds them
    /// itself.
    tokens: &'static str,
    /// How few rows of the constants a step takes.
    sharing: Sharing,
}

enum Layout {
    /// `branch`: it has `use_cache_branch`.
    Merged {
        graph: Graph,
        branch: bool,
    },
    Pair {
        first: Graph,
        next: Graph,
    },
    Alone {
        graph: Graph,
    },
}

impl Decoder {
    /// Opens the first layout that loads, or two halves of it that say the same with less work.
    /// `constants` are the inputs the family gives in prefill.
    pub fn open(
        folder: &Folder,
        tokens: &'static str,
        constants: &[&str],
    ) -> Result<(Decoder, Vec<File>), ModelError> {
        let (mut decoder, files) = Self::hoisted(folder, tokens, constants)?;
        let sharing = trial::sharing(&mut decoder, constants);
        decoder.share(sharing);
        Ok((decoder, files))
    }

    fn hoisted(
        folder: &Folder,
        tokens: &'static str,
        constants: &[&str],
    ) -> Result<(Decoder, Vec<File>), ModelError> {
        let (mut published, files) = Self::published(folder, tokens, constants)?;
        let Some(step) = published.repeats(constants).map(|graph| graph.path().to_path_buf())
        else {
            return Ok((published, files));
        };
        // What the published graph says is noted, and it leaves before its halves come: both at
        // once would take twice the memory.
        let Ok(said) = trial::run(&mut published, constants) else { return Ok((published, files)) };
        drop(published);
        match hoist::cut(&step, constants) {
            Ok((once, graph)) => {
                let mut halves = Decoder {
                    layout: Layout::Merged { branch: false, graph },
                    once: Some(once),
                    tokens,
                    sharing: Sharing::None,
                };
                match trial::run(&mut halves, constants) {
                    Ok(says) if trial::same(&said, &says) => Ok((halves, files)),
                    _ => Self::published(folder, tokens, constants),
                }
            }
            Err(_) => Self::published(folder, tokens, constants),
        }
    }

    /// The step graph that computes of the picture what it could keep, if it does.
    fn repeats(&self, constants: &[&str]) -> Option<&Graph> {
        let step = match &self.layout {
            Layout::Merged { graph, .. } | Layout::Pair { next: graph, .. } => graph,
            Layout::Alone { .. } => return None,
        };
        // A cache with places for the picture's keys and values keeps them.
        let keeps = pasts(step).iter().any(|(_, kind)| *kind == Kind::Constant);
        (!keeps && constants.iter().any(|root| step.wants(root))).then_some(step)
    }

    /// Opens the first layout that loads.
    fn published(
        folder: &Folder,
        tokens: &'static str,
        constants: &[&str],
    ) -> Result<(Decoder, Vec<File>), ModelError> {
        let fed =
            |graph: &Graph, past_from: Option<&Graph>| check(graph, past_from, tokens, constants);
        let mut reasons = Vec::new();
        type Open<'a> = &'a dyn Fn() -> Result<(Layout, Vec<File>), ModelError>;
        let layouts: [Open; 3] = [
            &|| {
                let (graph, file) = folder.load("decoder_model_merged", |g| fed(g, Some(g)))?;
                if pasts(&graph).is_empty() {
                    return Ok((Layout::Alone { graph }, vec![file]));
                }
                Ok((Layout::Merged { branch: graph.wants("use_cache_branch"), graph }, vec![file]))
            },
            &|| {
                // Not worth loading the first half for, where the second is missing.
                folder.installed("decoder_with_past_model")?;
                let (first, first_file) = folder.load("decoder_model", |g| fed(g, None))?;
                let (next, next_file) =
                    folder.load("decoder_with_past_model", |g| match pasts(g).is_empty() {
                        true => Err("it takes no past".into()),
                        false => fed(g, Some(&first)),
                    })?;
                Ok((Layout::Pair { first, next }, vec![first_file, next_file]))
            },
            &|| {
                let (graph, file) = folder.load("decoder_model", |g| fed(g, None))?;
                Ok((Layout::Alone { graph }, vec![file]))
            },
        ];
        let mut absent = Vec::new();
        for open in layouts {
            match open() {
                Ok((layout, mut files)) => {
                    if let Some(first) = files.first_mut() {
                        first.passed_over.splice(..0, reasons);
                    }
                    return Ok((
                        Decoder { layout, once: None, tokens, sharing: Sharing::None },
                        files,
                    ));
                }
                // A missing layout is only worth a word if none is there at all.
                Err(ModelError::NotInstalled { wanted, .. }) => {
                    absent.push(format!("no {wanted} in onnx/"))
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        // The pair and the decoder alone begin with the same file.
        reasons.dedup();
        absent.dedup();
        Err(ModelError::NoGraph {
            folder: folder.path.clone(),
            graph: "decoder".into(),
            reason: [reasons, absent].concat().join("; "),
        })
    }

    /// The input that takes tokens.
    pub fn tokens(&self) -> &'static str {
        self.tokens
    }

    /// States how few rows of the constants a step takes, for caches made from now on.
    pub fn share(&mut self, sharing: Sharing) {
        self.sharing = sharing;
    }

    /// The dimensions of an input, wherever it occurs.
    pub fn input_shape(&self, input: &str) -> Option<Vec<i64>> {
        self.graphs().into_iter().find_map(|graph| Some(graph.input(input)?.1.to_vec()))
    }

    /// How many positions these inputs have, if a graph states it of one of them.
    pub fn positions(&self, inputs: &[&str]) -> Option<usize> {
        let graphs = self.graphs();
        let stated = graphs
            .iter()
            .flat_map(|graph| inputs.iter().filter_map(|input| graph.input(input)?.1.get(1)));
        stated.filter_map(|n| usize::try_from(*n).ok()).filter(|n| *n > 0).max()
    }

    /// Cross-attention keys and values are computed once a picture although the published graph
    /// computes them for every token.
    pub fn is_hoisted(&self) -> bool {
        self.once.is_some()
    }

    fn graphs(&self) -> Vec<&Graph> {
        let (first, next) = match &self.layout {
            Layout::Merged { graph, .. } | Layout::Alone { graph } => (graph, None),
            Layout::Pair { first, next } => (first, Some(next)),
        };
        [Some(first), next, self.once.as_ref().map(Hoisted::graph)].into_iter().flatten().collect()
    }

    /// Does any call ask for this input?
    pub fn wants(&self, input: &str) -> bool {
        self.graphs().iter().any(|graph| graph.wants(input))
    }

    /// Element type of an input, wherever it occurs.
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

    /// Feeds the prompt: `tokens` is `[rows, length, …]`; `constants` stay the same for the rest of
    /// the captions.
    pub fn prefill(
        &mut self,
        tokens: DynValue,
        constants: Vec<(&str, DynValue)>,
    ) -> Result<(Logits, Cache<DynValue>), ModelError> {
        let [rows, length, ..] = *tensor::shape(&tokens) else {
            return Err(ModelError::run("decoder", "tokens have no positions"));
        };
        let constant =
            |input: &str, value| Entry { input: input.into(), kind: Kind::Constant, value };
        let mut entries: Vec<Entry<DynValue>> =
            constants.into_iter().map(|(input, value)| constant(input, value)).collect();
        if let Some(once) = &mut self.once {
            let made = once.run(&entries)?;
            entries.extend(made.into_iter().map(|(input, value)| constant(&input, value)));
            // What only the first half read is not kept.
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
            // Graphs that read the prompt without a past have no such input; merged ones take an
            // empty one.
            if let Some((ty, shape)) = graph.input(past) {
                owned.push((past.clone(), tensor::zeros(ty, empty(shape, rows))?));
            }
        }
        let mut outputs = run(graph, &owned, (name, &tokens), &entries)?;
        let logits = logits(graph, &mut outputs)?;
        for (past, kind) in pasts {
            let value =
                outputs.take(&present(&past)).ok_or_else(|| missing(graph, &present(&past)))?;
            entries.push(Entry { input: past, kind, value });
        }
        if alone {
            entries.push(Entry { input: name.into(), kind: Kind::Growing, value: tokens });
        }
        Ok((logits, Cache::new(entries, rows as usize, length as usize, self.sharing)))
    }

    /// Feeds one position per row: `tokens` is `[rows, 1, …]`.
    pub fn step(
        &mut self,
        cache: &mut Cache<DynValue>,
        tokens: DynValue,
    ) -> Result<Logits, ModelError> {
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
                cache.entries.push(Entry {
                    input: self.tokens.into(),
                    kind: Kind::Growing,
                    value: all,
                });
                cache.length += 1;
                return logits(graph, &mut outputs);
            }
        };
        let owned = own_inputs(graph, branch, rows, before, 1)?;
        let mut outputs = run(graph, &owned, (self.tokens, &tokens), &cache.entries)?;
        for entry in cache.entries.iter_mut().filter(|e| e.kind != Kind::Constant) {
            let name = present(&entry.input);
            entry.value = outputs.take(&name).ok_or_else(|| missing(graph, &name))?;
        }
        cache.length += 1;
        logits(graph, &mut outputs)
    }
}

/// A graph is usable if somebody feeds each of its inputs, and each past it reads is written by the
/// graph that comes before, in its type.
fn check(
    graph: &Graph,
    past_from: Option<&Graph>,
    tokens: &str,
    constants: &[&str],
) -> Result<(), String> {
    for input in graph.inputs() {
        if let Some(before) = past_from {
            let (stated, past) = (graph.input(input).map(|(ty, _)| ty), present(input));
            // What both halves take is made once; what one writes the other reads as it is.
            let other = before
                .input(input)
                .or_else(|| before.output(&past).filter(|_| input.starts_with("past_")))
                .map(|(ty, _)| ty);
            let own = graph.output(&past).filter(|_| input.starts_with("past_")).map(|(ty, _)| ty);
            if let (Some(stated), Some(other)) =
                (stated, [other, own].into_iter().flatten().find(|ty| Some(*ty) != stated))
            {
                return Err(format!(
                    "its input \"{input}\" is of type {stated}, and what it is given of type {other}"
                ));
            }
        }
        if input == tokens || constants.contains(&input) || OWN.contains(&input) {
            continue;
        }
        match past_from {
            Some(before) if input.starts_with("past_") => {
                let output = present(input);
                let shape = graph.input(input).map_or(&[][..], |(_, shape)| shape);
                let constant = kind(input, shape) == Kind::Constant;
                if !before.outputs().any(|o| o == output)
                    || !(constant || graph.outputs().any(|o| o == output))
                {
                    return Err(format!(
                        "input \"{input}\" has no output \"{output}\" to come from"
                    ));
                }
            }
            _ => return Err(format!("nothing feeds its input \"{input}\"")),
        }
    }
    if !graph.wants(tokens) {
        return Err(format!("it has no input \"{tokens}\""));
    }
    if !graph.outputs().any(|output| output == "logits") {
        return Err("it has no output \"logits\"".into());
    }
    Ok(())
}

/// The inputs that take a past, with their kinds.
fn pasts(graph: &Graph) -> Vec<(String, Kind)> {
    let names = graph.inputs().filter(|name| name.starts_with("past_"));
    names
        .map(|name| {
            (name.to_owned(), kind(name, graph.input(name).map_or(&[][..], |(_, shape)| shape)))
        })
        .collect()
}

/// `past_key_values.0.key` comes from `present.0.key`, `past_conv.0` from `present_conv.0`.
fn present(past: &str) -> String {
    match past.strip_prefix("past_key_values") {
        Some(rest) => format!("present{rest}"),
        None => past.replacen("past_", "present_", 1),
    }
}

/// Cross-attention entries depend on the picture alone; of the others those with an unstated length
/// grow.
fn kind(past: &str, shape: &[i64]) -> Kind {
    if past.contains(".encoder.") {
        Kind::Constant
    } else if shape.iter().skip(1).any(|n| *n < 0) {
        Kind::Growing
    } else {
        Kind::Fixed
    }
}

/// The shape of a past of length 0: stated dimensions stay, axis 0 is the row, everything else
/// unstated is 0.
fn empty(shape: &[i64], rows: i64) -> Vec<i64> {
    shape.iter().enumerate().map(|(axis, n)| if axis == 0 { rows } else { (*n).max(0) }).collect()
}

/// Masks and positions, as far as the graph asks for them. All rows of a batch are equally long, so
/// nothing is masked.
fn own_inputs(
    graph: &Graph,
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
    graph: &mut Graph,
    owned: &[(String, DynValue)],
    tokens: (&str, &DynValue),
    entries: &[Entry<DynValue>],
) -> Result<Outputs, ModelError> {
    let mut feeds: Vec<(&str, &DynValue)> = Vec::with_capacity(owned.len() + entries.len() + 1);
    feeds.push(tokens);
    feeds.extend(owned.iter().map(|(name, value)| (name.as_str(), value)));
    feeds.extend(
        entries.iter().map(|e| (e.input.as_str(), &e.value)).filter(|(name, _)| graph.wants(name)),
    );
    graph.run(&feeds)
}

fn logits(graph: &Graph, outputs: &mut Outputs) -> Result<Logits, ModelError> {
    let logits = outputs.take("logits").ok_or_else(|| missing(graph, "logits"))?;
    tensor::last_position(&logits, graph.path()).map_err(|e| ModelError::graph(graph.path(), e))
}

fn missing(graph: &Graph, output: &str) -> ModelError {
    ModelError::graph(graph.path(), format!("no output \"{output}\""))
}

#[cfg(test)]
mod tests;
