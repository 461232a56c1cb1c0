//! Cross-attention keys and values computed once a picture, for step graphs that compute them again
//! for every token.
//!
//! The published step graph of ViT-GPT2 does (its cache has no place for them), which is more than
//! half of its work. The graph is cut when the model is loaded, its weights staying where they are,
//! both halves are tried against it, and the published graph stays on any difference. Called by the
//! decoder; writes nothing.

use crate::ModelError;
use crate::cache::Entry;
use crate::runtime::Graph;
use bytes::Bytes;
use ort::value::{DynValue, TensorElementType};
use pg_caption_onnx::{GraphSplit, OnnxModel};
use std::path::Path;

/// Larger files are left alone: they are read as a whole to be cut.
const LARGEST: u64 = 1_500_000_000;

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
    pub fn run(
        &mut self,
        given: &[Entry<DynValue>],
    ) -> Result<Vec<(String, DynValue)>, ModelError> {
        let feeds: Vec<(&str, &DynValue)> = given
            .iter()
            .filter(|e| self.graph.wants(&e.input))
            .map(|e| (e.input.as_str(), &e.value))
            .collect();
        let mut outputs = self.graph.run(&feeds)?;
        let path = self.graph.path();
        let take = |name: &String| {
            Ok((
                name.clone(),
                outputs
                    .take(name)
                    .ok_or_else(|| ModelError::graph(path, format!("no output \"{name}\"")))?,
            ))
        };
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
    let name = path.file_name().and_then(|name| name.to_str()).ok_or("its name is no text")?;
    let file = Bytes::from(std::fs::read(path).map_err(|e| e.to_string())?);
    let model = OnnxModel::read(file.clone())
        .and_then(|model| model.branch("use_cache_branch"))
        .map_err(|e| e.to_string())?;
    let GraphSplit { once, mut rest, cut } = model.split(roots).map_err(|e| e.to_string())?;
    drop(model);
    let once = {
        let bytes = once.write_beside(&file, name);
        drop(once);
        Graph::of_bytes(path, &bytes).map_err(|e| e.to_string())?
    };
    for name in &cut {
        let (ty, shape) = once.output(name).ok_or_else(|| format!("{name} has no type"))?;
        let code = element_code(ty).ok_or_else(|| format!("{name} is of type {ty}"))?;
        // Axis 0 is the row, whatever was inferred.
        let shape: Vec<i64> =
            shape.iter().enumerate().map(|(axis, n)| if axis == 0 { -1 } else { *n }).collect();
        rest.declare(name, code, &shape);
    }
    let bytes = rest.write_beside(&file, name);
    // The last that hold what was read of the file: both halves have their weights in the file
    // itself.
    drop((rest, file));
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
