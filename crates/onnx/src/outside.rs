//! Which other files a graph's weights lie in, read without its weights: they may be gigabytes, and
//! are stepped over.
//!
//! A walk over the format's messages (field numbers of `proto/onnx-ml.proto`) that looks at those
//! alone in which a tensor can lie.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

/// Graphs within graphs, as protobuf itself bounds them.
const DEEPEST: usize = 100;
/// Longest name of a file that is read.
const LONGEST: u64 = 4096;

/// The messages on the way to a tensor's place.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Tensor,
    Entry,
}

impl Message {
    /// The message in a field, if the way leads through it.
    fn inside(self, field: u64) -> Option<Message> {
        use Message::*;
        Some(match (self, field) {
            (Model, 7) | (Attribute, 6 | 11) => Graph,
            (Model, 25) => Function,
            (Graph, 1) | (Function, 7) => Node,
            (Node, 5) => Attribute,
            (Graph, 15) | (Attribute, 22 | 23) => Sparse,
            (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => Tensor,
            (Tensor, 13) => Entry,
            _ => return None,
        })
    }
}

/// Where the weights of a graph's file lie that are not in it: `location` of every `external_data`,
/// as it is written there.
///
/// # Errors
/// The file cannot be read, or is no ONNX model.
pub fn outside(file: &Path) -> io::Result<BTreeSet<String>> {
    let file = File::open(file)?;
    let length = file.metadata()?.len();
    let mut walk = Walk { reader: BufReader::new(file), at: 0, found: BTreeSet::new() };
    walk.message(Message::Model, length, 0)?;
    Ok(walk.found)
}

struct Walk {
    reader: BufReader<File>,
    at: u64,
    found: BTreeSet<String>,
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not an ONNX model")
}

impl Walk {
    /// Everything up to `end`.
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
                (Message::Entry, 1, _) => key = self.text(length)?,
                (Message::Entry, 2, _) => value = self.text(length)?,
                _ => self.step_over(length)?,
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

    fn step_over(&mut self, length: u64) -> io::Result<()> {
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

    fn placed(location: &str) -> TensorProto {
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
    fn every_place_that_a_graph_names_is_found_wherever_it_stands() {
        let path =
            std::env::temp_dir().join(format!("pg_caption-outside-{}.onnx", std::process::id()));
        let write = |model: &OnnxModel| std::fs::write(&path, model.write()).unwrap();
        let mut model = with_weights(&[("large", vec![7; 1 << 20]), ("small", vec![9; 8])]);
        write(&model);
        assert!(outside(&path).unwrap().is_empty());
        let graph = model.graph_mut();
        graph.initializer.insert(0, placed("weights.bin"));
        graph.initializer.push(placed("more/weights.bin"));
        let within =
            GraphProto { initializer: vec![placed("branch.bin")], ..GraphProto::default() };
        let branch = AttributeProto {
            g: Some(within),
            t: Some(placed("constant.bin")),
            ..AttributeProto::default()
        };
        graph.node.push(NodeProto { attribute: vec![branch], ..NodeProto::default() });
        write(&model);
        let found: Vec<String> = outside(&path).unwrap().into_iter().collect();
        assert_eq!(found, ["branch.bin", "constant.bin", "more/weights.bin", "weights.bin"]);
        // Cut anywhere it is an error or less is found; never a panic.
        let whole = model.0.encode_to_vec();
        for length in (0..whole.len()).step_by(997) {
            std::fs::write(&path, &whole[..length]).unwrap();
            if let Ok(some) = outside(&path) {
                assert!(some.len() < 4);
            }
        }
        std::fs::remove_file(path).unwrap();
    }
}
