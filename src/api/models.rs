//! `caption.models()` and `caption.use_model()`: which models are here, and which one is used.
//!
//! What is installed is read from the models directory, names and sizes only; what a model amounts
//! to is asked of the engine that has loaded it. Both also answer where no engine does. The setting
//! is changed by PostgreSQL's own ALTER SYSTEM, with its own check of rights.

use crate::engine::model_status::{self, Exchange};
use crate::pg::report::refuse;
use crate::{engine::client, pg::latch, settings, shared};
use pg_caption_models::{InstalledModel, family, graph_file, scan};
use pg_caption_wire::ModelStatus;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde_json::json;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SETTING: &CStr = c"pg_caption.model";
/// Patience with an engine that does not answer: a list must come soon.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at what the launcher says, while somebody waits for a model.
const LOOK: Duration = Duration::from_millis(50);

/// The folders of the models directory, and those named by an absolute path elsewhere.
fn installed(exchange: &Exchange) -> Vec<InstalledModel> {
    let directory = settings::models_directory();
    // A directory that cannot be read has no models; the ones in use are listed all the same.
    let mut all = scan(&directory).unwrap_or_default();
    let refused = exchange.refused.iter().map(|(path, _)| path);
    let named =
        exchange.serving.iter().chain(&exchange.coming).chain(refused).chain(&exchange.wanted);
    for path in named {
        if all.iter().all(|model| model.path != *path) {
            all.push(InstalledModel::at(path));
        }
    }
    all
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
    let exchange = model_status::now();
    // Only an engine that has a model can say more than the folders do.
    let status =
        exchange.serving.as_ref().and_then(|_| client::status(Instant::now() + PATIENCE).ok());
    let rows: Vec<_> = installed(&exchange)
        .into_iter()
        .map(|mut model| {
            let at = |path: &Option<PathBuf>| path.as_deref() == Some(&model.path);
            let refused = exchange.refused.as_ref().filter(|(path, _)| *path == model.path);
            let (active, problem) = (at(&exchange.serving), model.problem.take());
            let (state, problem) = match (active, at(&exchange.coming), refused, problem) {
                (true, _, _, _) => ("serving", None),
                (_, true, _, _) => ("loading", None),
                (_, _, Some((_, reason)), _) => ("failed", Some(reason.clone())),
                (_, _, _, Some(problem)) => ("unusable", Some(problem)),
                _ => ("installed", None),
            };
            // The engine may have been exchanged since the launcher spoke.
            let loaded = status
                .as_ref()
                .filter(|s| active && s.model.as_ref().is_some_and(|m| m.name == model.name));
            let details = loaded.and_then(|s| s.model.as_ref());
            if let Some(details) = details {
                only_used(&mut model, details);
            }
            // It serves, but not as its folder means it to.
            let problem = problem.or_else(|| details.and_then(passed_over));
            (
                model.name,
                active,
                state.to_string(),
                details.map(|m| m.family.clone()).or(model.model_type),
                model.bytes as i64,
                JsonB(json!(model.graphs)),
                details.map(|m| m.digest.clone()),
                loaded.map(|s| s.rss as i64),
                model.styles,
                problem,
                model.path.display().to_string(),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// Leaves the graphs and precisions that were loaded; those that are only installed serve nobody.
fn only_used(model: &mut InstalledModel, details: &ModelStatus) {
    let Some(family) = model.model_type.as_deref().and_then(family) else { return };
    let graphs = family.all_graphs();
    let used = details.graphs.iter().filter_map(|graph| graph_file(&graph.file, &graphs));
    model.graphs =
        used.map(|named| (named.graph.to_owned(), vec![named.dtype.to_owned()])).collect();
}

/// What a loaded model could not use of its folder, in words.
fn passed_over(model: &ModelStatus) -> Option<String> {
    (!model.passed_over.is_empty())
        .then(|| format!("of no use and passed over: {}", model.passed_over.join("; ")))
}

/// `caption.use_model(name, wait)`.
#[pg_extern(sql = false, volatile)]
fn use_model(name: &str, wait: bool) {
    shared::require_ready();
    require_right();
    let folder = folder(name);
    let before = model_status::now().reloads;
    set(name);
    // SAFETY: the postmaster's process id, set before any backend exists; SIGHUP makes it and every
    // process read the configuration again.
    if unsafe { libc::kill(pg_sys::PostmasterPid, libc::SIGHUP) } != 0 {
        refuse(
            PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
            "the server could not be told to read its configuration",
            Some(std::io::Error::last_os_error().to_string()),
            Some("The setting was changed: SELECT pg_reload_conf() makes it effective.".into()),
        );
    }
    if wait {
        wait_for(&folder, before);
        let serving =
            client::status(Instant::now() + PATIENCE).ok().and_then(|status| status.model);
        if let Some(problem) = serving.as_ref().and_then(passed_over) {
            pgrx::warning!("model \"{name}\" serves, but not with all of its files: {problem}");
        }
    }
}

/// Who may say ALTER SYSTEM of this setting; asked before any folder is looked at.
fn require_right() {
    // SAFETY: look-ups in the catalogs, by a NUL-terminated name.
    let allowed = unsafe {
        pg_sys::superuser()
            || pg_sys::pg_parameter_aclcheck(
                SETTING.as_ptr(),
                pg_sys::GetUserId(),
                pg_sys::ACL_ALTER_SYSTEM as pg_sys::AclMode,
            ) == pg_sys::AclResult::ACLCHECK_OK
    };
    if !allowed {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to choose the model",
            None,
            Some("A superuser can give the right: GRANT ALTER SYSTEM ON PARAMETER pg_caption.model TO …".into()),
        );
    }
}

/// The folder of that name, or an error that says what there is.
fn folder(name: &str) -> PathBuf {
    let directory = settings::models_directory();
    let absolute = Path::new(name).is_absolute();
    // A name, not a way out of the directory.
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    let folder = directory.join(name);
    if !(absolute || plain) || !folder.join("config.json").is_file() {
        let mut there: Vec<String> =
            scan(&directory).unwrap_or_default().into_iter().map(|model| model.name).collect();
        if there.is_empty() {
            there.push("none".into());
        }
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("there is no model \"{name}\""),
            Some(format!("Models in {}: {}.", directory.display(), there.join(", "))),
            Some("Give one of these names or an absolute path; pg_caption_engine model pull OWNER/NAME installs another.".into()),
        );
    }
    if let Some(problem) = InstalledModel::at(&folder).problem {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("model \"{name}\" cannot be used"),
            Some(problem),
            Some(format!("pg_caption_engine model check {} says more.", folder.display())),
        );
    }
    folder
}

/// ALTER SYSTEM SET pg_caption.model, as the statement would do it; the statement itself may not
/// run within a function.
fn set(name: &str) {
    let Ok(value) = CString::new(name) else {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a name cannot hold NUL",
            None,
            None,
        )
    };
    // SAFETY: the literal is NUL-terminated and lives in the current memory context.
    let literal = unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(value.as_ptr())) }
        .to_string_lossy()
        .into_owned();
    let Ok(statement) =
        CString::new(format!("ALTER SYSTEM SET {} = {literal}", SETTING.to_string_lossy()))
    else {
        return;
    };
    // SAFETY: the parser makes one RawStmt of one statement, which is an AlterSystemStmt by its
    // text; all of it lives in the current memory context. AlterSystemSetConfigFile checks the
    // right once more, validates the value and replaces the file in one step; what it raises passes
    // through the guarded binding.
    unsafe {
        let parsed = pg_sys::pg_parse_query(statement.as_ptr());
        if parsed.is_null() || (*parsed).length != 1 {
            pgrx::error!(
                "\"{}\" was not read as one statement; this is a bug",
                statement.to_string_lossy()
            );
        }
        let node = (*(*(*parsed).elements).ptr_value.cast::<pg_sys::RawStmt>()).stmt;
        if (*node).type_ != pg_sys::NodeTag::T_AlterSystemStmt {
            pgrx::error!(
                "\"{}\" was not read as ALTER SYSTEM; this is a bug",
                statement.to_string_lossy()
            );
        }
        pg_sys::AlterSystemSetConfigFile(node.cast());
    }
}

/// Waits until the model serves, and the one before it has answered its last request; or raises why
/// it does not. The old one serves meanwhile, and goes on if this one cannot.
fn wait_for(folder: &Path, before: u64) {
    loop {
        let now = model_status::now();
        if now.reloads != before {
            if now.wanted.as_deref() != Some(folder) {
                refuse(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("the model is not {}", folder.display()),
                    now.wanted.map(|wanted| format!("The setting names {}.", wanted.display())),
                    Some("It is given on the server's command line, or was changed by somebody else.".into()),
                );
            }
            if now.serving.as_deref() == Some(folder) && now.coming.is_none() && !now.leaving {
                return;
            }
            if let Some((_, reason)) = now.refused.filter(|(path, _)| path == folder) {
                refuse(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("model {} cannot be used", folder.display()),
                    Some(reason),
                    now.serving.map(|old| {
                        format!(
                            "{} goes on serving; choose it again before the server is restarted.",
                            old.display()
                        )
                    }),
                );
            }
        }
        latch::wait(None, Some(LOOK));
    }
}
