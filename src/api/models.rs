//! `caption.models()`: which models are installed, and which one serves.
//!
//! Called by SQL. Reads names and sizes in the models directory; details come from the engine that
//! has loaded a model. Answers without an engine, too.

use crate::engine::model_status::{self, ModelSwap};
use crate::{engine::client, settings, shared};
use pg_caption_models::{InstalledModel, family, graph_file, scan};
use pg_caption_wire::{EngineStatus, ModelStatus};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::json;
use std::path::PathBuf;

/// The models in the models directory, and those that the launcher names by another path.
fn installed(swap: &ModelSwap) -> Vec<InstalledModel> {
    // An unreadable directory has no models; those that the launcher names are listed all the same.
    let directory = settings::models_directory();
    let mut models = scan(&directory).unwrap_or_default();
    let refused = swap.refused.iter().map(|(path, _)| path);
    let named = swap.serving.iter().chain(&swap.loading).chain(refused).chain(&swap.wanted);
    for path in named {
        if models.iter().all(|model| model.path != *path) {
            models.push(InstalledModel::at(path, &directory));
        }
    }
    models
}

/// A row of `caption.models()`.
struct ModelRow {
    model: InstalledModel,
    is_serving: bool,
    state: &'static str,
    problem: Option<String>,
    /// What the engine reports, if it serves this model.
    details: Option<ModelStatus>,
    memory: Option<u64>,
}

impl ModelRow {
    fn new(mut model: InstalledModel, swap: &ModelSwap, engine: Option<&EngineStatus>) -> ModelRow {
        let is_at = |path: &Option<PathBuf>| path.as_deref() == Some(&model.path);
        let is_serving = is_at(&swap.serving);
        let is_loading = is_at(&swap.loading);
        let refused = swap.refused.as_ref().filter(|(path, _)| *path == model.path);
        let (state, problem) = match (refused, model.problem.take()) {
            _ if is_serving => ("serving", None),
            _ if is_loading => ("loading", None),
            (Some((_, reason)), _) => ("failed", Some(reason.clone())),
            (None, Some(problem)) => ("unusable", Some(problem)),
            (None, None) => ("installed", None),
        };
        // The engine may have been replaced since the launcher published its status.
        let engine = engine.filter(|_| is_serving);
        let details = engine.and_then(|engine| engine.model.clone());
        let details = details.filter(|details| details.name == model.name);
        let memory = engine.filter(|_| details.is_some()).map(|engine| engine.rss);
        if let Some(details) = &details {
            retain_loaded_graphs(&mut model, details);
        }
        let problem = problem
            .or_else(|| details.as_ref().and_then(skipped_files))
            .or_else(|| details.as_ref().and_then(server_trouble));
        ModelRow { model, is_serving, state, problem, details, memory }
    }
}

/// Keeps the graphs and precisions that the engine has loaded.
fn retain_loaded_graphs(model: &mut InstalledModel, details: &ModelStatus) {
    let Some(family) = model.model_type.as_deref().and_then(family) else { return };
    let graphs = family.all_graphs();
    let Some(local) = &details.local else { return };
    let loaded = local.graphs.iter().filter_map(|graph| graph_file(&graph.file, &graphs));
    model.graphs =
        loaded.map(|named| (named.graph.to_owned(), vec![named.dtype.to_owned()])).collect();
}

/// Which files of its folder a serving model could not use, as text; `None`: it uses all.
pub fn skipped_files(model: &ModelStatus) -> Option<String> {
    let skipped = model.skipped_graphs();
    (!skipped.is_empty()).then(|| format!("skipped unusable files: {}", skipped.join("; ")))
}

/// Why the server of a serving remote model answers no requests now.
fn server_trouble(model: &ModelStatus) -> Option<String> {
    let trouble = model.remote.as_ref()?.trouble.as_ref()?;
    Some(match &trouble.detail {
        Some(detail) => format!("{}: {detail}", trouble.message),
        None => trouble.message.clone(),
    })
}

/// `caption.models()`.
#[pg_extern(sql = false, volatile, parallel_safe)]
#[allow(clippy::type_complexity)]
fn models() -> TableIterator<
    'static,
    (
        name!(name, String),
        name!(active, bool),
        name!(state, String),
        name!(family, Option<String>),
        name!(bytes, i64),
        name!(graphs, JsonB),
        name!(digest, Option<String>),
        name!(memory, Option<i64>),
        name!(styles, Vec<String>),
        name!(problem, Option<String>),
        name!(path, String),
    ),
> {
    shared::require_ready();
    let swap = model_status::read();
    // Only an engine with a model knows more than the folders show.
    let engine = swap.serving.as_ref().and_then(|_| client::status().ok());
    let rows: Vec<_> = installed(&swap)
        .into_iter()
        .map(|model| {
            let row = ModelRow::new(model, &swap, engine.as_ref());
            let ModelRow { model, is_serving, state, problem, details, memory } = row;
            let (family, digest) = details.map(|details| (details.family, details.digest)).unzip();
            (
                model.name,
                is_serving,
                state.to_string(),
                family.or(model.model_type),
                model.bytes as i64,
                JsonB(json!(model.graphs)),
                digest,
                memory.map(|bytes| bytes as i64),
                model.styles,
                problem,
                model.path.display().to_string(),
            )
        })
        .collect();
    TableIterator::new(rows)
}
