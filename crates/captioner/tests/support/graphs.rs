//! Variants of the parity models' graphs as other exporters write them: float16 inputs and outputs,
//! external weights, non-finite weights.

use pg_caption_onnx::proto::attribute_proto::AttributeType;
use pg_caption_onnx::proto::tensor_proto::{DataLocation, DataType};
use pg_caption_onnx::proto::type_proto::Value;
use pg_caption_onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};
use prost::Message;
use std::path::Path;

/// Changes the graph of a file.
pub fn change(file: &Path, change: impl FnOnce(&mut GraphProto)) {
    let mut model = ModelProto::decode(std::fs::read(file).unwrap().as_slice()).unwrap();
    change(model.graph.as_mut().unwrap());
    std::fs::write(file, model.encode_to_vec()).unwrap();
}

/// An input of this type and these dimensions; negative: any.
pub fn port(name: &str, ty: DataType, dimensions: &[i64]) -> ValueInfoProto {
    use pg_caption_onnx::proto::tensor_shape_proto::{Dimension, dimension::Value as Size};
    use pg_caption_onnx::proto::{TensorShapeProto, TypeProto, type_proto::Tensor};
    let size = |(axis, n): (usize, &i64)| {
        if *n < 0 { Size::DimParam(format!("{name} {axis}")) } else { Size::DimValue(*n) }
    };
    let dim = dimensions
        .iter()
        .enumerate()
        .map(|n| Dimension { value: Some(size(n)), ..Dimension::default() })
        .collect();
    let tensor = Tensor { elem_type: Some(ty as i32), shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// Converts every float32 input and output to float16, with casts around the unchanged graph.
/// Returns their number.
pub fn halve(graph: &mut GraphProto) -> usize {
    retype(graph, DataType::Float16)
}

/// The same with another type.
pub fn retype(graph: &mut GraphProto, ty: DataType) -> usize {
    let GraphProto { node, input, output, .. } = graph;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for port in input.iter_mut().filter_map(|port| turn(port, ty)) {
        let inside = format!("{port} in full");
        rename(node, &port, &inside, false);
        before.push(cast(&port, &inside, DataType::Float));
    }
    for port in output.iter_mut().filter_map(|port| turn(port, ty)) {
        let inside = format!("{port} in full");
        rename(node, &port, &inside, true);
        after.push(cast(&inside, &port, ty));
    }
    let changed = before.len() + after.len();
    node.splice(..0, before);
    node.append(&mut after);
    changed
}

/// Changes the type of a float32 port; returns its name if it was one.
fn turn(port: &mut ValueInfoProto, ty: DataType) -> Option<String> {
    let Some(Value::TensorType(tensor)) = port.r#type.as_mut()?.value.as_mut() else { return None };
    let float = tensor.elem_type == Some(DataType::Float as i32);
    tensor.elem_type = if float { Some(ty as i32) } else { tensor.elem_type };
    float.then(|| port.name().to_owned())
}

/// Renames a value wherever nodes and their branches read it; with `made` also where a node of this
/// graph computes it.
fn rename(nodes: &mut [NodeProto], from: &str, to: &str, made: bool) {
    for node in nodes {
        node.input.iter_mut().filter(|name| *name == from).for_each(|name| *name = to.into());
        if made {
            node.output.iter_mut().filter(|name| *name == from).for_each(|name| *name = to.into());
        }
        for branch in node
            .attribute
            .iter_mut()
            .flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
        {
            // A branch may compute a value of the same name.
            if !branch.node.iter().any(|node| node.output.iter().any(|name| name == from)) {
                rename(&mut branch.node, from, to, false);
            }
        }
    }
}

fn cast(from: &str, to: &str, ty: DataType) -> NodeProto {
    let to_type = AttributeProto {
        name: Some("to".into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(ty as i64),
        ..AttributeProto::default()
    };
    NodeProto {
        op_type: Some("Cast".into()),
        input: vec![from.into()],
        output: vec![to.into()],
        attribute: vec![to_type],
        ..NodeProto::default()
    }
}

/// Sets all weights of all matrices to NaN.
pub fn poison(graph: &mut GraphProto) {
    let matrices = graph
        .initializer
        .iter_mut()
        .filter(|weights| weights.data_type() == DataType::Float as i32 && weights.dims.len() == 2);
    let mut poisoned = 0;
    for weights in matrices {
        let nan = f32::NAN.to_le_bytes().into_iter().cycle();
        weights.raw_data = Some(nan.take(weights.raw_data().len()).collect());
        poisoned += 1;
    }
    assert!(poisoned > 0, "a graph without matrices");
}

/// Moves all but the smallest weights out of a graph; returns the bytes of the file `name` that
/// contains them.
pub fn move_out(graph: &mut GraphProto, name: &str) -> Vec<u8> {
    let mut file = Vec::new();
    for weights in graph.initializer.iter_mut().filter(|weights| weights.raw_data().len() >= 64) {
        let data = weights.raw_data.take().unwrap_or_default();
        let places = [
            ("location", name.to_owned()),
            ("offset", file.len().to_string()),
            ("length", data.len().to_string()),
        ];
        let entry = |(key, value): (&str, String)| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value),
        };
        *weights = TensorProto {
            external_data: places.map(entry).into(),
            data_location: Some(DataLocation::External as i32),
            ..std::mem::take(weights)
        };
        file.extend_from_slice(&data);
    }
    assert!(!file.is_empty(), "a graph without weights");
    file
}
