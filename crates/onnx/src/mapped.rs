//! Writes a model without its weights, which stay in the file it was read from.
//!
//! ONNX Runtime maps the weights of such a model instead of copying them. That saves memory of the
//! file's size, and as much again while the model loads.

use crate::OnnxModel;
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{AttributeProto, GraphProto, StringStringEntryProto, TensorProto};
use bytes::Bytes;
use prost::Message;

/// Smaller tensors, in bytes, stay in the model: shapes are needed to understand the graph.
const SMALL: usize = 1024;

impl OnnxModel {
    /// The bytes of a file with this model whose weights are locations in `file`: the bytes from
    /// which the model, or the one it was split from, was parsed. That file is called `name` in the
    /// folder of the model. Weights from elsewhere are written out.
    pub fn write_mapped(&self, file: &Bytes, name: &str) -> Bytes {
        let mut model = self.0.clone();
        if let Some(graph) = &mut model.graph {
            map_graph(graph, file, name);
        }
        model.encode_to_vec().into()
    }
}

fn map_graph(graph: &mut GraphProto, file: &Bytes, name: &str) {
    for weights in &mut graph.initializer {
        map_weights(weights, file, name);
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        inner(attribute).for_each(|graph| map_graph(graph, file, name));
    }
}

fn inner(attribute: &mut AttributeProto) -> impl Iterator<Item = &mut GraphProto> {
    attribute.g.iter_mut().chain(&mut attribute.graphs)
}

fn map_weights(weights: &mut TensorProto, file: &Bytes, name: &str) {
    let Some(data) = weights.raw_data.as_ref().filter(|data| data.len() >= SMALL) else { return };
    // Slices of the file share its memory.
    let Some(at) = (data.as_ptr() as usize).checked_sub(file.as_ptr() as usize) else { return };
    if at + data.len() > file.len() {
        return;
    }
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value),
    };
    weights.external_data = vec![
        entry("location", name.into()),
        entry("offset", at.to_string()),
        entry("length", data.len().to_string()),
    ];
    weights.data_location = Some(DataLocation::External as i32);
    weights.raw_data = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GraphError;
    use crate::testing::with_weights;

    #[test]
    fn only_large_weights_stay_in_the_file() {
        let file = with_weights(&[("large", vec![7; 4096]), ("small", vec![9; 8])]).write();
        let model = OnnxModel::read(file.clone()).unwrap();
        let written = model.write_mapped(&file, "model.onnx");
        assert!(written.len() < file.len() - 4000, "{} of {}", written.len(), file.len());
        let weights =
            crate::proto::ModelProto::decode(written.clone()).unwrap().graph.unwrap().initializer;
        let stated = |key: &str| {
            weights[0].external_data.iter().find(|e| e.key() == key).unwrap().value().to_owned()
        };
        assert_eq!(stated("location"), "model.onnx");
        let (offset, length): (usize, usize) =
            (stated("offset").parse().unwrap(), stated("length").parse().unwrap());
        assert_eq!(&file[offset..offset + length], &[7; 4096]);
        assert_eq!(weights[1].raw_data(), &[9; 8]);
        assert!(
            matches!(OnnxModel::read(written), Err(GraphError::External)),
            "such a model cannot be split"
        );
    }

    #[test]
    fn weights_of_another_file_are_written_out() {
        let file = with_weights(&[("large", vec![7; 4096])]).write();
        let model = OnnxModel::read(file.clone()).unwrap();
        assert_eq!(model.write_mapped(&Bytes::from(file.to_vec()), "other.onnx"), file);
    }
}
