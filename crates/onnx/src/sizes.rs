//! Sizes that never change although a graph computes them from the shape of a tensor.
//!
//! Exporters write the scale of an attention as `1 / sqrt(Shape(queries)[-1])`, so that the scaled
//! keys of a picture seem to depend on the tokens. But a tensor that was reshaped to `[…, 64]` and
//! transposed has 64 numbers in its last dimension for every input. Such a size is a constant.

use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use std::collections::HashMap;

/// Longest chain of transpositions that is followed; exporters write one or two.
const MAX_TRANSPOSES: usize = 64;

/// The constant sizes of a graph.
pub(crate) struct ConstantSizes<'a> {
    made: HashMap<&'a str, &'a NodeProto>,
    weights: HashMap<&'a str, &'a TensorProto>,
}

impl<'a> ConstantSizes<'a> {
    /// For this graph, whose nodes are in data-flow order.
    pub(crate) fn of(graph: &'a GraphProto) -> Self {
        let made = graph
            .node
            .iter()
            .flat_map(|node| node.output.iter().map(move |output| (output.as_str(), node)))
            .collect();
        let weights = graph.initializer.iter().map(|weights| (weights.name(), weights)).collect();
        ConstantSizes { made, weights }
    }

    /// An equivalent constant for a node that takes the last size of a shape, if that size never
    /// changes.
    pub(crate) fn constant(&self, node: &NodeProto) -> Option<NodeProto> {
        let shape = self
            .made
            .get(node.input.first()?.as_str())
            .filter(|shape| shape.op_type() == "Shape" && shape.attribute.is_empty())?;
        let argument = |at: usize| {
            node.input.get(at).filter(|name| !name.is_empty()).map(|name| self.numbers(name))
        };
        let is_last = match node.op_type() {
            "Slice" => {
                let (starts, ends) = (argument(1)??, argument(2)??);
                // Axes and steps must have their defaults.
                let is_default = |at: usize, default: i64| {
                    argument(at)
                        .is_none_or(|numbers| numbers.is_some_and(|numbers| numbers == [default]))
                };
                starts == [-1]
                    && matches!(ends[..], [end] if end >= i64::from(i32::MAX))
                    && is_default(3, 0)
                    && is_default(4, 1)
            }
            _ => false,
        };
        let size = self.size(shape.input.first()?, 0).filter(|_| is_last)?;
        let value = TensorProto {
            data_type: Some(DataType::Int64 as i32),
            dims: vec![1],
            int64_data: vec![size],
            ..TensorProto::default()
        };
        let attribute = AttributeProto {
            name: Some("value".into()),
            r#type: Some(AttributeType::Tensor as i32),
            t: Some(value),
            ..AttributeProto::default()
        };
        Some(NodeProto {
            op_type: Some("Constant".into()),
            name: node.name.clone(),
            output: node.output.clone(),
            attribute: vec![attribute],
            ..NodeProto::default()
        })
    }

    /// The size of a tensor's dimension, counted from the last one, which is 0.
    fn size(&self, tensor: &str, from_last: usize) -> Option<i64> {
        let (mut tensor, mut from_last) = (tensor, from_last);
        for _ in 0..MAX_TRANSPOSES {
            let node = self.made.get(tensor)?;
            match node.op_type() {
                "Transpose" => {
                    let order =
                        &node.attribute.iter().find(|attribute| attribute.name() == "perm")?.ints;
                    let axis =
                        usize::try_from(*order.get(order.len().checked_sub(1 + from_last)?)?)
                            .ok()?;
                    (tensor, from_last) = (node.input.first()?, order.len().checked_sub(1 + axis)?);
                }
                "Reshape" => {
                    return self.element(node.input.get(1)?, from_last).filter(|size| *size > 0);
                }
                _ => return None,
            }
        }
        None
    }

    /// An element of a list of integers, counted from the last one.
    fn element(&self, list: &str, from_last: usize) -> Option<i64> {
        if let Some(numbers) = self.numbers(list) {
            return numbers.get(numbers.len().checked_sub(1 + from_last)?).copied();
        }
        let joined = self.made.get(list).filter(|node| node.op_type() == "Concat")?;
        let mut skipped = 0;
        for part in joined.input.iter().rev() {
            // The length of another part is unknown.
            let numbers = self.numbers(part)?;
            if from_last < skipped + numbers.len() {
                return numbers.get(numbers.len() - 1 - (from_last - skipped)).copied();
            }
            skipped += numbers.len();
        }
        None
    }

    /// The integers of a constant.
    fn numbers(&self, name: &str) -> Option<Vec<i64>> {
        let constant = || {
            let node = self.made.get(name).filter(|node| node.op_type() == "Constant")?;
            node.attribute.iter().find(|attribute| attribute.name() == "value")?.t.as_ref()
        };
        let tensor = self.weights.get(name).copied().or_else(constant)?;
        if tensor.data_type() != DataType::Int64 as i32 {
            return None;
        }
        match &tensor.raw_data {
            Some(raw) => {
                raw.chunks(8).map(|bytes| bytes.try_into().ok().map(i64::from_le_bytes)).collect()
            }
            None => Some(tensor.int64_data.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{integers, node, scaled_attention, transpose};

    fn size_of(node: &NodeProto, graph: &GraphProto) -> Option<i64> {
        let constant = ConstantSizes::of(graph).constant(node)?;
        assert_eq!((constant.op_type(), &constant.output), ("Constant", &node.output));
        Some(constant.attribute[0].t.as_ref().unwrap().int64_data[0])
    }

    fn last(ends: i64, shape: &[i64], order: &[i64]) -> Option<i64> {
        let nodes = vec![
            node("Reshape", &["x", "target"], "reshaped"),
            transpose("reshaped", order, "transposed"),
            node("Shape", &["transposed"], "shape"),
            node("Slice", &["shape", "starts", "ends"], "size"),
        ];
        let initializer =
            vec![integers("target", shape), integers("starts", &[-1]), integers("ends", &[ends])];
        let graph = GraphProto { node: nodes, initializer, ..GraphProto::default() };
        size_of(&graph.node[3], &graph)
    }

    #[test]
    fn reshaped_and_transposed_sizes_are_known() {
        assert_eq!(last(i64::MAX, &[0, -1, 12, 64], &[0, 2, 1, 3]), Some(64));
        assert_eq!(last(i64::MAX, &[0, -1, 12, 64], &[0, 1, 3, 2]), Some(12));
    }

    #[test]
    fn variable_sizes_are_unknown() {
        assert_eq!(last(i64::MAX, &[0, 12, 64, -1], &[0, 1, 2, 3]), None, "the rest of the input");
        assert_eq!(last(i64::MAX, &[0, 12, 64, 0], &[0, 1, 2, 3]), None, "unchanged");
        assert_eq!(last(i64::MAX, &[0, -1, 12, 64], &[0, 2, 3, 1]), None, "transposed to the end");
        assert_eq!(last(-1, &[0, -1, 12, 64], &[0, 2, 1, 3]), None, "not the last one");
    }

    #[test]
    fn endless_transposes_are_given_up() {
        let mut nodes = vec![node("Reshape", &["x", "target"], "t0")];
        nodes.extend(
            (0..100_000).map(|at| transpose(&format!("t{at}"), &[0, 1], &format!("t{}", at + 1))),
        );
        nodes.push(node("Shape", &["t100000"], "shape"));
        nodes.push(node("Slice", &["shape", "starts", "ends"], "size"));
        // And a tensor that depends on itself.
        nodes.push(transpose("ring", &[0, 1], "ring"));
        nodes.push(node("Shape", &["ring"], "round"));
        nodes.push(node("Slice", &["round", "starts", "ends"], "never"));
        let initializer = vec![
            integers("target", &[-1, 64]),
            integers("starts", &[-1]),
            integers("ends", &[i64::MAX]),
        ];
        let graph = GraphProto { node: nodes, initializer, ..GraphProto::default() };
        for slice in graph.node.iter().filter(|node| node.op_type() == "Slice") {
            assert_eq!(size_of(slice, &graph), None);
        }
    }

    #[test]
    fn concatenated_shapes_are_read_from_the_end() {
        let model = scaled_attention();
        let slice = model.graph().node.iter().find(|node| node.op_type() == "Slice").unwrap();
        assert_eq!(size_of(slice, model.graph()), Some(8));
        // Behind a part of unknown length nothing is known.
        let mut graph = model.graph().clone();
        let joined = graph.node.iter_mut().find(|node| node.op_type() == "Concat").unwrap();
        joined.input.reverse();
        assert_eq!(size_of(slice, &graph), None);
    }
}
