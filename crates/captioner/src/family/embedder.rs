//! The graph that embeds token ids, for families whose decoder takes embeddings.

use super::encoder;
use crate::folder::{GraphSource, ModelFolder};
use crate::runtime::GraphSession;
use crate::tensor::{self, HostTensor, TensorData};
use crate::{ModelError, tensor::FloatRows};
use ort::value::{DynValue, TensorElementType};

const INPUT: &str = "input_ids";
const OUTPUT: &str = "inputs_embeds";

/// The graph `embed_tokens`.
pub(super) struct TokenEmbedder {
    graph: GraphSession,
}

impl TokenEmbedder {
    /// Opens the folder's graph.
    pub fn open(folder: &ModelFolder) -> Result<(TokenEmbedder, GraphSource), ModelError> {
        let (graph, file) =
            folder.load("embed_tokens", |graph| encoder::usable(graph, &[INPUT], OUTPUT))?;
        Ok((TokenEmbedder { graph }, file))
    }

    /// Embeddings `[rows, length, width]` of `rows` sequences of one length, which `ids` holds one
    /// after another.
    pub fn embed(
        &mut self,
        ids: Vec<i64>,
        rows: usize,
        ty: TensorElementType,
    ) -> Result<DynValue, ModelError> {
        let length = ids.len().checked_div(rows).unwrap_or(0);
        if rows * length != ids.len() {
            return Err(ModelError::Batch(format!(
                "{} ids do not form {rows} prompts of one length",
                ids.len()
            )));
        }
        let ids = tensor::tensor(vec![rows as i64, length as i64], ids)?;
        let mut outputs = self.graph.run(&[(INPUT, &ids)])?;
        let embedded = encoder::features(&self.graph, &mut outputs, OUTPUT)?;
        if tensor::shape(&embedded).len() != 3 {
            return Err(ModelError::graph(
                self.graph.path(),
                format!("unexpected embeddings of shape {:?}", tensor::shape(&embedded)),
            ));
        }
        tensor::cast(embedded, ty)
    }

    /// Embeddings of one prompt in host memory.
    pub fn prompt(&mut self, ids: &[i64]) -> Result<FloatRows, ModelError> {
        let embedded = self.embed(ids.to_vec(), 1, TensorElementType::Float32)?;
        let row = tensor::unstack(&embedded)?.into_iter().next();
        match row {
            Some(HostTensor { shape, data: TensorData::F32(values) }) => {
                FloatRows::new(&shape, values)
            }
            _ => Err(ModelError::graph(self.graph.path(), "no embeddings")),
        }
    }
}
