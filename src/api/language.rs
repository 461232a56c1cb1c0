//! Languages of styles and fills: which texts are tags, and whether the model knows a language.
//!
//! Called by the SQL functions and by the worker. Reads small files of model folders.

use crate::api::style::{CommandTime, command_time};
use crate::engine::model_status;
use crate::pg::report::refuse;
use crate::settings;
use pg_caption_language::{LanguageTag, TagError};
use pg_caption_models::{InstalledModel, ModelLanguages, scan};
use pg_caption_style::CaptionStyle;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::path::PathBuf;

/// Names of models that a hint lists.
const MOST_NAMES: usize = 10;

/// `caption.is_language(tag)`, for constraints.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn is_language(tag: &str) -> bool {
    canonical(tag).is_ok()
}

/// The canonical form of a tag.
///
/// # Errors
/// [`TagError`].
pub fn canonical(tag: &str) -> Result<String, TagError> {
    Ok(tag.parse::<LanguageTag>()?.to_string())
}

/// Why the model cannot write a style's language.
pub struct LanguageProblem {
    model: String,
    language: LanguageTag,
    /// What it knows.
    known: Vec<LanguageTag>,
}

/// Why the model that serves, else the configured one, cannot write the language of a style;
/// `None`: it can, or its folder does not say.
pub fn problem(style: &CaptionStyle) -> Option<LanguageProblem> {
    let language: LanguageTag = style.language.as_deref()?.parse().ok()?;
    let folder = model_status::read().serving.unwrap_or_else(settings::model);
    let languages = languages_of(&folder);
    let ModelLanguages::Listed(known) = languages.filter(|all| !all.knows(&language))? else {
        return None;
    };
    let model = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Some(LanguageProblem { model, language, known })
}

/// The languages of a folder. A query over many rows reads them once.
fn languages_of(folder: &PathBuf) -> Option<ModelLanguages> {
    type ReadLanguages = (CommandTime, PathBuf, Option<ModelLanguages>);
    thread_local! {
        static LAST: RefCell<Option<ReadLanguages>> = const { RefCell::new(None) };
    }
    let now = command_time();
    LAST.with_borrow_mut(|last| match last {
        Some((time, path, languages)) if *time == now && path == folder => languages.clone(),
        _ => {
            let languages = ModelLanguages::of_folder(folder).ok();
            *last = Some((now, folder.clone(), languages.clone()));
            languages
        }
    })
}

impl LanguageProblem {
    /// What cannot be done, as a primary message.
    pub fn message(&self) -> String {
        format!("model \"{}\" does not know the language \"{}\"", self.model, self.language)
    }

    fn detail(&self) -> String {
        let known: Vec<&str> = self.known.iter().map(LanguageTag::as_str).collect();
        match known.is_empty() {
            true => "It lists no language.".into(),
            false => format!("It writes: {}.", known.join(", ")),
        }
    }

    /// The installed models that know the language.
    fn hint(&self) -> String {
        let knows = |model: &InstalledModel| {
            model.problem.is_none()
                && model.languages.as_ref().is_some_and(|known| known.knows(&self.language))
        };
        let models = scan(&settings::models_directory()).unwrap_or_default();
        let names: Vec<String> = models.into_iter().filter(knows).map(|model| model.name).collect();
        match names.is_empty() {
            true => "No installed model knows it: pg_caption_engine model pull OWNER/NAME \
                     installs one that follows instructions."
                .into(),
            false => format!(
                "Choose one that does with caption.use_model(): {}.",
                names[..names.len().min(MOST_NAMES)].join(", ")
            ),
        }
    }

    /// In one sentence, for `caption.progress`.
    pub fn sentence(&self) -> String {
        let hint = self.hint();
        let hint = hint.trim_end_matches('.');
        let (first, rest) = hint.split_at(hint.chars().next().map_or(0, char::len_utf8));
        format!("{}; {}{rest}", self.message(), first.to_lowercase())
    }
}

/// Raises an error unless the model knows the language of a style.
pub fn require(style: &CaptionStyle) {
    if let Some(problem) = problem(style) {
        refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            problem.message(),
            Some(problem.detail()),
            Some(problem.hint()),
        );
    }
}
