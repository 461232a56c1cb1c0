//! Splits a graph by its data flow: what depends only on given inputs, and the rest.

use crate::proto::{GraphProto, NodeProto, ValueInfoProto};
use crate::sizes::ConstantSizes;
use crate::{GraphError, OnnxModel};
use std::collections::{HashMap, HashSet};

/// The two halves of a graph.
#[derive(Debug, Clone)]
pub struct GraphSplit {
    /// Computes the tensors of `cut` from the roots.
    pub once: OnnxModel,
    /// The rest, with the tensors of `cut` as additional inputs.
    pub rest: OnnxModel,
    /// The tensors that the first half computes for the second.
    pub cut: Vec<String>,
}

/// What a tensor depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Only weights and constants.
    Nothing,
    /// Only the roots, their numbers included.
    Data,
    /// Only the shapes of the roots.
    Shapes,
    /// Any other input.
    Others,
}

impl OnnxModel {
    /// Splits the graph behind everything that depends only on `roots`.
    ///
    /// What depends only on their shapes is computed again by the rest: it is cheap, and unlike the
    /// data it has no row per caption. Sizes that never change count as constants. Only the first
    /// half gets their values, so that ONNX Runtime optimises the rest like the published graph.
    ///
    /// # Errors
    /// [`GraphError::NothingToCut`] if no node depends only on the roots.
    pub fn split(&self, roots: &[&str]) -> Result<GraphSplit, GraphError> {
        let graph = self.graph();
        let mut origins: HashMap<&str, Origin> =
            graph.initializer.iter().map(|weights| (weights.name(), Origin::Nothing)).collect();
        for input in self.inputs() {
            origins
                .insert(input, if roots.contains(&input) { Origin::Data } else { Origin::Others });
        }
        let sizes = ConstantSizes::of(graph);
        let constants: HashMap<usize, NodeProto> = graph
            .node
            .iter()
            .enumerate()
            .filter_map(|(at, node)| Some((at, sizes.constant(node)?)))
            .collect();
        // Nodes are in data-flow order.
        for (at, node) in graph.node.iter().enumerate() {
            let outcome = if constants.contains_key(&at) {
                Origin::Nothing
            } else {
                origin_of(node, &origins)
            };
            origins.extend(node.output.iter().map(|output| (output.as_str(), outcome)));
        }
        let made: HashMap<&str, usize> = graph
            .node
            .iter()
            .enumerate()
            .flat_map(|(at, node)| node.output.iter().map(move |output| (output.as_str(), at)))
            .collect();

        // The rest: nodes that depend on other inputs, and the shapes and constants that they need.
        let mut rest: HashSet<usize> = HashSet::new();
        let mut cut: Vec<String> = Vec::new();
        let mut wanted: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
        while let Some(tensor) = wanted.pop() {
            let Some(&at) = made.get(tensor) else { continue };
            if origins.get(tensor) == Some(&Origin::Data) {
                if !cut.iter().any(|known| known == tensor) {
                    cut.push(tensor.to_owned());
                }
            } else if rest.insert(at) {
                wanted.extend(reads(&graph.node[at]));
            }
        }
        if cut.is_empty() {
            return Err(GraphError::NothingToCut(roots.join(", ")));
        }
        cut.sort();
        let declared = |name: &String| ValueInfoProto {
            name: Some(name.clone()),
            ..graph_value(graph, name).unwrap_or_default()
        };
        let later = graph
            .node
            .iter()
            .enumerate()
            .filter(|(at, _)| rest.contains(at))
            .map(|(_, node)| node.clone())
            .collect();
        let mut input: Vec<ValueInfoProto> = graph.input.clone();
        input.extend(cut.iter().map(declared));
        let first = graph
            .node
            .iter()
            .enumerate()
            .map(|(at, node)| constants.get(&at).unwrap_or(node).clone())
            .collect();
        let once = part(graph, first, graph.input.clone(), cut.iter().map(declared).collect());
        let rest = part(graph, later, input, graph.output.clone());
        Ok(GraphSplit { once: self.with(once), rest: self.with(rest), cut })
    }
}

/// What the outputs of a node depend on.
fn origin_of(node: &NodeProto, origins: &HashMap<&str, Origin>) -> Origin {
    let inputs = || reads(node).map(|input| origins.get(input).copied().unwrap_or(Origin::Nothing));
    if inputs().any(|input| input == Origin::Others) {
        Origin::Others
    } else if inputs().any(|input| input == Origin::Data) {
        if matches!(node.op_type(), "Shape" | "Size") { Origin::Shapes } else { Origin::Data }
    } else if inputs().any(|input| input == Origin::Shapes) {
        Origin::Shapes
    } else {
        Origin::Nothing
    }
}

/// Everything that a node reads: its inputs, and outer values read by the graphs inside it.
fn reads(node: &NodeProto) -> impl Iterator<Item = &str> {
    let inner =
        node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
    let inner =
        inner.flat_map(|graph| graph.node.iter().flat_map(|node| reads(node).collect::<Vec<_>>()));
    node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).chain(inner)
}

fn graph_value(graph: &GraphProto, name: &str) -> Option<ValueInfoProto> {
    graph.value_info.iter().chain(&graph.output).find(|value| value.name() == name).cloned()
}

/// The nodes that lead to the outputs, with the inputs and weights that they need.
fn part(
    graph: &GraphProto,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
) -> GraphProto {
    let provided: HashSet<&str> = inputs.iter().map(|input| input.name()).collect();
    let mut wanted: HashSet<String> =
        outputs.iter().map(|output| output.name().to_owned()).collect();
    let mut node = Vec::new();
    for next in nodes.into_iter().rev() {
        // A tensor that is an input is not computed again.
        if next
            .output
            .iter()
            .any(|output| wanted.contains(output) && !provided.contains(output.as_str()))
        {
            wanted.extend(reads(&next).map(str::to_owned));
            node.push(next);
        }
    }
    node.reverse();
    let initializer = graph
        .initializer
        .iter()
        .filter(|weights| wanted.contains(weights.name()))
        .cloned()
        .collect();
    let sparse_initializer = graph.sparse_initializer.clone();
    let input = inputs.iter().filter(|input| wanted.contains(input.name())).cloned().collect();
    GraphProto {
        name: graph.name.clone(),
        node,
        initializer,
        sparse_initializer,
        input,
        output: outputs,
        quantization_annotation: graph.quantization_annotation.clone(),
        ..GraphProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{merged, model, names};

    fn nodes(model: &OnnxModel) -> Vec<String> {
        model.graph().node.iter().map(|node| node.op_type().to_owned()).collect()
    }

    #[test]
    fn root_dependent_nodes_are_computed_once() {
        let split = model().split(&["hidden"]).unwrap();
        assert_eq!(split.cut, ["keys"]);
        assert_eq!(nodes(&split.once), ["MatMul", "Transpose"]);
        assert_eq!(
            (split.once.inputs(), names(&split.once.graph().output)),
            (vec!["hidden"], vec!["keys"])
        );
        assert_eq!(nodes(&split.rest), ["Shape", "Gather", "MatMul", "Reshape"]);
        assert_eq!(split.rest.inputs(), ["ids", "keys"]);
        assert_eq!(
            names(&split.rest.graph().initializer),
            ["one"],
            "the projection's weights are in the other half"
        );
    }

    #[test]
    fn keys_scaled_by_a_constant_size_are_hoisted() {
        let split = crate::testing::scaled_attention().split(&["hidden"]).unwrap();
        assert_eq!(split.cut, ["scaled"]);
        assert_eq!(nodes(&split.once), ["MatMul", "Constant", "Cast", "Mul"]);
        assert_eq!(split.once.inputs(), ["hidden"]);
        assert_eq!(
            nodes(&split.rest),
            [
                "Shape",
                "Gather",
                "Unsqueeze",
                "Concat",
                "Reshape",
                "Shape",
                "Slice",
                "Cast",
                "Mul",
                "MatMul"
            ]
        );
        assert_eq!(split.rest.inputs(), ["ids", "scaled"]);
    }

    #[test]
    fn a_graph_without_such_a_part_is_not_split() {
        assert!(matches!(model().split(&["unknown"]), Err(GraphError::NothingToCut(_))));
    }

    #[test]
    fn the_cached_branch_becomes_a_graph() {
        let branch = merged().branch("use_cache_branch").unwrap();
        assert_eq!(branch.inputs(), ["ids", "hidden"]);
        assert_eq!(nodes(&branch), nodes(&model()));
        assert_eq!(names(&branch.graph().output), ["logits"]);
        assert_eq!(branch.split(&["hidden"]).unwrap().cut, ["keys"]);
        assert_eq!(
            nodes(&model().branch("use_cache_branch").unwrap()),
            nodes(&model()),
            "nothing to choose"
        );
    }

    #[test]
    fn reading_and_writing_are_inverse() {
        let again = OnnxModel::read(model().write()).unwrap();
        assert_eq!(again.write(), model().write());
        assert!(matches!(
            OnnxModel::read(bytes::Bytes::from_static(b"\xff\xff not a model")),
            Err(GraphError::Malformed(_))
        ));
        assert!(matches!(OnnxModel::read(bytes::Bytes::new()), Err(GraphError::Empty)));
    }
}
