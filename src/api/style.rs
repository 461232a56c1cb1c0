//! From a style's name to its definition: what users say in `caption.style`, else what the model's
//! folder says in `captions.json`, else the built-in one. The whole definition travels to the
//! engine, which keeps none.

use crate::pg::report::refuse;
use crate::{engine::model_status, settings};
use pg_caption_style::{CaptionStyle, MAX_TOKENS, MIN_TOKENS, StylePatch, builtin, builtin_names};
use pgrx::JsonB;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// The definition of a style, if there is one of that name.
pub fn find(name: &str) -> Option<CaptionStyle> {
    static LAST: Mutex<Option<(Moment, CaptionStyle)>> = Mutex::new(None);
    let moment = moment();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((then, style)) = last.as_ref()
        && *then == moment
        && style.name == name
    {
        return Some(style.clone());
    }
    // Whatever is raised below leaves nothing half done behind.
    *last = None;
    drop(last);
    let style = users_own(name)
        .or_else(|| of_the_model(|styles| styles.get(name).cloned()))
        .or_else(|| builtin(name))?;
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((moment, style.clone()));
    Some(style)
}

/// A time within which no table changes that this session can see: a query over many rows looks a
/// style up once.
type Moment = (i64, u32);

fn moment() -> Moment {
    // SAFETY: both read counters of this process.
    unsafe { (pg_sys::GetCurrentStatementStartTimestamp(), pg_sys::GetCurrentCommandId(false)) }
}

/// The definition of a style, or an error that lists what there is.
pub fn resolve(name: &str) -> CaptionStyle {
    match find(name) {
        Some(style) => style,
        None => {
            let own: Vec<String> = Spi::connect(|client| {
                let rows = client.select(
                    "SELECT name::text FROM caption.style ORDER BY name",
                    None,
                    &[],
                )?;
                rows.map(|row| row.get::<String>(1).map(Option::unwrap_or_default))
                    .collect::<Result<_, _>>()
            })
            .unwrap_or_else(|error: pgrx::spi::Error| pgrx::error!("{error}"));
            let mut all: Vec<String> = builtin_names().map(String::from).to_vec();
            for name in own
                .into_iter()
                .chain(of_the_model(|styles| styles.keys().cloned().collect::<Vec<_>>()))
            {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("unknown caption style \"{name}\""),
                Some(format!("Styles are: {}.", all.join(", "))),
                Some(
                    "User-defined styles are rows of caption.style. A model may define others."
                        .into(),
                ),
            )
        }
    }
}

/// Asks the styles that the model's folder brings along: of the model that serves, else of the one
/// that is to.
fn of_the_model<T>(ask: impl FnOnce(&BTreeMap<String, CaptionStyle>) -> T) -> T {
    type Known = (PathBuf, Option<SystemTime>, BTreeMap<String, CaptionStyle>);
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let folder = model_status::now().serving.unwrap_or_else(settings::model);
    let changed = std::fs::metadata(folder.join("captions.json")).and_then(|m| m.modified()).ok();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut problem = None;
    let (_, _, styles) = match known.take() {
        Some(same) if same.0 == folder && same.1 == changed => known.insert(same),
        _ => {
            let styles = pg_caption_models::styles_of(&folder).unwrap_or_else(|error| {
                problem = Some(error);
                BTreeMap::new()
            });
            known.insert((folder, changed, styles))
        }
    };
    let answer = ask(styles);
    drop(known);
    if let Some(error) = problem {
        // The model serves, so its folder was in order when it was loaded; its next loading will be
        // refused with this reason.
        pgrx::warning!("the styles of the model cannot be used: {error}");
    }
    answer
}

/// The row of `caption.style`, completed by the built-in style of that name.
fn users_own(name: &str) -> Option<CaptionStyle> {
    const ROW: &str = "SELECT pg_catalog.to_jsonb(s) FROM caption.style s \
                       WHERE name OPERATOR(pg_catalog.=) $1";
    let row = Spi::connect(|client| {
        let mut rows = client.select(ROW, Some(1), &[name.into()])?;
        rows.next().map_or(Ok(None), |row| row.get::<JsonB>(1))
    })
    .unwrap_or_else(|error: pgrx::spi::Error| pgrx::error!("{error}"));
    let Some(JsonB(serde_json::Value::Object(row))) = row else { return None };
    let patch = StylePatch::from_row(row).unwrap_or_else(|error| {
        pgrx::error!("style \"{name}\" in caption.style cannot be read: {error}")
    });
    Some(patch.apply(builtin(name).unwrap_or_else(|| CaptionStyle::with_defaults(name))))
}

/// `max_tokens` as the engine takes it, or an error that says what is allowed.
pub fn tokens(max_tokens: i32) -> u32 {
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
