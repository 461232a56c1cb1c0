//! Extracts the cached branch of a merged decoder as a graph of its own.
//!
//! A merged decoder has two graphs under one `If` over the input `use_cache_branch`; its weights
//! are outside both.

use crate::proto::{AttributeProto, GraphProto, NodeProto};
use crate::{GraphError, OnnxModel};

impl OnnxModel {
    /// The graph that runs if the boolean input `condition` is true; the whole graph if it has no
    /// such input.
    ///
    /// # Errors
    /// [`GraphError::Branches`] if the condition decides anything but one `If`.
    pub fn branch(&self, condition: &str) -> Result<OnnxModel, GraphError> {
        let graph = self.graph();
        if !graph.input.iter().any(|input| input.name() == condition) {
            return Ok(self.clone());
        }
        let mut readers = graph
            .node
            .iter()
            .enumerate()
            .filter(|(_, node)| node.input.iter().any(|input| input == condition));
        let (at, chosen) = match (readers.next(), readers.next()) {
            (Some((at, node)), None) if node.op_type() == "If" => (at, node),
            _ => {
                return Err(GraphError::Branches("the condition is not the input of a single If"));
            }
        };
        let branch = chosen
            .attribute
            .iter()
            .find(|attribute| attribute.name() == "then_branch")
            .and_then(|a| a.g.clone());
        let branch = branch.ok_or(GraphError::Branches("the If has no then_branch"))?;
        let mut inner = renamed(branch, &chosen.output)?;
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

/// A branch with its outputs renamed as the `If` names them.
fn renamed(mut branch: GraphProto, names: &[String]) -> Result<GraphProto, GraphError> {
    if branch.output.len() != names.len() {
        return Err(GraphError::Branches("the branch and the If differ in their outputs"));
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
            // Passed through: an input or a weight.
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
    // Graphs inside the node can read values around it.
    for graph in node.attribute.iter_mut().flat_map(graphs) {
        graph.node.iter_mut().for_each(|node| rename(node, from, to));
    }
}

fn graphs(attribute: &mut AttributeProto) -> impl Iterator<Item = &mut GraphProto> {
    attribute.g.iter_mut().chain(&mut attribute.graphs)
}
