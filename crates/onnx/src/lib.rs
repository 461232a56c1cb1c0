//! What is in an ONNX file, and cutting a graph in two.
//!
//! Some published decoders compute the same keys and values of a picture again for every token,
//! because their caches have no place for them. Cutting such a graph by its data flow, into what
//! depends on the picture alone and the rest, makes a step several times cheaper and changes no
//! number. Nothing here runs a graph or knows what one is for: `crates/captioner` decides what to
//! cut, runs both halves, and keeps the published graph where anything differs.

mod branch;
mod error;
mod outside;
mod place;
mod sizes;
mod split;

pub use error::GraphError;
pub use outside::outside;
pub use split::GraphSplit;

use bytes::Bytes;
use prost::Message;

/// The format's messages, as its own description (`proto/onnx-ml.proto`, ONNX 1.19, Apache-2.0) has
/// them. Outside of this crate only tests touch them, which change graphs.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// A model file that was read.
#[derive(Debug, Clone)]
pub struct OnnxModel(proto::ModelProto);

impl OnnxModel {
    /// Reads a file's bytes; weights stay slices of them.
    ///
    /// # Errors
    /// Not an ONNX model, or one whose weights lie in other files.
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

    /// The bytes of a file with this model.
    pub fn write(&self) -> Bytes {
        self.0.encode_to_vec().into()
    }

    /// Names of the graph's inputs that are no weights.
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

    /// States the element type (the format's number for it) and dimensions (negative: any) of an
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

    /// The graph, for tests that change it.
    pub fn graph_mut(&mut self) -> &mut proto::GraphProto {
        self.0.graph.as_mut().expect("a model that was read has a graph")
    }

    fn graph(&self) -> &proto::GraphProto {
        // `read` refuses a model without one, and nothing here takes it out.
        self.0.graph.as_ref().expect("a model that was read has a graph")
    }

    /// A model like this one around another graph.
    fn with(&self, graph: proto::GraphProto) -> OnnxModel {
        let around = proto::ModelProto { graph: None, ..self.0.clone() };
        OnnxModel(proto::ModelProto { graph: Some(graph), ..around })
    }
}

#[cfg(test)]
mod testing;
