//! `model list`: the contents of the models directory, by names and sizes. Opens no graph.

use super::{ListArgs, size};
use crate::cli::locate;
use pg_caption_language::LanguageTag;
use pg_caption_models::{InstalledModel, ModelLanguages, scan};
use serde_json::json;

/// Runs it. Returns whether every folder is usable.
///
/// # Errors
/// There is no models directory, or it cannot be read.
pub fn run(options: &ListArgs) -> Result<bool, String> {
    let models = match &options.models {
        Some(models) => models.clone(),
        None => locate::models()?,
    };
    let installed = scan(&models).map_err(|e| e.to_string())?;
    if installed.is_empty() && !options.json {
        println!("no model in {}", models.display());
    }
    for model in &installed {
        println!("{}", if options.json { as_json(model) } else { as_text(model) });
    }
    Ok(installed.iter().all(|model| model.problem.is_none()))
}

fn as_json(model: &InstalledModel) -> String {
    let InstalledModel { name, path, model_type, bytes, graphs, styles, languages, problem } =
        model;
    json!({
        "name": name,
        "path": path,
        "family": model_type,
        "bytes": bytes,
        "graphs": graphs,
        "styles": styles,
        "languages": listed(languages.as_ref()),
        "problem": problem,
    })
    .to_string()
}

/// The languages of a model; `None`: all, or its files do not say.
fn listed(languages: Option<&ModelLanguages>) -> Option<Vec<&str>> {
    match languages? {
        ModelLanguages::Any => None,
        ModelLanguages::Listed(tags) => Some(tags.iter().map(LanguageTag::as_str).collect()),
    }
}

fn as_text(model: &InstalledModel) -> String {
    let mut text = format!(
        "{}  {}  {}",
        model.name,
        model.model_type.as_deref().unwrap_or("?"),
        size(model.bytes)
    );
    for (graph, dtypes) in &model.graphs {
        text += &format!("\n  {graph}: {}", dtypes.join(", "));
    }
    if !model.styles.is_empty() {
        text += &format!("\n  own styles: {}", model.styles.join(", "));
    }
    if let Some(problem) = &model.problem {
        text += &format!("\n  cannot be used: {problem}");
    }
    text
}
