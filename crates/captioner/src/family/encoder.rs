//! The image encoder of a family: one call over pictures, and words for what goes wrong with it.
//!
//! Its sizes come from `preprocessor_config.json`, so a call that fails says which sizes those
//! were. What it makes of a picture is looked through once: features that are no numbers would come
//! to light in the decoder, whose file is not the one to blame.

use crate::folder::{Folder, Graph as File};
use crate::runtime::{Graph, Outputs};
use crate::{ModelError, tensor};
use ort::value::{DynValue, TensorElementType};
use std::path::PathBuf;

/// The input that takes pictures.
pub(super) const PIXELS: &str = "pixel_values";

/// What numbers that are none come from, as a rule.
const OVERFLOW: &str = "(an overflow in a reduced-precision graph?)";

/// An image encoder.
pub(super) struct Encoder {
    graph: Graph,
    /// The output that holds the features.
    output: &'static str,
    /// Who says how large pictures are.
    processor: PathBuf,
}

impl Encoder {
    /// Opens the folder's graph, which asks for nothing but `fed` and has one of these outputs.
    pub fn open(
        folder: &Folder,
        name: &str,
        fed: &[&str],
        outputs: &[&'static str],
    ) -> Result<(Encoder, File), ModelError> {
        let found =
            |graph: &Graph| outputs.iter().copied().find(|output| graph.output(output).is_some());
        let (graph, file) =
            folder.load(name, |graph| usable(graph, fed, found(graph).unwrap_or(outputs[0])))?;
        let output = found(&graph).unwrap_or(outputs[0]);
        Ok((Encoder { graph, output, processor: folder.file("preprocessor_config.json") }, file))
    }

    /// Its graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Element type of the pictures.
    pub fn pixel_type(&self) -> TensorElementType {
        self.graph.input(PIXELS).map_or(TensorElementType::Float32, |(ty, _)| ty)
    }

    /// One call over pictures, with what else the graph asks for: the features, and the other
    /// outputs.
    pub fn run(
        &mut self,
        pixels: &DynValue,
        more: &[(&str, &DynValue)],
    ) -> Result<(DynValue, Outputs), ModelError> {
        let feeds: Vec<(&str, &DynValue)> =
            std::iter::once((PIXELS, pixels)).chain(more.iter().copied()).collect();
        let mut outputs = self.graph.run(&feeds).map_err(|error| match error {
            ModelError::Run { graph, reason } => {
                let (shape, processor) = (tensor::shape(pixels), self.processor.display());
                ModelError::run(graph, format!("it failed on {PIXELS} of shape {shape:?}, the size that {processor} gives: {reason}"))
            }
            other => other,
        })?;
        let features = features(&self.graph, &mut outputs, self.output)?;
        Ok((features, outputs))
    }

    /// An error of its graph.
    pub fn wrong(&self, reason: impl ToString) -> ModelError {
        ModelError::graph(self.graph.path(), reason)
    }
}

/// A graph is usable if somebody feeds each of its inputs and it gives what is wanted of it.
pub(super) fn usable(graph: &Graph, fed: &[&str], output: &str) -> Result<(), String> {
    if let Some(other) = graph.inputs().find(|name| !fed.contains(name)) {
        return Err(format!("nothing feeds its input \"{other}\""));
    }
    if graph.output(output).is_none() {
        Err(format!("it has no output \"{output}\""))
    } else {
        Ok(())
    }
}

/// Takes the output of a graph that later graphs read.
///
/// # Errors
/// There is none, or it holds what is no finite number or no float at all.
pub(super) fn features(
    graph: &Graph,
    outputs: &mut Outputs,
    name: &str,
) -> Result<DynValue, ModelError> {
    let value = outputs
        .take(name)
        .ok_or_else(|| ModelError::graph(graph.path(), format!("no output \"{name}\"")))?;
    match tensor::finite(&value) {
        Some(true) => Ok(value),
        Some(false) => Err(ModelError::graph(
            graph.path(),
            format!("its \"{name}\" are not numbers {OVERFLOW}"),
        )),
        None => Err(ModelError::graph(
            graph.path(),
            format!("its \"{name}\" are {:?}, neither float32 nor float16", value.dtype()),
        )),
    }
}
