//! Installed model folders: lists a models directory by names and sizes. Reads no graph.

use crate::cascade::{CASCADE_FAMILY, CASCADE_FILE, CascadeSettings, is_cascade};
use crate::files::PREPROCESSOR;
use crate::json::{MAX_CONFIG, if_exists, model_type_of, read_file, read_json, refuse_pointer};
use crate::languages::ModelLanguages;
use crate::remote::{FolderGuard, REMOTE_FAMILY, REMOTE_FILE, RemoteSettings};
use crate::{GraphSelection, ModelsError, choose, family, graph_file, model_types};
use pg_caption_style::CaptionStyle;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The file that states the family of a local model.
pub(crate) const CONFIG_FILE: &str = "config.json";
/// The file with the styles of a folder, and the languages that its model knows.
pub(crate) const CAPTIONS_FILE: &str = "captions.json";

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
    /// The languages in which it can be asked to write; `None`: its files do not say.
    pub languages: Option<ModelLanguages>,
    /// Why it cannot be used, as far as file names show.
    pub problem: Option<String>,
}

/// Whether a folder has a model, complete or not: a `config.json`, a `remote.json` or a
/// `cascade.json`.
pub fn is_model(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).is_file() || is_remote(folder) || is_cascade(folder)
}

/// Whether the model of a folder is on a server.
pub fn is_remote(folder: &Path) -> bool {
    folder.join(REMOTE_FILE).is_file()
}

/// The models of a models directory, sorted by name. Names that begin with a dot (unfinished
/// downloads) are skipped.
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
        if !hidden && is_model(&path) {
            found.push(InstalledModel::at(&path, models));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl InstalledModel {
    /// Describes one folder; its fault, if any, goes into `problem`. A remote model is usable only
    /// under `models`, the models directory.
    pub fn at(path: &Path, models: &Path) -> InstalledModel {
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
            languages: None,
            problem: None,
        };
        let inspected = if is_cascade(path) {
            installed.inspect_cascade(models)
        } else if is_remote(path) {
            installed.inspect_remote(models)
        } else {
            installed.inspect(&files)
        };
        let languages = inspected.and_then(|()| ModelLanguages::of_folder(path));
        match languages {
            Ok(languages) => installed.languages = Some(languages),
            Err(error) => installed.problem = Some(error.to_string()),
        }
        installed
    }

    fn inspect_cascade(&mut self, models: &Path) -> Result<(), ModelsError> {
        self.model_type = Some(CASCADE_FAMILY.into());
        self.refuse_another_kind(CASCADE_FILE, &[CONFIG_FILE, REMOTE_FILE])?;
        let guard = FolderGuard::new(&self.path, models, None)?;
        let settings = CascadeSettings::of_folder(&guard)?;
        for folder in settings.folders(models)? {
            if let Some(problem) = InstalledModel::at(&folder, models).problem {
                let file = self.path.join(CASCADE_FILE);
                return Err(ModelsError::content(
                    &file,
                    format!("{}: {problem}", folder.display()),
                ));
            }
        }
        self.styles = styles_of(&self.path)?.into_keys().collect();
        Ok(())
    }

    /// A folder is one kind of model.
    fn refuse_another_kind(&self, own: &str, others: &[&str]) -> Result<(), ModelsError> {
        match others.iter().find(|other| self.path.join(other).is_file()) {
            None => Ok(()),
            Some(other) => {
                let reason = format!("a folder has this file or {other}, not both");
                Err(ModelsError::content(&self.path.join(own), reason))
            }
        }
    }

    fn inspect_remote(&mut self, models: &Path) -> Result<(), ModelsError> {
        self.model_type = Some(REMOTE_FAMILY.into());
        self.refuse_another_kind(REMOTE_FILE, &[CONFIG_FILE])?;
        RemoteSettings::of_folder(&FolderGuard::new(&self.path, models, None)?)?;
        self.styles = styles_of(&self.path)?.into_keys().collect();
        Ok(())
    }

    fn inspect(&mut self, files: &[String]) -> Result<(), ModelsError> {
        let path = self.path.join(CONFIG_FILE);
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
    let path = folder.join(CAPTIONS_FILE);
    let Some(bytes) = if_exists(read_file(&path, MAX_CONFIG))? else {
        return Ok(BTreeMap::new());
    };
    let own = match (is_cascade(folder), is_remote(folder)) {
        (true, _) => Some(CASCADE_FAMILY),
        (false, true) => Some(REMOTE_FAMILY),
        (false, false) => None,
    };
    if let Some(name) = own {
        return pg_caption_style::of_folder(&bytes, name)
            .map_err(|e| ModelsError::content(&path, e));
    }
    let config = folder.join(CONFIG_FILE);
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
        let problem = || InstalledModel::at(&folder, dir.path()).problem;
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
            let problem = InstalledModel::at(&folder, dir.path()).problem.unwrap();
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
        assert_eq!(InstalledModel::at(&whole.path, dir.path()).styles, ["poetic"]);
        put(&whole.path, &[("captions.json", r#"{"styles": {"poetic": {}}}"#)]);
        assert!(
            InstalledModel::at(&whole.path, dir.path()).problem.unwrap().contains("captions.json")
        );
        assert!(matches!(scan(&dir.path().join("nowhere")), Err(ModelsError::File { .. })));
    }

    #[test]
    fn a_remote_model_is_listed_like_a_local_one() {
        let dir = tempfile::tempdir().unwrap();
        let far = dir.path().join("far");
        let remote = r#"{"protocol": "openai", "base_url": "https://h/v1", "model": "m"}"#;
        put(&far, &[("remote.json", remote)]);
        put(&far, &[("captions.json", r#"{"styles": {"poetic": {"prompt": "Rhyme."}}}"#)]);
        let found = scan(dir.path()).unwrap();
        assert_eq!((found.len(), found[0].problem.as_deref()), (1, None));
        assert_eq!(found[0].model_type.as_deref(), Some("remote"));
        assert_eq!(found[0].styles, ["poetic"]);
        let styles = styles_of(&far).unwrap();
        assert_eq!(styles["poetic"].prompt_for(&["remote"]), Some("Rhyme."));
        let problem = || InstalledModel::at(&far, dir.path()).problem.unwrap_or_default();
        put(&far, &[("config.json", "{}")]);
        assert!(problem().contains("not both"), "{}", problem());
        fs::remove_file(far.join("config.json")).unwrap();
        put(&far, &[("remote.json", &remote.replace("}", r#", "api_key_file": "key"}"#))]);
        assert!(problem().contains("\"api_key_file\""), "{}", problem());
        // A cascade needs two usable models.
        let both = r#"{"first": "far", "then": "near", "below": 0.8}"#;
        put(&dir.path().join("both"), &[("cascade.json", both)]);
        put(&far, &[("remote.json", remote)]);
        let problem = || InstalledModel::at(&dir.path().join("both"), dir.path()).problem;
        assert!(problem().unwrap().contains("near: no model"), "{:?}", problem());
        put(&dir.path().join("near"), &WHOLE);
        assert_eq!(problem(), None);
        // Chosen by a path elsewhere, it is no model.
        let other = tempfile::tempdir().unwrap();
        let problem = InstalledModel::at(&far, other.path()).problem.unwrap();
        assert!(problem.contains("under"), "{problem}");
    }
}
