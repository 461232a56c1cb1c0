//! Cutting a graph by its data flow: what depends on one input alone, and the rest.

use crate::proto::{GraphProto, NodeProto, ValueInfoProto};
use crate::sizes::Sizes;
use crate::{GraphError, OnnxModel};
use std::collections::{HashMap, HashSet};

/// A graph in two.
#[derive(Debug, Clone)]
pub struct GraphSplit {
    /// Computes the tensors of `cut` from the roots.
    pub once: OnnxModel,
    /// The rest, with the tensors of `cut` as further inputs.
    pub rest: OnnxModel,
    /// What is handed over.
    pub cut: Vec<String>,
}

/// What a tensor hangs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// Weights and constants.
    Nothing,
    /// The roots alone, numbers of theirs among them.
    Data,
    /// The roots alone, but only their shapes.
    Shapes,
    /// Any other input.
    Others,
}

impl OnnxModel {
    /// Cuts the graph behind everything that hangs on `roots` alone. What hangs on their shapes
    /// only is computed again by the rest: it costs nothing, and it does not belong to the rows of
    /// a batch as the data does. So are sizes that never change, which hang on nothing; only the
    /// part that is computed once is told their values, so that ONNX Runtime does with the rest
    /// what it does with the published graph.
    ///
    /// # Errors
    /// [`GraphError::NothingToCut`] where no node hangs on the roots alone.
    pub fn split(&self, roots: &[&str]) -> Result<GraphSplit, GraphError> {
        let graph = self.graph();
        let mut from: HashMap<&str, From> =
            graph.initializer.iter().map(|weights| (weights.name(), From::Nothing)).collect();
        for input in self.inputs() {
            from.insert(input, if roots.contains(&input) { From::Data } else { From::Others });
        }
        let sizes = Sizes::of(graph);
        let constants: HashMap<usize, NodeProto> = graph
            .node
            .iter()
            .enumerate()
            .filter_map(|(at, node)| Some((at, sizes.constant(node)?)))
            .collect();
        // Nodes stand in the order of their data flow.
        for (at, node) in graph.node.iter().enumerate() {
            let outcome = if constants.contains_key(&at) { From::Nothing } else { of(node, &from) };
            from.extend(node.output.iter().map(|output| (output.as_str(), outcome)));
        }
        let made: HashMap<&str, usize> = graph
            .node
            .iter()
            .enumerate()
            .flat_map(|(at, node)| node.output.iter().map(move |output| (output.as_str(), at)))
            .collect();

        // The rest is what hangs on others, and what it needs of shapes and constants.
        let mut rest: HashSet<usize> = HashSet::new();
        let mut cut: Vec<String> = Vec::new();
        let mut wanted: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
        while let Some(tensor) = wanted.pop() {
            let Some(&at) = made.get(tensor) else { continue };
            if from.get(tensor) == Some(&From::Data) {
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
        let handed = |name: &String| ValueInfoProto {
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
        input.extend(cut.iter().map(handed));
        let told = graph
            .node
            .iter()
            .enumerate()
            .map(|(at, node)| constants.get(&at).unwrap_or(node).clone())
            .collect();
        let once = part(graph, told, graph.input.clone(), cut.iter().map(handed).collect());
        let rest = part(graph, later, input, graph.output.clone());
        Ok(GraphSplit { once: self.with(once), rest: self.with(rest), cut })
    }
}

/// What the outputs of a node hang on.
fn of(node: &NodeProto, from: &HashMap<&str, From>) -> From {
    let inputs = || reads(node).map(|input| from.get(input).copied().unwrap_or(From::Nothing));
    if inputs().any(|input| input == From::Others) {
        From::Others
    } else if inputs().any(|input| input == From::Data) {
        if matches!(node.op_type(), "Shape" | "Size") { From::Shapes } else { From::Data }
    } else if inputs().any(|input| input == From::Shapes) {
        From::Shapes
    } else {
        From::Nothing
    }
}

/// Everything a node reads: its inputs, and what the graphs inside it take from around them.
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

/// The nodes that lead to the outputs, with the inputs and weights they need.
fn part(
    graph: &GraphProto,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
) -> GraphProto {
    let given: HashSet<&str> = inputs.iter().map(|input| input.name()).collect();
    let mut wanted: HashSet<String> =
        outputs.iter().map(|output| output.name().to_owned()).collect();
    let mut node = Vec::new();
    for next in nodes.into_iter().rev() {
        // A tensor that is handed in is not computed again.
        if next
            .output
            .iter()
            .any(|output| wanted.contains(output) && !given.contains(output.as_str()))
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
    fn what_hangs_on_the_root_alone_is_computed_once_and_shapes_again() {
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
            "the projection's weights left with it"
        );
    }

    #[test]
    fn keys_that_are_scaled_by_a_size_that_never_changes_are_scaled_once() {
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
    fn a_graph_without_such_a_part_is_left_alone() {
        assert!(matches!(model().split(&["nobody"]), Err(GraphError::NothingToCut(_))));
    }

    #[test]
    fn the_branch_with_a_cache_becomes_a_graph_of_its_own() {
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
    fn what_was_read_is_written_again() {
        let again = OnnxModel::read(model().write()).unwrap();
        assert_eq!(again.write(), model().write());
        assert!(matches!(
            OnnxModel::read(bytes::Bytes::from_static(b"\xff\xff not a model")),
            Err(GraphError::Malformed(_))
        ));
        assert!(matches!(OnnxModel::read(bytes::Bytes::new()), Err(GraphError::Empty)));
    }
}
