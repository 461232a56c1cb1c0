//! Reads ONNX files and splits graphs by their data flow.
//!
//! The crate exists because it makes published graphs faster and smaller without changing a bit of
//! their output. ViT-GPT2's published decoder computes the keys and values of the picture again for
//! every token. Split into the part that depends only on the picture and the rest, it is 1.6 times
//! (one caption) to 3 times (eight and more) as fast as a loop over the published graph. Writing a
//! model with its weights left in the file lets ONNX Runtime map them, which lowers peak memory by
//! 12 to 26 % for the three supported families (`docs/speed.md`). The names of external weight
//! files complete the model's digest. A full ONNX library is not needed for this: the messages of
//! the format, a traversal of names, and one traversal of the nodes.
//!
//! Nothing here runs a graph. `crates/captioner` decides what to split, compares both halves with
//! the published graph bit for bit, and uses the published graph on any difference.
//!
//! ```
//! use pg_caption_onnx::{OnnxModel, proto};
//! use prost::Message;
//!
//! let node = |op: &str, input: &[&str], output: &str| proto::NodeProto {
//!     op_type: Some(op.into()),
//!     input: input.iter().map(|name| (*name).into()).collect(),
//!     output: vec![output.into()],
//!     ..Default::default()
//! };
//! let value = |name: &str| proto::ValueInfoProto {
//!     name: Some(name.into()),
//!     ..Default::default()
//! };
//! let graph = proto::GraphProto {
//!     node: vec![
//!         node("Transpose", &["picture"], "keys"),
//!         node("MatMul", &["ids", "keys"], "logits"),
//!     ],
//!     input: vec![value("ids"), value("picture")],
//!     output: vec![value("logits")],
//!     ..Default::default()
//! };
//! let file = proto::ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
//!
//! let split = OnnxModel::read(file.into())?.split(&["picture"])?;
//! assert_eq!(split.cut, ["keys"]);
//! assert_eq!(split.rest.inputs(), ["ids", "keys"]);
//! # Ok::<(), pg_caption_onnx::GraphError>(())
//! ```

mod branch;
mod error;
mod external;
mod mapped;
mod sizes;
mod split;

pub use error::GraphError;
pub use external::external_locations;
pub use split::GraphSplit;

use bytes::Bytes;
use prost::Message;

/// The messages of the format, generated from its own description (`proto/onnx-ml.proto`, ONNX
/// 1.19, Apache-2.0). Public only for tests that edit graphs.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// A parsed model file.
#[derive(Debug, Clone)]
pub struct OnnxModel(proto::ModelProto);

impl OnnxModel {
    /// Parses a file; weights are slices of its bytes.
    ///
    /// # Errors
    /// [`GraphError::Malformed`] or [`GraphError::Empty`] for another file;
    /// [`GraphError::External`] if weights are in other files.
    pub fn read(file: Bytes) -> Result<OnnxModel, GraphError> {
        let model = proto::ModelProto::decode(file).map_err(GraphError::Malformed)?;
        let graph = model.graph.as_ref().ok_or(GraphError::Empty)?;
        if graph
            .initializer
            .iter()
            .any(|weights| weights.data_location() == proto::tensor_proto::DataLocation::External)
        {
            return Err(GraphError::External);
        }
        Ok(OnnxModel(model))
    }

    /// Names of the graph's inputs, weights excluded.
    pub fn inputs(&self) -> Vec<&str> {
        let graph = self.graph();
        let weights: std::collections::HashSet<&str> =
            graph.initializer.iter().map(|weights| weights.name()).collect();
        graph
            .input
            .iter()
            .map(|input| input.name())
            .filter(|name| !weights.contains(name))
            .collect()
    }

    /// Declares the element type (a `TensorProto.DataType`) and dimensions (negative: any) of an
    /// input.
    pub fn declare(&mut self, input: &str, element_type: i32, dimensions: &[i64]) {
        use proto::tensor_shape_proto::{Dimension, dimension::Value};
        use proto::type_proto::{Tensor, Value as Type};
        let dim = dimensions
            .iter()
            .map(|n| Dimension {
                value: (*n >= 0).then_some(Value::DimValue(*n)),
                ..Dimension::default()
            })
            .collect();
        let tensor =
            Tensor { elem_type: Some(element_type), shape: Some(proto::TensorShapeProto { dim }) };
        let declared = proto::TypeProto {
            value: Some(Type::TensorType(tensor)),
            ..proto::TypeProto::default()
        };
        let inputs = self.0.graph.iter_mut().flat_map(|graph| &mut graph.input);
        inputs
            .filter(|known| known.name() == input)
            .for_each(|known| known.r#type = Some(declared.clone()));
    }

    fn graph(&self) -> &proto::GraphProto {
        // `read` rejects a model without a graph, and nothing removes it.
        self.0.graph.as_ref().expect("a model that was read has a graph")
    }

    /// A model with the same properties around another graph.
    fn with(&self, graph: proto::GraphProto) -> OnnxModel {
        let around = proto::ModelProto { graph: None, ..self.0.clone() };
        OnnxModel(proto::ModelProto { graph: Some(graph), ..around })
    }
}

#[cfg(test)]
mod testing;
