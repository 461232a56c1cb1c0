//! Small graphs for tests: an attention over `hidden` whose keys do not depend on `ids`.

use crate::OnnxModel;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use bytes::Bytes;
use prost::Message;

/// A node.
pub(crate) fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
    let input = input.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: Some(op.into()),
        input,
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

/// A `Transpose`.
pub(crate) fn transpose(input: &str, order: &[i64], output: &str) -> NodeProto {
    let perm = AttributeProto {
        name: Some("perm".into()),
        r#type: Some(AttributeType::Ints as i32),
        ints: order.to_vec(),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![perm], ..node("Transpose", &[input], output) }
}

/// A list of integers.
pub(crate) fn integers(name: &str, numbers: &[i64]) -> TensorProto {
    let data_type = Some(crate::proto::tensor_proto::DataType::Int64 as i32);
    TensorProto {
        name: Some(name.into()),
        data_type,
        dims: vec![numbers.len() as i64],
        int64_data: numbers.to_vec(),
        ..TensorProto::default()
    }
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

fn wrap(graph: GraphProto) -> OnnxModel {
    OnnxModel(ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() })
}

/// `logits` from `ids` and `hidden`.
pub(crate) fn model() -> OnnxModel {
    wrap(GraphProto {
        node: attention("logits"),
        initializer: vec![weights("projection"), weights("one")],
        input: vec![value("ids"), value("hidden")],
        output: vec![value("logits")],
        ..GraphProto::default()
    })
}

/// `logits` from `ids`, reshaped to `[length, 8]`, and `hidden`, both scaled by a size of the
/// former.
pub(crate) fn scaled_attention() -> OnnxModel {
    wrap(GraphProto {
        node: vec![
            node("MatMul", &["hidden", "projection"], "keys"),
            node("Shape", &["ids"], "length"),
            node("Gather", &["length", "one"], "first"),
            node("Unsqueeze", &["first", "one"], "rows"),
            node("Concat", &["rows", "eight"], "wanted"),
            node("Reshape", &["ids", "wanted"], "queries"),
            node("Shape", &["queries"], "shape"),
            node("Slice", &["shape", "minus_one", "end"], "size"),
            node("Cast", &["size"], "scale"),
            node("Mul", &["queries", "scale"], "asked"),
            node("Mul", &["keys", "scale"], "scaled"),
            node("MatMul", &["asked", "scaled"], "logits"),
        ],
        initializer: vec![
            weights("projection"),
            integers("one", &[0]),
            integers("eight", &[8]),
            integers("minus_one", &[-1]),
            integers("end", &[i64::MAX]),
        ],
        input: vec![value("ids"), value("hidden")],
        output: vec![value("logits")],
        ..GraphProto::default()
    })
}

/// A graph with these weights.
pub(crate) fn with_weights(weights: &[(&str, Vec<u8>)]) -> OnnxModel {
    let initializer = |(name, data): &(&str, Vec<u8>)| TensorProto {
        name: Some((*name).into()),
        raw_data: Some(data.clone().into()),
        ..TensorProto::default()
    };
    wrap(GraphProto {
        initializer: weights.iter().map(initializer).collect(),
        ..GraphProto::default()
    })
}

/// The same under an `If`.
pub(crate) fn merged() -> OnnxModel {
    let branch = |name: &str, nodes: Vec<NodeProto>, output: &str| AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(GraphProto { node: nodes, output: vec![value(output)], ..GraphProto::default() }),
        ..AttributeProto::default()
    };
    let mut choice = node("If", &["use_cache_branch"], "logits");
    choice.attribute = vec![
        branch("then_branch", attention("logits_then"), "logits_then"),
        branch(
            "else_branch",
            vec![node("MatMul", &["ids", "hidden"], "logits_else")],
            "logits_else",
        ),
    ];
    wrap(GraphProto {
        node: vec![choice],
        initializer: vec![weights("projection"), weights("one")],
        input: vec![value("ids"), value("hidden"), value("use_cache_branch")],
        output: vec![value("logits")],
        ..GraphProto::default()
    })
}

impl OnnxModel {
    /// The bytes of a file with this model.
    pub(crate) fn write(&self) -> Bytes {
        self.0.encode_to_vec().into()
    }

    /// The graph, to edit it.
    pub(crate) fn graph_mut(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }
}

/// Names of values or weights.
pub(crate) fn names<T: Named>(of: &[T]) -> Vec<&str> {
    of.iter().map(Named::name_of).collect()
}

/// A message with a name.
pub(crate) trait Named {
    /// Its name.
    fn name_of(&self) -> &str;
}

impl Named for ValueInfoProto {
    fn name_of(&self) -> &str {
        self.name()
    }
}

impl Named for TensorProto {
    fn name_of(&self) -> &str {
        self.name()
    }
}
