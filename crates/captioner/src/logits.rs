//! Logits: the scores of a decoder call, one row for each row of the cache.

use crate::ModelError;
use std::path::PathBuf;

/// Logits of the last position, one row per row of the cache.
pub(crate) struct LogitRows {
    data: Vec<f32>,
    vocabulary: usize,
    /// The file of the graph that computed them.
    graph: PathBuf,
}

impl LogitRows {
    /// `data` holds rows of `vocabulary` scores.
    pub fn new(data: Vec<f32>, vocabulary: usize, graph: impl Into<PathBuf>) -> LogitRows {
        LogitRows { data, vocabulary, graph: graph.into() }
    }

    /// The error for non-finite logits; names their graph.
    pub fn not_numbers(&self) -> ModelError {
        ModelError::graph(
            &self.graph,
            "the logits are not finite (an overflow in a reduced-precision graph?)",
        )
    }

    /// The scores of one row; empty if there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        self.data.get(row * self.vocabulary..(row + 1) * self.vocabulary).unwrap_or(&[])
    }
}
