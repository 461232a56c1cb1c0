//! The default locations of the models and of the ONNX Runtime library. Used by `caption` and
//! `model`; the server receives its paths from the launcher.

use pg_caption_wire::EngineConfig;
use std::path::{Path, PathBuf};

/// The default model's folder.
///
/// # Errors
/// Where it was searched for.
pub fn model() -> Result<PathBuf, String> {
    let installed = executables()
        .into_iter()
        .flat_map(|dir| [dir.join("models/default"), dir.join("pg_caption/models/default")]);
    let candidates = environment("PG_CAPTION_MODEL")
        .into_iter()
        .chain(installed)
        .chain(checkout().map(|root| root.join("models/default")));
    first(candidates, pg_caption_models::is_model, "no model was found", "--model DIR")
}

/// The directory of model folders.
///
/// # Errors
/// Where it was searched for.
pub fn models() -> Result<PathBuf, String> {
    let installed = executables()
        .into_iter()
        .flat_map(|dir| [dir.join("models"), dir.join("pg_caption/models")]);
    let candidates = environment("PG_CAPTION_MODELS")
        .into_iter()
        .chain(installed)
        .chain(checkout().map(|root| root.join("models")));
    first(candidates, Path::is_dir, "no models directory was found", "--models DIR")
}

/// A model folder, or the folder of that name in the models directory.
///
/// # Errors
/// No such folder exists; the installed models are listed.
pub fn folder(model: &Path) -> Result<PathBuf, String> {
    if model.is_dir() {
        return model.canonicalize().map_err(|e| format!("{}: {e}", model.display()));
    }
    let models = models();
    let named = models.as_ref().ok().map(|models| models.join(model));
    if let Some(path) = named.filter(|path| model.components().count() == 1 && path.is_dir()) {
        return path.canonicalize().map_err(|e| format!("{}: {e}", path.display()));
    }
    if model.exists() {
        return Err(format!("{} is not a folder", model.display()));
    }
    let installed = match models {
        Ok(models) => {
            let found = pg_caption_models::scan(&models).map_err(|e| e.to_string())?;
            let names: Vec<String> = found.into_iter().map(|model| model.name).collect();
            match names.is_empty() {
                true => format!("{} has no model", models.display()),
                false => format!("there are {} in {}", names.join(", "), models.display()),
            }
        }
        Err(error) => error,
    };
    Err(format!("no such model: {}; {installed}", model.display()))
}

/// The given model's folder, else the default one's.
///
/// # Errors
/// As [`folder`] and [`model`].
pub fn folder_or_default(given: Option<&Path>) -> Result<PathBuf, String> {
    given.map_or_else(model, folder)
}

/// The configuration of an engine with the model of a folder, and the library that it needs.
///
/// # Errors
/// There is no such library.
pub fn config(model: PathBuf, onnxruntime: Option<&Path>) -> Result<EngineConfig, String> {
    Ok(EngineConfig {
        onnxruntime: library_for(&model, onnxruntime)?,
        models_directory: directory_of(&model),
        model,
        ..EngineConfig::default()
    })
}

/// The library that a model needs: the given one, else the installed one. A remote model needs
/// none.
///
/// # Errors
/// Where it was searched for.
fn library_for(model: &Path, given: Option<&Path>) -> Result<PathBuf, String> {
    match given {
        Some(path) => path.canonicalize().map_err(|e| format!("{}: {e}", path.display())),
        None if pg_caption_models::is_remote(model) => Ok(PathBuf::new()),
        None => library(),
    }
}

/// The directory that a model's folder is in. Who runs the command has chosen the folder, so this
/// is the models directory under which it must be.
fn directory_of(model: &Path) -> PathBuf {
    model.parent().unwrap_or(model).into()
}

/// The ONNX Runtime library.
///
/// # Errors
/// Where it was searched for.
fn library() -> Result<PathBuf, String> {
    let in_folder =
        |dir: PathBuf| library_in(&dir).unwrap_or_else(|| dir.join("libonnxruntime.so"));
    let folders = executables().into_iter().flat_map(|dir| [dir.clone(), dir.join("pg_caption")]);
    let run = checkout().map(|root| root.join(".run/onnxruntime"));
    let run = run.into_iter().flat_map(|dir| [dir.join("lib"), dir]);
    let candidates =
        environment("PG_CAPTION_ONNXRUNTIME").into_iter().chain(folders.chain(run).map(in_folder));
    first(candidates, Path::is_file, "the ONNX Runtime library was not found", "--onnxruntime PATH")
}

fn first(
    candidates: impl Iterator<Item = PathBuf>,
    fits: impl Fn(&Path) -> bool,
    message: &str,
    option: &str,
) -> Result<PathBuf, String> {
    let mut searched = Vec::new();
    for path in candidates {
        if fits(&path) {
            // The library loader and the model's name need a full path.
            return path.canonicalize().map_err(|e| format!("{}: {e}", path.display()));
        }
        searched.push(path.display().to_string());
    }
    Err(format!("{message}; searched {}; use {option}", searched.join(", ")))
}

/// A path from the environment, unless it is empty.
fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder of the executable, as called and with symbolic links resolved.
fn executables() -> Vec<PathBuf> {
    let Ok(path) = std::env::current_exe() else { return Vec::new() };
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    let mut folders: Vec<PathBuf> =
        [path, real].iter().filter_map(|p| p.parent()).map(Into::into).collect();
    folders.dedup();
    folders
}

/// The checkout in which this executable was built (`target/<profile>/`), if it is still there.
fn checkout() -> Option<PathBuf> {
    let root = executables().into_iter().find_map(|dir| {
        Some(
            dir.ancestors()
                .find(|a| a.file_name().is_some_and(|n| n == "target"))?
                .parent()?
                .into(),
        )
    });
    root.filter(|root: &PathBuf| root.join("Cargo.toml").is_file())
}

/// `libonnxruntime.so` or, with its version, `libonnxruntime.so.*` (the highest name).
fn library_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    entries
        .filter(|p| {
            p.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with("libonnxruntime.so"))
        })
        .max()
}
