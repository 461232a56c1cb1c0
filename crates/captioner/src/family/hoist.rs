//! Cross-attention keys and values computed once a picture, for step graphs that compute them again for every token.
//!
//! The published step graph of ViT-GPT2 does (its cache has no place for them), which is more than half of its work. The graph is cut
//! in memory when the model is loaded, both halves are tried against it, and the published graph stays on any difference. Called by
//! the decoder; writes nothing.

use super::decoder::Decoder;
use crate::Error;
use crate::cache::{Entry, Rows};
use crate::runtime::Graph;
use crate::tensor;
use bytes::Bytes;
use ort::value::{DynValue, TensorElementType};
use pg_caption_onnx::{Model, Split};
use std::path::Path;

/// Larger files are left alone: a model in memory has to stay below 2 GiB, and loading it takes several times its size.
const LARGEST: u64 = 1_500_000_000;

/// Rows, positions of the picture and steps of the trial: rows whose order would show, and pasts of 0 to 3.
const ROWS: usize = 3;
const POSITIONS: usize = 6;
const STEPS: usize = 3;

/// The half of a step graph that depends on the picture alone.
pub(super) struct Hoisted {
    graph: Graph,
    /// Its outputs, which the other half takes as inputs of the same names.
    cut: Vec<String>,
}

impl Hoisted {
    /// Its graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What the other half takes, made of what the family gives.
    pub fn run(&mut self, given: &[Entry<DynValue>]) -> Result<Vec<(String, DynValue)>, Error> {
        let feeds: Vec<(&str, &DynValue)> = given.iter().filter(|e| self.graph.wants(&e.input)).map(|e| (e.input.as_str(), &e.value)).collect();
        let mut outputs = self.graph.run(&feeds)?;
        let path = self.graph.path();
        let take = |name: &String| Ok((name.clone(), outputs.take(name).ok_or_else(|| Error::graph(path, format!("no output \"{name}\"")))?));
        self.cut.iter().map(take).collect()
    }
}

/// Cuts a step graph behind everything that depends on these inputs alone.
///
/// # Errors
/// Why it cannot be cut; the graph is then used as it is.
pub(super) fn cut(path: &Path, roots: &[&str]) -> Result<(Hoisted, Graph), String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > LARGEST {
        return Err(format!("{size} bytes are too many to cut in memory"));
    }
    let file = Bytes::from(std::fs::read(path).map_err(|e| e.to_string())?);
    let model = Model::read(file).and_then(|model| model.branch("use_cache_branch")).map_err(|e| e.to_string())?;
    let Split { once, mut rest, cut } = model.split(roots).map_err(|e| e.to_string())?;
    drop(model);
    let once = {
        let bytes = once.write();
        drop(once);
        Graph::of_bytes(path, &bytes).map_err(|e| e.to_string())?
    };
    for name in &cut {
        let (ty, shape) = once.output(name).ok_or_else(|| format!("{name} has no type"))?;
        let code = element_code(ty).ok_or_else(|| format!("{name} is of type {ty}"))?;
        // Axis 0 is the row, whatever was inferred.
        let shape: Vec<i64> = shape.iter().enumerate().map(|(axis, n)| if axis == 0 { -1 } else { *n }).collect();
        rest.declare(name, code, &shape);
    }
    let bytes = rest.write();
    // The last that holds the file: its weights are in `bytes` now.
    drop(rest);
    let rest = Graph::of_bytes(path, &bytes).map_err(|e| e.to_string())?;
    Ok((Hoisted { graph: once, cut }, rest))
}

/// ONNX's numbers for element types (`TensorProto.DataType`).
fn element_code(ty: TensorElementType) -> Option<i32> {
    match ty {
        TensorElementType::Float32 => Some(1),
        TensorElementType::Float16 => Some(10),
        _ => None,
    }
}

/// Whether two trials gave the same bits.
pub(super) fn same(a: &[f32], b: &[f32]) -> bool {
    !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// What a decoder says of a made-up picture: the logits of a few steps, with an empty past and with one of up to three positions,
/// rows traded in between.
///
/// # Errors
/// Inputs of shapes that no picture can be made up for; calls that fail.
pub(super) fn trial(decoder: &mut Decoder, constants: &[&str]) -> Result<Vec<f32>, Error> {
    let mut given = Vec::new();
    for (seed, name) in constants.iter().enumerate().filter(|(_, name)| decoder.wants(name)) {
        let ty = decoder.input_type(name).unwrap_or(TensorElementType::Float32);
        let shape = decoder.input_shape(name).unwrap_or_default();
        let value = match (&shape[..], ty) {
            ([_, _, width], _) if *width > 0 => {
                let shape = vec![ROWS as i64, POSITIONS as i64, *width];
                tensor::of_floats(shape, noise(ROWS * POSITIONS * *width as usize, seed as u64), ty)?
            }
            ([_, _], TensorElementType::Int64) => tensor::tensor(vec![ROWS as i64, POSITIONS as i64], vec![1i64; ROWS * POSITIONS])?,
            _ => return Err(Error::run("decoder", format!("no trial for {name} of shape {shape:?}"))),
        };
        given.push((*name, value));
    }
    let ids = |step: usize| tensor::tensor(vec![ROWS as i64, 1], (0..ROWS).map(|row| (1 + row + 2 * step) as i64).collect());
    let (logits, mut cache) = decoder.prefill(ids(0)?, given)?;
    let mut all: Vec<f32> = (0..ROWS).flat_map(|row| logits.row(row).to_vec()).collect();
    for step in 1..=STEPS {
        if step == 2 {
            // Rows leave and trade places: everything that was handed over has to follow them.
            cache.rearrange(&[2, 0, 1])?;
        }
        let logits = decoder.step(&mut cache, ids(step)?)?;
        all.extend((0..ROWS).flat_map(|row| logits.row(row).to_vec()));
    }
    debug_assert!(cache.entries.iter().all(|entry| entry.value.rows() == ROWS));
    Ok(all)
}

/// Numbers between -1 and 1 that are the same every time (a linear congruential generator, Knuth's constants).
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
