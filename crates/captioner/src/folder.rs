//! A model folder as published: its JSON files, and which file of a graph to load.
//!
//! Graphs lie in `onnx/` (or in the folder itself), named `<graph><suffix>.onnx`; the suffix says
//! the precision and may differ from graph to graph.

use crate::runtime::Graph as Loaded;
use crate::{LoadOptions, ModelError, tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Suffixes in the order `auto` tries them after the unsuffixed file: first what a processor runs
/// fast, then what needs casts.
const SUFFIXES: [&str; 11] = [
    "_quantized",
    "_uint8",
    "_int8",
    "_q4",
    "_bnb4",
    "_q2",
    "_q1",
    "_fp16",
    "_q4f16",
    "_q2f16",
    "_q1f16",
];

/// A model folder whose JSON files have been read.
pub(crate) struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// `config.json`.
    pub config: Value,
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<Value>,
    /// What the caller wants.
    dtype: Dtype,
}

/// A graph's file and precision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Graph {
    /// The file.
    pub path: PathBuf,
    /// `fp32`, or the file's suffix without the underscore.
    pub dtype: String,
    /// Files that go before it and are of no use, each with its reason. Empty until the graph is
    /// loaded.
    pub passed_over: Vec<String>,
}

enum Dtype {
    Auto,
    /// Empty: the unsuffixed file.
    Suffix(String),
}

impl Folder {
    /// Reads the folder's JSON files.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Folder, ModelError> {
        let dtype = match options.dtype.trim_start_matches('_') {
            "" | "auto" => Dtype::Auto,
            "fp32" => Dtype::Suffix(String::new()),
            "q8" => Dtype::Suffix("_quantized".into()),
            other => Dtype::Suffix(format!("_{other}")),
        };
        let (config, generation_config) =
            (json(&path.join("config.json"))?, optional(&path.join("generation_config.json"))?);
        Ok(Folder { path: path.into(), config, generation_config, dtype })
    }

    /// A folder that has nothing but a configuration.
    #[cfg(test)]
    pub fn of_config(config: Value) -> Folder {
        Folder { path: "test".into(), config, generation_config: None, dtype: Dtype::Auto }
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads another JSON file of the folder.
    pub fn json(&self, name: &str) -> Result<Value, ModelError> {
        json(&self.file(name))
    }

    /// Reads another JSON file of the folder, if it is there.
    pub fn optional_json(&self, name: &str) -> Result<Option<Value>, ModelError> {
        optional(&self.file(name))
    }

    /// `model_type` of `config.json`.
    pub fn model_type(&self) -> Result<&str, ModelError> {
        let named = self.config.get("model_type").and_then(Value::as_str);
        named.ok_or_else(|| ModelError::config(self.file("config.json"), "no \"model_type\""))
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

    /// Loads a graph: the first candidate that loads and that `check` accepts. What is passed over
    /// is kept with it.
    pub fn load(
        &self,
        graph: &str,
        check: impl Fn(&Loaded) -> Result<(), String>,
    ) -> Result<(Loaded, Graph), ModelError> {
        let candidates = self.installed(graph)?;
        let mut reasons = Vec::new();
        for candidate in &candidates {
            let loaded = Loaded::open(&candidate.path).and_then(|loaded| {
                match tensor::spoken(&loaded).and_then(|()| check(&loaded)) {
                    Ok(()) => Ok(loaded),
                    Err(reason) => Err(ModelError::graph(&candidate.path, reason)),
                }
            });
            match loaded {
                Ok(loaded) => {
                    return Ok((loaded, Graph { passed_over: reasons, ..candidate.clone() }));
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

    /// The candidates of a graph; an error if there are none.
    pub fn installed(&self, graph: &str) -> Result<Vec<Graph>, ModelError> {
        let candidates = self.candidates(graph);
        if candidates.is_empty() {
            return Err(ModelError::NotInstalled {
                folder: self.path.clone(),
                graph: graph.into(),
                wanted: self.wanted(graph),
            });
        }
        Ok(candidates)
    }

    /// Installed files of a graph, in the order they are tried.
    pub fn candidates(&self, graph: &str) -> Vec<Graph> {
        let suffixes: Vec<&str> = match &self.dtype {
            Dtype::Auto => std::iter::once("").chain(SUFFIXES).collect(),
            Dtype::Suffix(suffix) => vec![suffix],
        };
        let file = |suffix: &str| {
            let name = format!("{graph}{suffix}.onnx");
            [self.path.join("onnx").join(&name), self.path.join(&name)]
                .into_iter()
                .find(|path| path.is_file())
        };
        let dtype = |suffix: &str| {
            if suffix.is_empty() {
                "fp32".into()
            } else {
                suffix.trim_start_matches('_').to_owned()
            }
        };
        suffixes
            .into_iter()
            .filter_map(|suffix| {
                Some(Graph { path: file(suffix)?, dtype: dtype(suffix), passed_over: Vec::new() })
            })
            .collect()
    }

    fn wanted(&self, graph: &str) -> String {
        match &self.dtype {
            Dtype::Auto => format!("{graph}.onnx, with or without a suffix,"),
            Dtype::Suffix(suffix) => format!("{graph}{suffix}.onnx"),
        }
    }
}

fn optional(path: &Path) -> Result<Option<Value>, ModelError> {
    match json(path) {
        Err(ModelError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn json(path: &Path) -> Result<Value, ModelError> {
    let bytes =
        std::fs::read(path).map_err(|source| ModelError::File { path: path.into(), source })?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| ModelError::config(path, e))?;
    if value.is_object() { Ok(value) } else { Err(ModelError::config(path, "not a JSON object")) }
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
        let folder = Folder::open(&at.0, &LoadOptions { dtype: dtype.into() }).unwrap();
        folder.candidates(graph).into_iter().map(|g| g.dtype).collect()
    }

    #[test]
    fn auto_takes_the_unsuffixed_file_first_and_then_what_is_installed_for_each_graph() {
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
            "graphs beside config.json are found as well"
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
    fn a_folder_that_is_none_names_the_file_and_the_reason() {
        let at = folder("bad", &[]);
        std::fs::write(at.0.join("config.json"), "{").unwrap();
        let open = |path: &Path| {
            Folder::open(path, &LoadOptions { dtype: "auto".into() }).err().unwrap().to_string()
        };
        assert!(open(&at.0).contains("config.json"), "{}", open(&at.0));
        std::fs::write(at.0.join("config.json"), "[]").unwrap();
        assert!(open(&at.0).contains("not a JSON object"));
        assert!(open(Path::new("/nonexistent")).contains("/nonexistent/config.json"));
    }
}
