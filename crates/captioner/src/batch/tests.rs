//! The batch and the searches, driven by families of plain arrays: no ONNX Runtime, no model.
