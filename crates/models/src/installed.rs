//! Which model folders lie in a models directory, and what their names and sizes say. Nothing large
//! is read.

use crate::{GraphSelection, ModelsError, choose, family, graph_file, model_types};
use pg_caption_style::CaptionStyle;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest JSON file read here, bytes; published ones have a few kilobytes.
const MAX_JSON: u64 = 4 << 20;

/// A folder that holds a model, or should.
#[derive(Debug, Clone, PartialEq)]
pub struct InstalledModel {
    /// Its name in the models directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// `model_type`, if its configuration says one.
    pub model_type: Option<String>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Graph to the precisions installed, the one that is used first.
    pub graphs: BTreeMap<String, Vec<String>>,
    /// Names of the styles that it brings along.
    pub styles: Vec<String>,
    /// Why it cannot be used, as far as names tell.
    pub problem: Option<String>,
}

/// The folders of a models directory that have a `config.json`, by name. Names that begin with a
/// dot (downloads under way) are passed over.
///
/// # Errors
/// The directory cannot be read.
pub fn scan(models: &Path) -> Result<Vec<InstalledModel>, ModelsError> {
    let failed = |source| ModelsError::File { path: models.into(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(models).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.join("config.json").is_file() {
            found.push(InstalledModel::at(&path));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl InstalledModel {
    /// Looks at one folder; what is wrong with it is stated in it.
    pub fn at(path: &Path) -> InstalledModel {
        let mut files = Vec::new();
        let bytes = list(path, "", &mut files) + list(&path.join("onnx"), "onnx/", &mut files);
        let name = path
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let mut installed = InstalledModel {
            name,
            path: path.into(),
            model_type: None,
            bytes,
            graphs: BTreeMap::new(),
            styles: Vec::new(),
            problem: None,
        };
        installed.problem = installed.look(&files).err().map(|error| error.to_string());
        installed
    }

    fn look(&mut self, files: &[String]) -> Result<(), ModelsError> {
        let path = self.path.join("config.json");
        let model_type = model_type_of(&read_json(&path)?, &path)?;
        self.model_type = Some(model_type.clone());
        let family = family(&model_type)
            .ok_or(ModelsError::UnknownFamily { model_type, supported: model_types() })?;
        let all = family.all_graphs();
        for named in files.iter().filter_map(|file| graph_file(file, &all)) {
            self.graphs.entry(named.graph.into()).or_default().push(named.dtype.into());
        }
        let choice = choose(family, files, &GraphSelection::default())?;
        for graph in &choice.graphs {
            if let Some(dtypes) = self.graphs.get_mut(&graph.graph) {
                dtypes.sort_by_key(|dtype| *dtype != graph.dtype);
                dtypes.dedup();
            }
        }
        self.styles = styles_of(&self.path)?.into_keys().collect();
        Ok(())
    }
}

/// Adds the files of a folder under a prefix; their bytes.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Through symbolic links, as a hub cache is made of them.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_file() {
            bytes += metadata.len();
            files.push(format!("{prefix}{}", entry.file_name().to_string_lossy()));
        }
    }
    bytes
}

/// `model_type` of a `config.json`.
///
/// # Errors
/// It says none.
pub fn model_type_of(config: &Value, path: &Path) -> Result<String, ModelsError> {
    let named = config.get("model_type").and_then(Value::as_str);
    named.map(Into::into).ok_or_else(|| ModelsError::Content {
        path: path.into(),
        reason: "no \"model_type\"".into(),
    })
}

/// Reads a small JSON file.
///
/// # Errors
/// It cannot be read, is too large, or is no JSON.
pub fn read_json(path: &Path) -> Result<Value, ModelsError> {
    serde_json::from_slice(&read(path)?)
        .map_err(|e| ModelsError::Content { path: path.into(), reason: e.to_string() })
}

fn read(path: &Path) -> Result<Vec<u8>, ModelsError> {
    let failed = |source| ModelsError::File { path: path.into(), source };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(failed)?
        .take(MAX_JSON + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match bytes.len() as u64 > MAX_JSON {
        true => Err(ModelsError::Content {
            path: path.into(),
            reason: format!("larger than {MAX_JSON} bytes"),
        }),
        false => Ok(bytes),
    }
}

/// The styles that a folder brings along in `captions.json`, by name; none if it has no such file.
///
/// # Errors
/// The file, or `config.json` beside it, cannot be read or says something impossible.
pub fn styles_of(folder: &Path) -> Result<BTreeMap<String, CaptionStyle>, ModelsError> {
    let path = folder.join("captions.json");
    let bytes = match read(&path) {
        Err(ModelsError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(BTreeMap::new());
        }
        bytes => bytes?,
    };
    let config = folder.join("config.json");
    let model_type = model_type_of(&read_json(&config)?, &config)?;
    // A prompt is kept under the name that the family itself goes by.
    let name = family(&model_type)
        .and_then(|family| family.model_types.first())
        .copied()
        .unwrap_or(&model_type);
    pg_caption_style::of_folder(&bytes, name)
        .map_err(|e| ModelsError::Content { path, reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder.join("onnx")).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    const WHOLE: [(&str, &str); 6] = [
        ("config.json", r#"{"model_type":"vision-encoder-decoder"}"#),
        ("preprocessor_config.json", "{}"),
        ("tokenizer.json", "{}"),
        ("onnx/encoder_model_q4.onnx", "four"),
        ("onnx/encoder_model_fp16.onnx", "four"),
        ("onnx/decoder_model_merged.onnx", "four"),
    ];

    #[test]
    fn folders_are_listed_with_their_graphs_and_what_is_wrong_with_them() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("whole"), &WHOLE);
        put(&dir.path().join("half"), &WHOLE[..5]);
        put(&dir.path().join("strange"), &[("config.json", r#"{"model_type":"poet"}"#)]);
        put(&dir.path().join("broken"), &[("config.json", "{")]);
        put(&dir.path().join(".whole.partial"), &WHOLE);
        fs::create_dir(dir.path().join("no_model")).unwrap();
        let found = scan(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["broken", "half", "strange", "whole"]);
        let problems: Vec<_> =
            found.iter().map(|i| i.problem.clone().unwrap_or_default()).collect();
        assert!(problems[0].contains("config.json"), "{}", problems[0]);
        assert!(problems[1].contains("decoder_model_merged"), "{}", problems[1]);
        assert!(
            problems[2].contains("poet") && problems[2].contains("florence2"),
            "{}",
            problems[2]
        );
        let whole = &found[3];
        assert_eq!(
            (whole.problem.as_deref(), whole.model_type.as_deref()),
            (None, Some("vision-encoder-decoder"))
        );
        assert_eq!(whole.bytes, WHOLE.iter().map(|(_, text)| text.len() as u64).sum::<u64>());
        assert_eq!(
            whole.graphs["encoder_model"],
            ["q4", "fp16"],
            "the one that is used stands first"
        );
        put(&whole.path, &[("captions.json", r#"{"styles": {"poetic": {"prompt": "Rhyme."}}}"#)]);
        assert_eq!(InstalledModel::at(&whole.path).styles, ["poetic"]);
        put(&whole.path, &[("captions.json", r#"{"styles": {"poetic": {}}}"#)]);
        assert!(InstalledModel::at(&whole.path).problem.unwrap().contains("captions.json"));
        assert!(matches!(scan(&dir.path().join("nowhere")), Err(ModelsError::File { .. })));
    }
}
