//! Resolves the name of a style to its definition: a row of `caption.style`, else `captions.json`
//! in the model's folder, else the built-in style.
//!
//! Called by the SQL functions and by the worker, with a pinned `search_path`. The whole definition
//! is sent to the engine, which stores none.

use crate::pg::report::{refuse, select_one, spi};
use crate::{api::language, engine::model_status, settings};
use pg_caption_style::{
    CaptionStyle, MAX_NAME, MAX_TOKENS, MIN_TOKENS, StylePatch, builtin, builtin_names, row_problem,
};
use pgrx::JsonB;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

type StyleMap = BTreeMap<String, CaptionStyle>;

/// The definition of a style; `None` if no style has this name.
pub fn find(name: &str) -> Option<CaptionStyle> {
    if name.len() > MAX_NAME {
        return None;
    }
    static LAST: Mutex<Option<(CommandTime, CaptionStyle)>> = Mutex::new(None);
    let now = command_time();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((time, style)) = last.as_ref()
        && *time == now
        && style.name == name
    {
        return Some(style.clone());
    }
    // Not locked during the look-up, which may raise an error.
    *last = None;
    drop(last);
    let mut style = user_style(name)
        .or_else(|| with_model_styles(|styles| styles.get(name).cloned()))
        .or_else(|| builtin(name))?;
    if let Some(tag) = &mut style.language
        && let Ok(canonical) = language::canonical(tag)
    {
        *tag = canonical;
    }
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, style.clone()));
    Some(style)
}

/// A time during which the tables that this session sees stay the same. A query over many rows
/// looks a style up once.
pub type CommandTime = (i64, u32);

/// The time of the present command.
pub fn command_time() -> CommandTime {
    // SAFETY: both read counters of this process.
    unsafe { (pg_sys::GetCurrentStatementStartTimestamp(), pg_sys::GetCurrentCommandId(false)) }
}

/// Bytes of an unknown name that an error shows.
const MAX_SHOWN: usize = 200;

/// The definition of a style, or an error that lists all styles.
pub fn resolve(name: &str) -> CaptionStyle {
    find(name).unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("unknown caption style \"{}\"", &name[..name.floor_char_boundary(MAX_SHOWN)]),
            Some(format!("Styles are: {}.", all_names().join(", "))),
            Some(
                "User-defined styles are rows of caption.style. A model may define others.".into(),
            ),
        )
    })
}

/// The names of all styles: built-in ones, those of users, those of the model.
fn all_names() -> Vec<String> {
    let of_users: Vec<String> = spi(Spi::connect(|client| {
        let rows = client.select("SELECT name FROM caption.style ORDER BY name", None, &[])?;
        rows.map(|row| row.get::<String>(1).map(Option::unwrap_or_default)).collect()
    }));
    let of_model: Vec<String> = with_model_styles(|styles| styles.keys().cloned().collect());
    let mut names: Vec<String> = builtin_names().map(String::from).to_vec();
    for name in of_users.into_iter().chain(of_model) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Passes the styles in the model's folder to `read`: of the serving model, else of the configured
/// one. The folder is read again when its file has changed.
fn with_model_styles<T>(read: impl FnOnce(&StyleMap) -> T) -> T {
    type FolderStyles = (PathBuf, Option<SystemTime>, StyleMap);
    static CACHE: Mutex<Option<FolderStyles>> = Mutex::new(None);
    let folder = model_status::read().serving.unwrap_or_else(settings::model);
    let changed = std::fs::metadata(folder.join("captions.json")).and_then(|m| m.modified()).ok();
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut problem = None;
    let (_, _, styles) = match cache.take() {
        Some(cached) if cached.0 == folder && cached.1 == changed => cache.insert(cached),
        _ => {
            let styles = pg_caption_models::styles_of(&folder).unwrap_or_else(|error| {
                problem = Some(error);
                StyleMap::new()
            });
            cache.insert((folder, changed, styles))
        }
    };
    let result = read(styles);
    drop(cache);
    if let Some(error) = problem {
        // The folder was valid when the model was loaded. The next load will fail with this error.
        pgrx::warning!("the styles of the model cannot be used: {error}");
    }
    result
}

const USER_STYLE: &str = "SELECT to_jsonb(s) FROM caption.style s WHERE name = $1";

/// A row of `caption.style`, completed by the built-in style of that name.
fn user_style(name: &str) -> Option<CaptionStyle> {
    let row: Option<JsonB> = select_one(USER_STYLE, &[name.into()]);
    let JsonB(Value::Object(row)) = row? else { return None };
    let patch = StylePatch::from_row(row).unwrap_or_else(|error| {
        pgrx::error!("style \"{name}\" in caption.style cannot be read: {error}")
    });
    Some(patch.completed(name))
}

/// `caption.style_problem(style)`, for the trigger of `caption.style`.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn style_problem(style: JsonB) -> Option<String> {
    let JsonB(Value::Object(row)) = style else { return Some("the style is no row".into()) };
    let tag = row.get("language").and_then(Value::as_str);
    let language = tag.and_then(|tag| language::canonical(tag).err());
    row_problem(row).or_else(|| language.map(|error| error.to_string()))
}

/// `max_tokens` as the engine takes it, or an error that states the range.
pub fn max_tokens(max_tokens: i32) -> u32 {
    match u32::try_from(max_tokens) {
        Ok(tokens) if (MIN_TOKENS..=MAX_TOKENS).contains(&tokens) => tokens,
        _ => refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("max_tokens {max_tokens} is out of range"),
            Some(format!("It must be {MIN_TOKENS} to {MAX_TOKENS}.")),
            None,
        ),
    }
}
