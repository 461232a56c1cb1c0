//! A folder with a `cascade.json`: a small model first, a larger one where the small one is unsure.

use crate::json::{MAX_CONFIG, parse_named};
use crate::remote::FolderGuard;
use crate::{ModelsError, is_model};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file that makes a folder a cascade.
pub const CASCADE_FILE: &str = "cascade.json";
/// The family of a cascade, as `caption.models()` shows it.
pub const CASCADE_FAMILY: &str = "cascade";

/// What becomes of a caption while the second model cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CascadeMeanwhile {
    /// It waits, as if there were no model.
    #[default]
    Wait,
    /// The first model's text is written, if it has one.
    Write,
}

/// The content of `cascade.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CascadeSettings {
    /// Name of the first model's folder, next to this one.
    pub first: String,
    /// Name of the second model's folder.
    pub then: String,
    /// Captions of the first model with a lower confidence go to the second, 0..=1.
    pub below: f32,
    /// What happens while the second model cannot serve.
    #[serde(default)]
    pub meanwhile: CascadeMeanwhile,
}

impl CascadeSettings {
    /// Reads `cascade.json` of a folder that has passed the check of its owners.
    ///
    /// # Errors
    /// [`ModelsError`] that names the file and what is wrong with it.
    pub fn of_folder(guard: &FolderGuard) -> Result<CascadeSettings, ModelsError> {
        let path = guard.folder().join(CASCADE_FILE);
        let wrong = |reason: String| ModelsError::content(&path, reason);
        let bytes = guard.read(CASCADE_FILE, MAX_CONFIG)?;
        let settings: CascadeSettings = parse_named(&bytes).map_err(wrong)?;
        if !(0.0..=1.0).contains(&settings.below) {
            return Err(wrong("\"below\" must be 0 to 1".into()));
        }
        for (field, name) in [("first", &settings.first), ("then", &settings.then)] {
            if name.is_empty() || name.starts_with('.') || name.contains('/') {
                return Err(wrong(format!("\"{field}\" must be the name of a model's folder")));
            }
        }
        Ok(settings)
    }

    /// The folders of both models, in a models directory.
    ///
    /// # Errors
    /// One of them has no model, or is a cascade itself.
    pub fn folders(&self, models: &Path) -> Result<[PathBuf; 2], ModelsError> {
        let folder = |name: &str| {
            let folder = models.join(name);
            match (is_cascade(&folder), is_model(&folder)) {
                (false, true) => Ok(folder),
                (true, _) => Err(ModelsError::content(&folder, "a cascade within a cascade")),
                (false, false) => Err(ModelsError::content(&folder, "no model is in this folder")),
            }
        };
        Ok([folder(&self.first)?, folder(&self.then)?])
    }
}

/// Whether a folder is a cascade.
pub fn is_cascade(folder: &Path) -> bool {
    folder.join(CASCADE_FILE).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(json: &str) -> Result<CascadeSettings, String> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("both");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(CASCADE_FILE), json).unwrap();
        let guard = FolderGuard::new(&folder, dir.path(), None).unwrap();
        CascadeSettings::of_folder(&guard).map_err(|error| error.to_string())
    }

    #[test]
    fn a_cascade_names_two_models_and_a_threshold() {
        let settings = read(r#"{"first": "default", "then": "gpu", "below": 0.8}"#).unwrap();
        assert_eq!((settings.below, settings.meanwhile), (0.8, CascadeMeanwhile::Wait));
        for (json, cause) in [
            (r#"{"first": "default", "then": "gpu"}"#, "below"),
            (r#"{"first": "default", "then": "gpu", "below": 2}"#, "\"below\" must be 0 to 1"),
            (r#"{"first": "../x", "then": "gpu", "below": 0.8}"#, "\"first\" must be the name"),
            (r#"{"first": "a", "then": "", "below": 0.8}"#, "\"then\" must be the name"),
            (r#"{"first": "a", "then": "b", "below": 1, "meanwhile": "x"}"#, "meanwhile"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(cause) && error.contains("cascade.json"), "{error}");
        }
    }

    #[test]
    fn both_folders_must_be_plain_models() {
        let dir = tempfile::tempdir().unwrap();
        let settings = CascadeSettings {
            first: "a".into(),
            then: "b".into(),
            below: 0.5,
            meanwhile: CascadeMeanwhile::Write,
        };
        let problem = || settings.folders(dir.path()).unwrap_err().to_string();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/config.json"), "{}").unwrap();
        assert!(problem().contains("b: no model"), "{}", problem());
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/cascade.json"), "{}").unwrap();
        assert!(problem().contains("within a cascade"), "{}", problem());
        fs::remove_file(dir.path().join("b/cascade.json")).unwrap();
        fs::write(dir.path().join("b/remote.json"), "{}").unwrap();
        assert_eq!(settings.folders(dir.path()).unwrap()[1], dir.path().join("b"));
    }
}
