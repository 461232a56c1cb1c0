//! The arguments of `caption.watch` and its companions, checked without the catalogs.
//!
//! Called by `watch` and `control`.

use crate::api::{style, value};
use crate::pg::report::refuse;
use pgrx::prelude::*;
use pgrx::{AnyElement, JsonB};
use std::ffi::CStr;

/// Arguments as SQL passes them. The function is not STRICT: PostgreSQL would skip a call with a
/// NULL silently.
pub struct RawArguments<'a> {
    pub relation: Option<pg_sys::Oid>,
    pub image_url: Option<&'a CStr>,
    pub fills: Option<AnyElement>,
    pub max_tokens: Option<i32>,
    pub overwrite: Option<bool>,
    pub on_replica: Option<bool>,
}

/// The arguments of `caption.watch`.
pub struct WatchArguments {
    pub relation: pg_sys::Oid,
    /// The column of the URLs.
    pub image_url: String,
    /// Columns to fill, each with its style, in the order of the JSON object.
    pub fills: Vec<(String, String)>,
    pub max_tokens: i32,
    pub overwrite: bool,
    pub on_replica: bool,
}

/// Largest value of `fills`, bytes. A table has at most 1,600 columns.
const MAX_FILLS_BYTES: usize = 1 << 20;

const RELATION: &str = "It must be an existing table.";
const IMAGE_URL: &str = "It names the column of the URLs; the default is image_url.";
const FILLS: &str = "It maps columns to styles, e.g. '{\"alt\": \"concise\", \"seo\": \"seo\"}', \
                     which is the default.";
const MAX_TOKENS: &str = "It is 32 to 256; the default is 64.";
const FLAG: &str = "It is true or false, the default.";

impl From<RawArguments<'_>> for WatchArguments {
    /// Raises for a NULL and for an invalid value.
    fn from(raw: RawArguments<'_>) -> Self {
        let relation = require_relation(raw.relation);
        let image_url = require_value(raw.image_url, "image_url", IMAGE_URL);
        let fills = require_value(raw.fills, "fills", FILLS);
        if value::size(&fills) > MAX_FILLS_BYTES {
            refuse_fills("is too large");
        }
        let fills = require_value(value::read(&fills), "fills", FILLS);
        let max_tokens = require_value(raw.max_tokens, "max_tokens", MAX_TOKENS);
        let overwrite = require_value(raw.overwrite, "overwrite", FLAG);
        let on_replica = require_value(raw.on_replica, "on_replica", FLAG);
        style::max_tokens(max_tokens);
        WatchArguments {
            relation,
            image_url: image_url.to_string_lossy().into_owned(),
            fills: parse_fills(fills),
            max_tokens,
            overwrite,
            on_replica,
        }
    }
}

/// Raises for a NULL in place of the table.
pub fn require_relation(relation: Option<pg_sys::Oid>) -> pg_sys::Oid {
    require_value(relation, "relation", RELATION)
}

/// Raises for a NULL; `allowed` is the hint.
pub fn require_value<T>(value: Option<T>, name: &str, allowed: &str) -> T {
    value.unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("{name} must not be null"),
            None,
            Some(allowed.into()),
        )
    })
}

fn parse_fills(JsonB(fills): JsonB) -> Vec<(String, String)> {
    let Some(object) = fills.as_object() else { refuse_fills("must be a JSON object") };
    if object.is_empty() {
        refuse_fills("must name at least one column");
    }
    let fill = |(column, style): (&String, &serde_json::Value)| match style.as_str() {
        Some(style) => (column.clone(), style.to_owned()),
        None => refuse_fills("must name each style as a string"),
    };
    object.iter().map(fill).collect()
}

fn refuse_fills(problem: &str) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("fills {problem}"),
        None,
        Some(FILLS.into()),
    )
}
