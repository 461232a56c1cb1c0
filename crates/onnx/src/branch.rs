//! The branch of a merged decoder that is taken when there is a cache, as a graph of its own.
//!
//! Merged decoders hold two graphs under one `If` over the input `use_cache_branch`; weights stand
//! outside of both.

use crate::proto::{AttributeProto, GraphProto, NodeProto};
use crate::{GraphError, OnnxModel};

impl OnnxModel {
    /// The graph that runs where the boolean input `condition` is true; the whole graph where it
    /// has no such input.
    ///
    /// # Errors
    /// [`GraphError::Branches`] where the condition decides anything but one `If`.
    pub fn branch(&self, condition: &str) -> Result<OnnxModel, GraphError> {
        let graph = self.graph();
        if !graph.input.iter().any(|input| input.name() == condition) {
            return Ok(self.clone());
        }
        let mut deciding = graph
            .node
            .iter()
            .enumerate()
            .filter(|(_, node)| node.input.iter().any(|input| input == condition));
        let (at, chosen) = match (deciding.next(), deciding.next()) {
            (Some((at, node)), None) if node.op_type() == "If" => (at, node),
            _ => {
                return Err(GraphError::Branches(
                    "the condition decides something else than one If",
                ));
            }
        };
        let taken = chosen
            .attribute
            .iter()
            .find(|attribute| attribute.name() == "then_branch")
            .and_then(|a| a.g.clone());
        let taken = taken.ok_or(GraphError::Branches("the If has no then_branch"))?;
        let mut inner = renamed(taken, &chosen.output)?;
        let mut node = graph.node[..at].to_vec();
        node.append(&mut inner.node);
        node.extend_from_slice(&graph.node[at + 1..]);
        let mut initializer = graph.initializer.clone();
        initializer.append(&mut inner.initializer);
        let input = graph.input.iter().filter(|input| input.name() != condition).cloned().collect();
        Ok(self.with(GraphProto {
            node,
            initializer,
            input,
            value_info: Vec::new(),
            ..graph.clone()
        }))
    }
}

/// A branch whose outputs have the names that its `If` gives them.
fn renamed(mut branch: GraphProto, names: &[String]) -> Result<GraphProto, GraphError> {
    if branch.output.len() != names.len() {
        return Err(GraphError::Branches("the branch has another number of outputs"));
    }
    let outputs: Vec<String> =
        branch.output.iter().map(|output| output.name().to_owned()).collect();
    for (from, to) in outputs.iter().zip(names) {
        if outputs.iter().filter(|other| *other == from).count() > 1 {
            return Err(GraphError::Branches("one tensor is two outputs"));
        }
        let made = branch.node.iter().any(|node| node.output.contains(from));
        if made {
            branch.node.iter_mut().for_each(|node| rename(node, from, to));
        } else {
            // Handed through: an input or a weight.
            let node = NodeProto {
                op_type: Some("Identity".into()),
                input: vec![from.clone()],
                output: vec![to.clone()],
                ..NodeProto::default()
            };
            branch.node.push(node);
        }
    }
    Ok(branch)
}

fn rename(node: &mut NodeProto, from: &str, to: &str) {
    for name in node.input.iter_mut().chain(&mut node.output).filter(|name| *name == from) {
        to.clone_into(name);
    }
    // Graphs inside the node see its surroundings.
    for graph in node.attribute.iter_mut().flat_map(graphs) {
        graph.node.iter_mut().for_each(|node| rename(node, from, to));
    }
}

fn graphs(attribute: &mut AttributeProto) -> impl Iterator<Item = &mut GraphProto> {
    attribute.g.iter_mut().chain(&mut attribute.graphs)
}
