//! `caption.use_model()`: chooses the server's model.
//!
//! Called by SQL. The setting is changed by PostgreSQL's ALTER SYSTEM, with its own check of
//! rights. The previous model serves until the new one does.

use super::models::skipped_files;
use crate::engine::model_status;
use crate::pg::report::{refuse, warn};
use crate::{engine::client, pg::latch, settings, shared};
use pg_caption_models::{InstalledModel, is_model, scan};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SETTING: &CStr = c"pg_caption.model";
/// Pause between reads of the model status while a caller waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// `caption.use_model(name, wait)`.
#[pg_extern(sql = false, volatile)]
fn use_model(name: &str, wait: bool) {
    shared::require_ready();
    require_right();
    let folder = find_folder(name);
    let reloads = model_status::read().reloads;
    alter_setting(name);
    reload_configuration();
    if wait {
        wait_until_serving(&folder, reloads);
        warn_about_skipped_files(name);
    }
}

/// Requires the right to ALTER SYSTEM this setting. Called before any folder is read.
fn require_right() {
    // SAFETY: look-ups in the catalogs, by a NUL-terminated name.
    let is_allowed = unsafe {
        pg_sys::superuser()
            || pg_sys::pg_parameter_aclcheck(
                SETTING.as_ptr(),
                pg_sys::GetUserId(),
                pg_sys::ACL_ALTER_SYSTEM as pg_sys::AclMode,
            ) == pg_sys::AclResult::ACLCHECK_OK
    };
    if !is_allowed {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to choose the model",
            None,
            Some(
                "A superuser can grant the right with \
                 GRANT ALTER SYSTEM ON PARAMETER pg_caption.model TO …."
                    .into(),
            ),
        );
    }
}

/// The folder of a model, or an error that lists the installed models.
fn find_folder(name: &str) -> PathBuf {
    let directory = settings::models_directory();
    // A plain name, which cannot leave the directory.
    let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    let folder = directory.join(name);
    if !(Path::new(name).is_absolute() || is_plain) || !is_model(&folder) {
        refuse_unknown_model(name, &directory);
    }
    if let Some(problem) = InstalledModel::at(&folder, &directory).problem {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("model \"{name}\" cannot be used"),
            Some(because(&problem)),
            Some(format!("For details run: pg_caption_engine model check {}.", folder.display())),
        );
    }
    folder
}

fn refuse_unknown_model(name: &str, directory: &Path) -> ! {
    let installed = scan(directory).unwrap_or_default().into_iter().map(|model| model.name);
    let mut names = installed.collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        names = "none".into();
    }
    refuse(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("model \"{name}\" does not exist"),
        Some(format!("Models in {}: {names}.", directory.display())),
        Some(
            "Give one of these names or an absolute path; \
             pg_caption_engine model pull OWNER/NAME installs another."
                .into(),
        ),
    )
}

/// Runs ALTER SYSTEM SET pg_caption.model, whose statement form may not run within a function.
fn alter_setting(name: &str) {
    let Ok(value) = CString::new(name) else {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a model name cannot contain NUL",
            None,
            None,
        )
    };
    // SAFETY: the literal is NUL-terminated and lives in the current memory context.
    let literal = unsafe { CStr::from_ptr(pg_sys::quote_literal_cstr(value.as_ptr())) };
    let statement = [b"ALTER SYSTEM SET ", SETTING.to_bytes(), b" = ", literal.to_bytes()].concat();
    let Ok(statement) = CString::new(statement) else { return };
    // SAFETY: the parser makes one RawStmt of one statement, an AlterSystemStmt by its text, in the
    // current memory context. AlterSystemSetConfigFile checks the right again, validates the value
    // and replaces the file in one step. Its errors pass through the guarded binding.
    unsafe {
        let parsed = pg_sys::pg_parse_query(statement.as_ptr());
        if parsed.is_null() || (*parsed).length != 1 {
            misparsed(&statement);
        }
        let node = (*(*(*parsed).elements).ptr_value.cast::<pg_sys::RawStmt>()).stmt;
        if (*node).type_ != pg_sys::NodeTag::T_AlterSystemStmt {
            misparsed(&statement);
        }
        pg_sys::AlterSystemSetConfigFile(node.cast());
    }
}

fn misparsed(statement: &CStr) -> ! {
    pgrx::error!(
        "\"{}\" was not parsed as one ALTER SYSTEM; this is a bug",
        statement.to_string_lossy()
    )
}

fn reload_configuration() {
    // SAFETY: the postmaster's process id, set before any backend exists; on SIGHUP every process
    // reads the configuration again.
    if unsafe { libc::kill(pg_sys::PostmasterPid, libc::SIGHUP) } != 0 {
        refuse(
            PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
            "the server's configuration could not be reloaded",
            Some(format!("{}.", std::io::Error::last_os_error())),
            Some("The setting was changed: SELECT pg_reload_conf() makes it effective.".into()),
        );
    }
}

/// Waits until the model serves and its predecessor has answered its last request. Raises the
/// reason if it cannot serve; the predecessor then goes on serving.
fn wait_until_serving(folder: &Path, reloads: u64) {
    loop {
        let status = model_status::read();
        if status.reloads != reloads {
            if status.wanted.as_deref() != Some(folder) {
                refuse_other_model(folder, status.wanted);
            }
            let is_serving = status.serving.as_deref() == Some(folder);
            if is_serving && status.loading.is_none() && !status.leaving {
                return;
            }
            if let Some((_, reason)) = status.refused.filter(|(path, _)| path == folder) {
                refuse_unusable_model(folder, reason, status.serving);
            }
        }
        latch::wait(None, Some(POLL_INTERVAL));
    }
}

fn refuse_other_model(folder: &Path, wanted: Option<PathBuf>) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("the configured model is not {}", folder.display()),
        wanted.map(|wanted| format!("The setting names {}.", wanted.display())),
        Some("The server's command line sets the model, or another session has changed it.".into()),
    )
}

/// The detail of a refusal.
fn because(reason: &str) -> String {
    format!("The reason is: {}.", reason.trim_end_matches('.'))
}

fn refuse_unusable_model(folder: &Path, reason: String, serving: Option<PathBuf>) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("model {} cannot be used", folder.display()),
        Some(because(&reason)),
        serving.map(|old| {
            format!(
                "{} goes on serving; choose it again before the server is restarted.",
                old.display()
            )
        }),
    )
}

fn warn_about_skipped_files(name: &str) {
    let model = client::status().ok().and_then(|status| status.model);
    if let Some(skipped) = model.as_ref().and_then(skipped_files) {
        warn(format!("model \"{name}\" serves, but {skipped}"), None, None);
    }
}
