//! Finds the external weight files of a graph without reading its weights, which may be gigabytes.
//!
//! Skips every message of the format (field numbers of `proto/onnx-ml.proto`) that cannot contain a
//! tensor.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

/// Deepest nesting of messages, as in protobuf.
const DEEPEST: usize = 100;
/// Longest file name that is read, bytes.
const LONGEST: u64 = 4096;

/// The messages that can contain a tensor's location.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Tensor,
    Location,
}

impl Message {
    /// The message in a field, if it can contain a location.
    fn inside(self, field: u64) -> Option<Message> {
        use Message::*;
        Some(match (self, field) {
            (Model, 7) | (Attribute, 6 | 11) => Graph,
            (Model, 25) => Function,
            (Graph, 1) | (Function, 7) => Node,
            (Node, 5) => Attribute,
            (Graph, 15) | (Attribute, 22 | 23) => Sparse,
            (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => Tensor,
            (Tensor, 13) => Location,
            _ => return None,
        })
    }
}

/// Locations of a graph file's external weights: `location` of every `external_data`, as written.
///
/// # Errors
/// The file cannot be read, or is not an ONNX model.
pub fn external_locations(file: &Path) -> io::Result<BTreeSet<String>> {
    let file = File::open(file)?;
    let length = file.metadata()?.len();
    let mut fields = FieldReader { reader: BufReader::new(file), at: 0, found: BTreeSet::new() };
    fields.message(Message::Model, length, 0)?;
    Ok(fields.found)
}

struct FieldReader {
    reader: BufReader<File>,
    at: u64,
    found: BTreeSet<String>,
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not an ONNX model")
}

impl FieldReader {
    /// Reads everything up to `end`.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(malformed());
        }
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            let tag = self.varint()?;
            let (field, length) = match tag & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => (0, 8),
                2 => (tag >> 3, self.varint()?),
                5 => (0, 4),
                _ => return Err(malformed()),
            };
            let inner =
                self.at.checked_add(length).filter(|inner| *inner <= end).ok_or_else(malformed)?;
            match (message, field, message.inside(field)) {
                (_, _, Some(inside)) => self.message(inside, inner, depth + 1)?,
                (Message::Location, 1, _) => key = self.text(length)?,
                (Message::Location, 2, _) => value = self.text(length)?,
                _ => self.skip(length)?,
            }
        }
        if key == "location" {
            self.found.insert(value);
        }
        Ok(())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.at += 1;
            number |= u64::from(byte[0] & 127) << shift;
            if byte[0] < 128 {
                return Ok(number);
            }
        }
        Err(malformed())
    }

    fn text(&mut self, length: u64) -> io::Result<String> {
        if length > LONGEST {
            return Err(malformed());
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| malformed())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.reader.seek_relative(i64::try_from(length).map_err(|_| malformed())?)?;
        self.at += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnnxModel;
    use crate::proto::{
        AttributeProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto,
    };
    use crate::testing::with_weights;
    use prost::Message as _;

    fn located(location: &str) -> TensorProto {
        let entry = |key: &str, value: &str| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        TensorProto {
            external_data: vec![entry("location", location), entry("offset", "0")],
            ..TensorProto::default()
        }
    }

    #[test]
    fn every_location_in_a_graph_is_found() {
        let path =
            std::env::temp_dir().join(format!("pg_caption-external-{}.onnx", std::process::id()));
        let write = |model: &OnnxModel| std::fs::write(&path, model.write()).unwrap();
        let mut model = with_weights(&[("large", vec![7; 1 << 20]), ("small", vec![9; 8])]);
        write(&model);
        assert!(external_locations(&path).unwrap().is_empty());
        let graph = model.graph_mut();
        graph.initializer.insert(0, located("weights.bin"));
        graph.initializer.push(located("more/weights.bin"));
        let within =
            GraphProto { initializer: vec![located("branch.bin")], ..GraphProto::default() };
        let branch = AttributeProto {
            g: Some(within),
            t: Some(located("constant.bin")),
            ..AttributeProto::default()
        };
        graph.node.push(NodeProto { attribute: vec![branch], ..NodeProto::default() });
        write(&model);
        let found: Vec<String> = external_locations(&path).unwrap().into_iter().collect();
        assert_eq!(found, ["branch.bin", "constant.bin", "more/weights.bin", "weights.bin"]);
        // A truncated file is an error or yields fewer locations; it never causes a panic.
        let whole = model.0.encode_to_vec();
        for length in (0..whole.len()).step_by(997) {
            std::fs::write(&path, &whole[..length]).unwrap();
            if let Ok(some) = external_locations(&path) {
                assert!(some.len() < 4);
            }
        }
        std::fs::remove_file(path).unwrap();
    }
}
