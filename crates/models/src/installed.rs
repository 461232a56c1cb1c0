//! Installed model folders: lists a models directory by names and sizes. Reads no graph.

use crate::files::PREPROCESSOR;
use crate::json::{MAX_CONFIG, if_exists, model_type_of, read_file, read_json, refuse_pointer};
use crate::{GraphSelection, ModelsError, choose, family, graph_file, model_types};
use pg_caption_style::CaptionStyle;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder that contains a model, complete or not.
#[derive(Debug, Clone, PartialEq)]
pub struct InstalledModel {
    /// Its name in the models directory.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// `model_type`, if its configuration states one.
    pub model_type: Option<String>,
    /// Size of all its files, bytes.
    pub bytes: u64,
    /// Each graph with its installed dtypes, the one in use first.
    pub graphs: BTreeMap<String, Vec<String>>,
    /// Names of the styles that it contains.
    pub styles: Vec<String>,
    /// Why it cannot be used, as far as file names show.
    pub problem: Option<String>,
}

/// The folders of a models directory that have a `config.json`, sorted by name. Names that begin
/// with a dot (unfinished downloads) are skipped.
///
/// # Errors
/// [`ModelsError::File`] if the directory cannot be read.
///
/// ```no_run
/// for model in pg_caption_models::scan("/var/lib/pg_caption/models".as_ref())? {
///     println!("{}: {}", model.name, model.problem.as_deref().unwrap_or("complete"));
/// }
/// # Ok::<(), pg_caption_models::ModelsError>(())
/// ```
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
    /// Describes one folder; its fault, if any, goes into `problem`.
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
        installed.problem = installed.inspect(&files).err().map(|error| error.to_string());
        installed
    }

    fn inspect(&mut self, files: &[String]) -> Result<(), ModelsError> {
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
        for file in choice.files() {
            refuse_pointer(&self.path.join(file))?;
        }
        if !files.iter().any(|file| file == PREPROCESSOR) {
            let processor = read_json(&self.path.join("processor_config.json"))?;
            if !processor.get("image_processor").is_some_and(Value::is_object) {
                return Err(ModelsError::Missing { file: PREPROCESSOR.into() });
            }
        }
        self.styles = styles_of(&self.path)?.into_keys().collect();
        Ok(())
    }
}

/// Adds the files of a folder to `files`, each with `prefix`; returns their size in bytes.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Follows symbolic links: a hub cache consists of them.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_file() {
            bytes += metadata.len();
            files.push(format!("{prefix}{}", entry.file_name().to_string_lossy()));
        }
    }
    bytes
}

/// The styles that a folder defines in `captions.json`, by name; none if it has no such file.
///
/// # Errors
/// The file, or the folder's `config.json`, cannot be read or is invalid.
pub fn styles_of(folder: &Path) -> Result<BTreeMap<String, CaptionStyle>, ModelsError> {
    let path = folder.join("captions.json");
    let Some(bytes) = if_exists(read_file(&path, MAX_CONFIG))? else {
        return Ok(BTreeMap::new());
    };
    let config = folder.join("config.json");
    let model_type = model_type_of(&read_json(&config)?, &config)?;
    // A prompt is kept under the family's own name.
    let name = family(&model_type).map_or(model_type.as_str(), |family| family.name());
    pg_caption_style::of_folder(&bytes, name).map_err(|e| ModelsError::content(&path, e))
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
    fn a_nested_image_processor_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("five");
        put(&folder, &WHOLE);
        fs::remove_file(folder.join("preprocessor_config.json")).unwrap();
        let problem = || InstalledModel::at(&folder).problem;
        assert_eq!(problem().unwrap(), "no preprocessor_config.json");
        put(&folder, &[("processor_config.json", r#"{"image_seq_len": 64}"#)]);
        assert_eq!(problem().unwrap(), "no preprocessor_config.json");
        put(&folder, &[("processor_config.json", r#"{"image_processor": {}}"#)]);
        assert_eq!(problem(), None);
    }

    #[test]
    fn a_pointer_in_place_of_a_file_is_named() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
        for file in ["onnx/decoder_model_merged.onnx", "tokenizer.json", "config.json"] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("clone");
            put(&folder, &WHOLE);
            put(&folder, &[(file, pointer)]);
            let problem = InstalledModel::at(&folder).problem.unwrap();
            assert!(problem.contains(file) && problem.contains("git lfs pull"), "{problem}");
        }
    }

    #[test]
    fn folders_are_listed_with_graphs_and_problems() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("whole"), &WHOLE);
        put(&dir.path().join("half"), &WHOLE[..5]);
        put(&dir.path().join("unknown"), &[("config.json", r#"{"model_type":"poet"}"#)]);
        put(&dir.path().join("broken"), &[("config.json", "{")]);
        put(&dir.path().join(".whole.partial"), &WHOLE);
        fs::create_dir(dir.path().join("no_model")).unwrap();
        let found = scan(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["broken", "half", "unknown", "whole"]);
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
        assert_eq!(whole.graphs["encoder_model"], ["q4", "fp16"], "the one in use comes first");
        put(&whole.path, &[("captions.json", r#"{"styles": {"poetic": {"prompt": "Rhyme."}}}"#)]);
        assert_eq!(InstalledModel::at(&whole.path).styles, ["poetic"]);
        put(&whole.path, &[("captions.json", r#"{"styles": {"poetic": {}}}"#)]);
        assert!(InstalledModel::at(&whole.path).problem.unwrap().contains("captions.json"));
        assert!(matches!(scan(&dir.path().join("nowhere")), Err(ModelsError::File { .. })));
    }
}
