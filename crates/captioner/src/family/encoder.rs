//! The image encoder of a family: one call over pictures, with errors that name the responsible
//! file.
//!
//! The sizes of pictures come from the image processor's file, so the error of a failed call states
//! them. Features are checked once: non-finite values would otherwise show up in the decoder, whose
//! file is not at fault.

use crate::folder::{GraphSource, ModelFolder};
use crate::runtime::{GraphOutputs, GraphSession};
use crate::{ModelError, tensor};
use ort::value::{DynValue, TensorElementType};
use std::path::PathBuf;

/// The input that takes pictures.
pub(super) const PIXELS: &str = "pixel_values";

/// The usual cause of non-finite values.
const OVERFLOW: &str = "(an overflow in a reduced-precision graph?)";

/// An image encoder.
pub(super) struct ImageEncoder {
    graph: GraphSession,
    /// The output with the features.
    output: &'static str,
    /// The file that decides the sizes of pictures.
    processor: PathBuf,
}

impl ImageEncoder {
    /// Opens the folder's graph, which has no inputs but `fed` and at least one of these outputs.
    pub fn open(
        folder: &ModelFolder,
        name: &str,
        fed: &[&str],
        outputs: &[&'static str],
    ) -> Result<(ImageEncoder, GraphSource), ModelError> {
        let found = |graph: &GraphSession| {
            outputs.iter().copied().find(|output| graph.output(output).is_some())
        };
        let (graph, file) =
            folder.load(name, |graph| usable(graph, fed, found(graph).unwrap_or(outputs[0])))?;
        let output = found(&graph).unwrap_or(outputs[0]);
        Ok((ImageEncoder { graph, output, processor: folder.image_processor()?.0 }, file))
    }

    /// The graph.
    pub fn graph(&self) -> &GraphSession {
        &self.graph
    }

    /// Element type of the pictures.
    pub fn pixel_type(&self) -> TensorElementType {
        self.graph.input(PIXELS).map_or(TensorElementType::Float32, |(ty, _)| ty)
    }

    /// One call over pictures, with further inputs of the graph. Returns the features and the other
    /// outputs.
    pub fn run(
        &mut self,
        pixels: &DynValue,
        more: &[(&str, &DynValue)],
    ) -> Result<(DynValue, GraphOutputs), ModelError> {
        let feeds: Vec<(&str, &DynValue)> =
            std::iter::once((PIXELS, pixels)).chain(more.iter().copied()).collect();
        let mut outputs = self.graph.run(&feeds).map_err(|error| match error {
            ModelError::Run { graph, reason } => {
                let (shape, processor) = (tensor::shape(pixels), self.processor.display());
                let sizes = format!("{PIXELS} of shape {shape:?}, the size in {processor}");
                ModelError::run(graph, format!("call failed with {sizes}: {reason}"))
            }
            other => other,
        })?;
        let features = features(&self.graph, &mut outputs, self.output)?;
        Ok((features, outputs))
    }

    /// An error of this graph.
    pub fn wrong(&self, reason: impl ToString) -> ModelError {
        ModelError::graph(self.graph.path(), reason)
    }
}

/// Checks that each input of a graph is fed and that it has the output.
pub(super) fn usable(graph: &GraphSession, fed: &[&str], output: &str) -> Result<(), String> {
    if let Some(other) = graph.inputs().find(|name| !fed.contains(name)) {
        return Err(format!("unknown input \"{other}\""));
    }
    if graph.output(output).is_none() { Err(format!("no output \"{output}\"")) } else { Ok(()) }
}

/// Takes an output that later graphs read.
///
/// # Errors
/// [`ModelError::Graph`] if it is missing, holds a non-finite value, or is not of a float type.
pub(super) fn features(
    graph: &GraphSession,
    outputs: &mut GraphOutputs,
    name: &str,
) -> Result<DynValue, ModelError> {
    let value = outputs
        .take(name)
        .ok_or_else(|| ModelError::graph(graph.path(), format!("no output \"{name}\"")))?;
    match tensor::finite(&value) {
        Some(true) => Ok(value),
        Some(false) => Err(ModelError::graph(
            graph.path(),
            format!("output \"{name}\" is not finite {OVERFLOW}"),
        )),
        None => Err(ModelError::graph(
            graph.path(),
            format!("output \"{name}\" is {:?}; expected float32 or float16", value.dtype()),
        )),
    }
}
