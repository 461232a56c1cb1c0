//! Hoists cross-attention keys and values: computes them once a picture instead of once a token.
//!
//! The published step graph of ViT-GPT2 computes them in every step, more than half of its work,
//! because its cache has no entries for them. The graph is split when the model is loaded; its
//! weights stay in their file. Both halves are compared with the published graph, which stays in
//! use on any difference. Called by the decoder; writes nothing.

use crate::ModelError;
use crate::cache::CacheEntry;
use crate::runtime::GraphSession;
use bytes::Bytes;
use ort::value::{DynValue, TensorElementType};
use pg_caption_onnx::{GraphSplit, OnnxModel};
use std::path::Path;

/// Larger files are not split, since splitting reads the whole file.
const LARGEST: u64 = 1_500_000_000;

/// The half of a step graph that depends only on the picture.
pub(super) struct HoistedGraph {
    graph: GraphSession,
    /// Its outputs, which are inputs of the same names of the other half.
    cut: Vec<String>,
}

impl HoistedGraph {
    /// The graph.
    pub fn graph(&self) -> &GraphSession {
        &self.graph
    }

    /// Computes the inputs of the other half from the constants that the family provides.
    pub fn run(
        &mut self,
        given: &[CacheEntry<DynValue>],
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

/// Splits a step graph behind everything that depends only on these inputs.
///
/// # Errors
/// The reason; the graph is then used as published.
pub(super) fn cut(path: &Path, roots: &[&str]) -> Result<(HoistedGraph, GraphSession), String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > LARGEST {
        return Err(format!("{size} bytes are too many to split in memory"));
    }
    let name =
        path.file_name().and_then(|name| name.to_str()).ok_or("its name is not valid UTF-8")?;
    let file = Bytes::from(std::fs::read(path).map_err(|e| e.to_string())?);
    let model = OnnxModel::read(file.clone())
        .and_then(|model| model.branch("use_cache_branch"))
        .map_err(|e| e.to_string())?;
    let GraphSplit { once, mut rest, cut } = model.split(roots).map_err(|e| e.to_string())?;
    drop(model);
    let once = {
        let bytes = once.write_mapped(&file, name);
        drop(once);
        GraphSession::of_bytes(path, &bytes).map_err(|e| e.to_string())?
    };
    for name in &cut {
        let (ty, shape) = once.output(name).ok_or_else(|| format!("{name} has no type"))?;
        let code = element_code(ty).ok_or_else(|| format!("{name} is of type {ty}"))?;
        // Axis 0 is the row, whatever the session inferred.
        let shape: Vec<i64> =
            shape.iter().enumerate().map(|(axis, n)| if axis == 0 { -1 } else { *n }).collect();
        rest.declare(name, code, &shape);
    }
    let bytes = rest.write_mapped(&file, name);
    // The last holders of the file's bytes; both halves read their weights from the file itself.
    drop((rest, file));
    let rest = GraphSession::of_bytes(path, &bytes).map_err(|e| e.to_string())?;
    Ok((HoistedGraph { graph: once, cut }, rest))
}

/// ONNX's numbers for element types (`TensorProto.DataType`).
fn element_code(ty: TensorElementType) -> Option<i32> {
    match ty {
        TensorElementType::Float32 => Some(1),
        TensorElementType::Float16 => Some(10),
        _ => None,
    }
}
