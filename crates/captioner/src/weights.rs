//! Files of external weights: those weights of a graph that are not in its own file.

use pg_caption_models::is_external_data;
use pg_caption_onnx::external_locations;
use std::path::{Path, PathBuf};

/// The file at a location that a graph names, relative to the graph's folder.
pub(crate) fn weights_file(graph: &Path, location: &str) -> PathBuf {
    // ONNX Runtime too treats "./weights.bin" as "weights.bin".
    graph.parent().unwrap_or(Path::new("")).join(location).components().collect()
}

/// The files with a graph's external weights: those that it names, or those with matching names if
/// it cannot be read.
pub fn external_data(graph: &Path) -> Vec<PathBuf> {
    if let Ok(locations) = external_locations(graph) {
        return locations.iter().map(|location| weights_file(graph, location)).collect();
    }
    let (Some(folder), Some(name)) = (graph.parent(), graph.file_name().and_then(|n| n.to_str()))
    else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_name().to_str().is_some_and(|other| is_external_data(other, name)))
        .map(|e| e.path())
        .collect()
}
