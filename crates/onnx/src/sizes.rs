//! Sizes that are the same for every input, although a graph asks a tensor's shape for them.
//!
//! Exporters write the scale of an attention as `1 / sqrt(Shape(queries)[-1])`, which makes scaled
//! keys of a picture look as if they hung on the tokens. A tensor that was reshaped to `[…, 64]`
//! and transposed since has 64 numbers in its last dimension whatever went in: such a size is as
//! good as a constant.

use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_proto::DataType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use std::collections::HashMap;

/// Times a tensor is turned before its size is no longer looked for: exporters turn one once or
/// twice.
const MOST_TURNS: usize = 64;

/// The sizes of a graph that never change.
pub(crate) struct Sizes<'a> {
    made: HashMap<&'a str, &'a NodeProto>,
    weights: HashMap<&'a str, &'a TensorProto>,
}

impl<'a> Sizes<'a> {
    /// Of this graph, whose nodes stand in the order of their data flow.
    pub(crate) fn of(graph: &'a GraphProto) -> Self {
        let made = graph
            .node
            .iter()
            .flat_map(|node| node.output.iter().map(move |output| (output.as_str(), node)))
            .collect();
        let weights = graph.initializer.iter().map(|weights| (weights.name(), weights)).collect();
        Sizes { made, weights }
    }

    /// A node that does the same as this one, which cuts the last size out of a shape, if that size
    /// never changes.
    pub(crate) fn constant(&self, node: &NodeProto) -> Option<NodeProto> {
        let shape = self
            .made
            .get(node.input.first()?.as_str())
            .filter(|shape| shape.op_type() == "Shape" && shape.attribute.is_empty())?;
        let given = |at: usize| {
            node.input.get(at).filter(|name| !name.is_empty()).map(|name| self.numbers(name))
        };
        let is_last = match node.op_type() {
            "Slice" => {
                let (starts, ends) = (given(1)??, given(2)??);
                // Steps and axes: as they are where nobody says anything.
                let usual = |at: usize, usual: i64| {
                    given(at)
                        .is_none_or(|numbers| numbers.is_some_and(|numbers| numbers == [usual]))
                };
                starts == [-1]
                    && matches!(ends[..], [end] if end >= i64::from(i32::MAX))
                    && usual(3, 0)
                    && usual(4, 1)
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
        for _ in 0..MOST_TURNS {
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

    /// An element of a list of whole numbers, counted from the last one.
    fn element(&self, list: &str, from_last: usize) -> Option<i64> {
        if let Some(numbers) = self.numbers(list) {
            return numbers.get(numbers.len().checked_sub(1 + from_last)?).copied();
        }
        let joined = self.made.get(list).filter(|node| node.op_type() == "Concat")?;
        let mut passed = 0;
        for part in joined.input.iter().rev() {
            // How long another part is, nobody knows.
            let numbers = self.numbers(part)?;
            if from_last < passed + numbers.len() {
                return numbers.get(numbers.len() - 1 - (from_last - passed)).copied();
            }
            passed += numbers.len();
        }
        None
    }

    /// The numbers of a constant.
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
    use crate::testing::{list, node, scaled_attention, transpose};

    fn cut(node: &NodeProto, graph: &GraphProto) -> Option<i64> {
        let constant = Sizes::of(graph).constant(node)?;
        assert_eq!((constant.op_type(), &constant.output), ("Constant", &node.output));
        Some(constant.attribute[0].t.as_ref().unwrap().int64_data[0])
    }

    fn last(ends: i64, shape: &[i64], order: &[i64]) -> Option<i64> {
        let nodes = vec![
            node("Reshape", &["x", "wanted"], "reshaped"),
            transpose("reshaped", order, "turned"),
            node("Shape", &["turned"], "shape"),
            node("Slice", &["shape", "starts", "ends"], "size"),
        ];
        let initializer = vec![list("wanted", shape), list("starts", &[-1]), list("ends", &[ends])];
        let graph = GraphProto { node: nodes, initializer, ..GraphProto::default() };
        cut(&graph.node[3], &graph)
    }

    #[test]
    fn the_last_size_of_what_was_reshaped_and_turned_is_known() {
        assert_eq!(last(i64::MAX, &[0, -1, 12, 64], &[0, 2, 1, 3]), Some(64));
        assert_eq!(last(i64::MAX, &[0, -1, 12, 64], &[0, 1, 3, 2]), Some(12));
    }

    #[test]
    fn what_may_differ_is_not_known() {
        assert_eq!(
            last(i64::MAX, &[0, 12, 64, -1], &[0, 1, 2, 3]),
            None,
            "the rest of what goes in"
        );
        assert_eq!(last(i64::MAX, &[0, 12, 64, 0], &[0, 1, 2, 3]), None, "as it was");
        assert_eq!(last(i64::MAX, &[0, -1, 12, 64], &[0, 2, 3, 1]), None, "turned to the end");
        assert_eq!(last(-1, &[0, -1, 12, 64], &[0, 2, 1, 3]), None, "not the last one");
    }

    #[test]
    fn a_tensor_that_is_turned_without_end_is_given_up() {
        let mut nodes = vec![node("Reshape", &["x", "wanted"], "t0")];
        nodes.extend(
            (0..100_000).map(|at| transpose(&format!("t{at}"), &[0, 1], &format!("t{}", at + 1))),
        );
        nodes.push(node("Shape", &["t100000"], "shape"));
        nodes.push(node("Slice", &["shape", "starts", "ends"], "size"));
        // And one that is made of itself.
        nodes.push(transpose("ring", &[0, 1], "ring"));
        nodes.push(node("Shape", &["ring"], "round"));
        nodes.push(node("Slice", &["round", "starts", "ends"], "never"));
        let initializer =
            vec![list("wanted", &[-1, 64]), list("starts", &[-1]), list("ends", &[i64::MAX])];
        let graph = GraphProto { node: nodes, initializer, ..GraphProto::default() };
        for slice in graph.node.iter().filter(|node| node.op_type() == "Slice") {
            assert_eq!(cut(slice, &graph), None);
        }
    }

    #[test]
    fn a_shape_is_put_together_from_its_end() {
        let model = scaled_attention();
        let slice = model.graph().node.iter().find(|node| node.op_type() == "Slice").unwrap();
        assert_eq!(cut(slice, model.graph()), Some(8));
        // A part of unknown length behind it: nothing is known.
        let mut graph = model.graph().clone();
        let joined = graph.node.iter_mut().find(|node| node.op_type() == "Concat").unwrap();
        joined.input.reverse();
        assert_eq!(cut(slice, &graph), None);
    }
}
