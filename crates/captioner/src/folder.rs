//! A model folder that is being loaded: its JSON files, and which file of each graph is used.
//!
//! `crates/models` knows how files are named; this file opens them.

use crate::runtime::GraphSession;
use crate::{ModelError, tensor};
use pg_caption_models::{GraphDtype, graph_file_name, if_exists, model_type_of, read_json};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// How to load a folder.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `auto`: the unsuffixed file of each graph, else the first installed one that loads. Or a
    /// suffix of the published files, with or without its underscore (`_quantized`, `q4`, `fp16`;
    /// `fp32` is the unsuffixed file).
    pub dtype: String,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { dtype: "auto".into() }
    }
}

/// A model folder whose JSON files have been read.
pub(crate) struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// `config.json`.
    pub config: Value,
    /// `generation_config.json`, if it exists.
    pub generation_config: Option<Value>,
    /// The requested precision.
    dtype: GraphDtype,
}

/// The file of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphSource {
    /// The file.
    pub path: PathBuf,
    /// `fp32`, or the file's suffix without the underscore.
    pub dtype: String,
    /// Unusable files that would have been preferred, each with its reason. Empty until the graph
    /// is loaded.
    pub skipped: Vec<String>,
}

impl ModelFolder {
    /// Reads the folder's JSON files.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<ModelFolder, ModelError> {
        let config = read_json(&path.join("config.json"))?;
        let generation_config = if_exists(read_json(&path.join("generation_config.json")))?;
        let dtype = GraphDtype::of_setting(&options.dtype);
        Ok(ModelFolder { path: path.into(), config, generation_config, dtype })
    }

    /// A folder that consists of a configuration.
    #[cfg(test)]
    pub fn of_config(config: Value) -> ModelFolder {
        ModelFolder {
            path: "test".into(),
            config,
            generation_config: None,
            dtype: GraphDtype::Auto,
        }
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads another JSON file of the folder.
    pub fn json(&self, name: &str) -> Result<Value, ModelError> {
        Ok(read_json(&self.file(name))?)
    }

    /// Reads another JSON file of the folder, if it exists.
    pub fn optional_json(&self, name: &str) -> Result<Option<Value>, ModelError> {
        Ok(if_exists(read_json(&self.file(name)))?)
    }

    /// The settings of the image processor and their file: `preprocessor_config.json`, or, as
    /// transformers 5 writes them, a part of `processor_config.json`.
    pub fn image_processor(&self) -> Result<(PathBuf, Value), ModelError> {
        let path = self.file("preprocessor_config.json");
        if let Some(json) = if_exists(read_json(&path))? {
            return Ok((path, json));
        }
        let mut json = self.optional_json("processor_config.json")?;
        let nested = json.as_mut().and_then(|json| json.get_mut("image_processor"));
        match nested.filter(|nested| nested.is_object()) {
            Some(nested) => Ok((self.file("processor_config.json"), nested.take())),
            // The error of the missing file.
            None => Ok((path, self.json("preprocessor_config.json")?)),
        }
    }

    /// `model_type` of `config.json`.
    pub fn model_type(&self) -> Result<String, ModelError> {
        Ok(model_type_of(&self.config, &self.file("config.json"))?)
    }

    /// The folder's last path component.
    pub fn name(&self) -> String {
        let name = self
            .path
            .canonicalize()
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
        name.unwrap_or_else(|| self.path.display().to_string())
    }

    /// Loads a graph: the first candidate that loads and that `check` accepts. The skipped ones are
    /// reported in the result.
    pub fn load(
        &self,
        graph: &str,
        check: impl Fn(&GraphSession) -> Result<(), String>,
    ) -> Result<(GraphSession, GraphSource), ModelError> {
        let candidates = self.installed(graph)?;
        let mut reasons = Vec::new();
        for candidate in &candidates {
            let loaded = GraphSession::open(&candidate.path).and_then(|loaded| {
                match tensor::supported(&loaded).and_then(|()| check(&loaded)) {
                    Ok(()) => Ok(loaded),
                    Err(reason) => Err(ModelError::graph(&candidate.path, reason)),
                }
            });
            match loaded {
                Ok(loaded) => {
                    return Ok((loaded, GraphSource { skipped: reasons, ..candidate.clone() }));
                }
                Err(error) if candidates.len() == 1 => return Err(error),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(ModelError::NoGraph {
            folder: self.path.clone(),
            graph: graph.into(),
            reason: reasons.join("; "),
        })
    }

    /// The candidates of a graph; an error without any.
    pub fn installed(&self, graph: &str) -> Result<Vec<GraphSource>, ModelError> {
        let candidates = self.candidates(graph);
        if candidates.is_empty() {
            let expected = match &self.dtype {
                GraphDtype::Auto => format!("{graph}.onnx, with or without a suffix,"),
                GraphDtype::Named(dtype) => graph_file_name(graph, dtype),
            };
            let folder = self.path.clone();
            return Err(ModelError::NotInstalled { folder, graph: graph.into(), expected });
        }
        Ok(candidates)
    }

    /// Installed files of a graph, in the order in which they are tried.
    pub fn candidates(&self, graph: &str) -> Vec<GraphSource> {
        let file = |dtype: &str| {
            let name = graph_file_name(graph, dtype);
            [self.path.join("onnx").join(&name), self.path.join(&name)]
                .into_iter()
                .find(|path| path.is_file())
        };
        let source = |dtype: &str| {
            Some(GraphSource { path: file(dtype)?, dtype: dtype.into(), skipped: Vec::new() })
        };
        self.dtype.candidates().into_iter().filter_map(source).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temporary(PathBuf);
    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A folder of empty files.
    fn folder(test: &str, files: &[&str]) -> Temporary {
        let path =
            std::env::temp_dir().join(format!("pg_caption-folder-{test}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("onnx")).unwrap();
        std::fs::write(path.join("config.json"), r#"{"model_type":"x"}"#).unwrap();
        for file in files {
            std::fs::write(path.join(file), "").unwrap();
        }
        Temporary(path)
    }

    fn dtypes(at: &Temporary, dtype: &str, graph: &str) -> Vec<String> {
        let folder = ModelFolder::open(&at.0, &LoadOptions { dtype: dtype.into() }).unwrap();
        folder.candidates(graph).into_iter().map(|g| g.dtype).collect()
    }

    #[test]
    fn auto_prefers_the_plain_file_of_each_graph() {
        let at = folder(
            "auto",
            &[
                "onnx/a.onnx",
                "onnx/a_quantized.onnx",
                "onnx/b_fp16.onnx",
                "onnx/b_q4.onnx",
                "c.onnx",
            ],
        );
        assert_eq!(dtypes(&at, "auto", "a"), ["fp32", "quantized"]);
        assert_eq!(dtypes(&at, "auto", "b"), ["q4", "fp16"]);
        assert_eq!(
            dtypes(&at, "auto", "c"),
            ["fp32"],
            "graphs next to config.json are found as well"
        );
        assert!(dtypes(&at, "auto", "d").is_empty());
    }

    #[test]
    fn a_stated_dtype_is_the_only_one_tried() {
        let at = folder("stated", &["onnx/a.onnx", "onnx/a_quantized.onnx"]);
        for name in ["_quantized", "quantized", "q8"] {
            assert_eq!(dtypes(&at, name, "a"), ["quantized"]);
        }
        assert_eq!(dtypes(&at, "fp32", "a"), ["fp32"]);
        assert!(dtypes(&at, "_q4", "a").is_empty());
    }

    #[test]
    fn an_invalid_folder_is_an_error_with_file_and_reason() {
        let at = folder("bad", &[]);
        std::fs::write(at.0.join("config.json"), "{").unwrap();
        let open = |path: &Path| {
            ModelFolder::open(path, &LoadOptions { dtype: "auto".into() })
                .err()
                .unwrap()
                .to_string()
        };
        assert!(open(&at.0).contains("config.json"), "{}", open(&at.0));
        std::fs::write(at.0.join("config.json"), "[]").unwrap();
        assert!(open(&at.0).contains("not a JSON object"));
        assert!(open(Path::new("/nonexistent")).contains("/nonexistent/config.json"));
    }
}
