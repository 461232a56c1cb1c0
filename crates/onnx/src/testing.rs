//! Small graphs for the tests: an attention over `hidden` whose keys do not depend on `ids`.

use crate::Model;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
    let input = input.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { op_type: Some(op.into()), input, output: vec![output.into()], ..NodeProto::default() }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() }
}

fn weights(name: &str) -> TensorProto {
    TensorProto { name: Some(name.into()), ..TensorProto::default() }
}

fn attention(logits: &str) -> Vec<NodeProto> {
    vec![
        node("MatMul", &["hidden", "projection"], "projected"),
        node("Transpose", &["projected"], "keys"),
        node("Shape", &["keys"], "shape"),
        node("Gather", &["shape", "one"], "length"),
        node("MatMul", &["ids", "keys"], "scores"),
        node("Reshape", &["scores", "length"], logits),
    ]
}

fn wrap(graph: GraphProto) -> Model {
    Model(ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() })
}

/// `logits` from `ids` and `hidden`.
pub(crate) fn model() -> Model {
    wrap(GraphProto {
        node: attention("logits"),
        initializer: vec![weights("projection"), weights("one")],
        input: vec![value("ids"), value("hidden")],
        output: vec![value("logits")],
        ..GraphProto::default()
    })
}

/// A graph that holds these weights.
pub(crate) fn with_weights(weights: &[(&str, Vec<u8>)]) -> Model {
    let initializer =
        |(name, data): &(&str, Vec<u8>)| TensorProto { name: Some((*name).into()), raw_data: Some(data.clone().into()), ..TensorProto::default() };
    wrap(GraphProto { initializer: weights.iter().map(initializer).collect(), ..GraphProto::default() })
}

/// The same under an `If`.
pub(crate) fn merged() -> Model {
    let branch = |name: &str, nodes: Vec<NodeProto>, output: &str| AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(GraphProto { node: nodes, output: vec![value(output)], ..GraphProto::default() }),
        ..AttributeProto::default()
    };
    let mut choice = node("If", &["use_cache_branch"], "logits");
    choice.attribute = vec![
        branch("then_branch", attention("logits_then"), "logits_then"),
        branch("else_branch", vec![node("MatMul", &["ids", "hidden"], "logits_else")], "logits_else"),
    ];
    wrap(GraphProto {
        node: vec![choice],
        initializer: vec![weights("projection"), weights("one")],
        input: vec![value("ids"), value("hidden"), value("use_cache_branch")],
        output: vec![value("logits")],
        ..GraphProto::default()
    })
}

/// Names of values or weights.
pub(crate) fn names<T: Named>(of: &[T]) -> Vec<&str> {
    of.iter().map(Named::called).collect()
}

/// What has a name.
pub(crate) trait Named {
    /// It.
    fn called(&self) -> &str;
}

impl Named for ValueInfoProto {
    fn called(&self) -> &str {
        self.name()
    }
}

impl Named for TensorProto {
    fn called(&self) -> &str {
        self.name()
    }
}
