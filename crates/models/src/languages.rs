//! The languages in which a model can be asked to write.
//!
//! A folder states them in `captions.json`, as `"languages": ["de", "fr"]`. A folder that states
//! none knows what its kind knows: models that follow instructions every language, others English.
//! A cascade knows the languages of its second model, which gets what the first cannot write.

use crate::cascade::{CASCADE_FILE, is_cascade};
use crate::installed::{CAPTIONS_FILE, CONFIG_FILE, is_remote};
use crate::json::{MAX_CONFIG, if_exists, model_type_of, read_file, read_json};
use crate::{ModelsError, family};
use pg_caption_language::LanguageTag;
use std::path::Path;

/// Families whose models follow instructions. Those of others have trained tasks, in English.
const INSTRUCTED: &[&str] = &["idefics3"];
/// The language of the models that only have trained tasks.
const TRAINED: &str = "en";

/// Whether models of this `model_type` follow instructions; others have trained tasks.
pub fn follows_instructions(model_type: &str) -> bool {
    family(model_type).is_some_and(|family| INSTRUCTED.contains(&family.name()))
}

/// The languages that a model knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelLanguages {
    /// It can be asked for any language.
    Any,
    /// These alone.
    Listed(Vec<LanguageTag>),
}

impl ModelLanguages {
    /// The languages of a folder.
    ///
    /// # Errors
    /// A file of the folder cannot be read, or lists what is no language.
    pub fn of_folder(folder: &Path) -> Result<ModelLanguages, ModelsError> {
        let path = folder.join(CAPTIONS_FILE);
        if let Some(bytes) = if_exists(read_file(&path, MAX_CONFIG))? {
            let wrong = |reason: String| ModelsError::content(&path, reason);
            let listed = pg_caption_style::languages_of_folder(&bytes);
            if let Some(listed) = listed.map_err(|error| wrong(error.to_string()))? {
                let tags = listed.iter().map(|tag| tag.parse::<LanguageTag>());
                let tags = tags.collect::<Result<Vec<_>, _>>();
                let tags = tags.map_err(|error| wrong(format!("\"languages\": {error}")))?;
                return Ok(ModelLanguages::Listed(tags));
            }
        }
        if is_cascade(folder) {
            return ModelLanguages::of_cascade(folder);
        }
        if is_remote(folder) {
            return Ok(ModelLanguages::Any);
        }
        let config = folder.join(CONFIG_FILE);
        let model_type = model_type_of(&read_json(&config)?, &config)?;
        Ok(match follows_instructions(&model_type) {
            true => ModelLanguages::Any,
            false => ModelLanguages::Listed(TRAINED.parse().into_iter().collect()),
        })
    }

    fn of_cascade(folder: &Path) -> Result<ModelLanguages, ModelsError> {
        let path = folder.join(CASCADE_FILE);
        let wrong = || ModelsError::content(&path, "\"then\" must be the name of a model's folder");
        let settings = read_json(&path)?;
        let then = settings.get("then").and_then(serde_json::Value::as_str).ok_or_else(wrong)?;
        let then = folder.parent().ok_or_else(wrong)?.join(then);
        match is_cascade(&then) {
            true => Err(wrong()),
            false => ModelLanguages::of_folder(&then),
        }
    }

    /// Whether a model that knows these can write in a language.
    pub fn knows(&self, language: &LanguageTag) -> bool {
        match self {
            ModelLanguages::Any => true,
            ModelLanguages::Listed(tags) => tags.iter().any(|tag| language.is_covered_by(tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn knows(folder: &Path, tag: &str) -> bool {
        ModelLanguages::of_folder(folder).unwrap().knows(&tag.parse().unwrap())
    }

    #[test]
    fn a_folder_knows_what_its_kind_or_its_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, file: &str, text: &str| {
            let folder = dir.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), text).unwrap();
            folder
        };
        for (kind, german) in [
            ("vision-encoder-decoder", false),
            ("florence2", false),
            ("smolvlm", true),
            ("idefics3", true),
        ] {
            let folder = put(kind, "config.json", &format!(r#"{{"model_type": "{kind}"}}"#));
            assert_eq!((knows(&folder, "de"), knows(&folder, "en-GB")), (german, true), "{kind}");
        }
        let server = put("server", "remote.json", "{}");
        let both = put("both", "cascade.json", r#"{"first": "florence2", "then": "server"}"#);
        assert!(knows(&server, "ja") && knows(&both, "ja"));
        put("server", "captions.json", r#"{"languages": ["de", "zh-Hant"]}"#);
        for folder in [&server, &both] {
            assert!(knows(folder, "de-AT") && knows(folder, "zh-TW"));
            assert!(!knows(folder, "zh") && !knows(folder, "en"));
        }
        put("server", "captions.json", r#"{"languages": ["german"]}"#);
        let error = ModelLanguages::of_folder(&server).unwrap_err().to_string();
        assert!(error.contains("captions.json") && error.contains("german"), "{error}");
    }
}
