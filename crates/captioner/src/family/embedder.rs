//! The graph that turns token ids into embeddings, for families whose decoder takes those instead
//! of ids.

use super::encoder;
use crate::folder::{Folder, Graph as File};
use crate::runtime::Graph;
use crate::tensor::{self, Data, HostTensor};
use crate::{ModelError, tensor::Floats};
use ort::value::{DynValue, TensorElementType};

const INPUT: &str = "input_ids";
const OUTPUT: &str = "inputs_embeds";

/// `embed_tokens`.
pub(super) struct Embedder {
    graph: Graph,
}

impl Embedder {
    /// Opens the folder's graph.
    pub fn open(folder: &Folder) -> Result<(Embedder, File), ModelError> {
        let (graph, file) =
            folder.load("embed_tokens", |graph| encoder::usable(graph, &[INPUT], OUTPUT))?;
        Ok((Embedder { graph }, file))
    }

    /// Embeddings `[rows, length, width]` of `rows` sequences of one length that stand one after
    /// the other in `ids`.
    pub fn embed(
        &mut self,
        ids: Vec<i64>,
        rows: usize,
        ty: TensorElementType,
    ) -> Result<DynValue, ModelError> {
        let length = ids.len().checked_div(rows).unwrap_or(0);
        if rows * length != ids.len() {
            return Err(ModelError::Batch(format!(
                "{} ids are no {rows} prompts of one length",
                ids.len()
            )));
        }
        let ids = tensor::tensor(vec![rows as i64, length as i64], ids)?;
        let mut outputs = self.graph.run(&[(INPUT, &ids)])?;
        let embedded = encoder::features(&self.graph, &mut outputs, OUTPUT)?;
        if tensor::shape(&embedded).len() != 3 {
            return Err(ModelError::graph(
                self.graph.path(),
                format!("embeddings of shape {:?}", tensor::shape(&embedded)),
            ));
        }
        tensor::cast(embedded, ty)
    }

    /// Embeddings of one prompt in host memory.
    pub fn prompt(&mut self, ids: &[i64]) -> Result<Floats, ModelError> {
        let embedded = self.embed(ids.to_vec(), 1, TensorElementType::Float32)?;
        let row = tensor::unstack(&embedded)?.into_iter().next();
        match row {
            Some(HostTensor { shape, data: Data::F32(values) }) => Floats::new(&shape, values),
            _ => Err(ModelError::graph(self.graph.path(), "no embeddings")),
        }
    }
}
