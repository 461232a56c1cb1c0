//! The arguments of `caption.watch` and its companions, checked without the catalogs.
//!
//! Called by `watch` and `control`.

use super::{context, sign};
use crate::api::{language, style, value};
use crate::pg::report::refuse;
use pg_caption_queue::check_base_url;
use pg_caption_style::FillDefinition;
use pgrx::prelude::*;
use pgrx::{AnyElement, JsonB};
use serde_json::Value;

/// Arguments as SQL passes them. A NULL means: the default of a new watch, or what an existing one
/// has.
#[derive(Default)]
pub struct RawArguments<'a> {
    pub relation: Option<pg_sys::Oid>,
    pub image: Option<&'a str>,
    pub fills: Option<AnyElement>,
    pub max_tokens: Option<i32>,
    pub overwrite: Option<bool>,
    pub on_replica: Option<bool>,
    pub base_url: Option<&'a str>,
    pub sign: Option<pg_sys::Oid>,
    pub context: Option<AnyElement>,
    pub follow_context: Option<bool>,
    pub blank: Option<&'a str>,
    pub review: Option<bool>,
    pub condition: Option<&'a str>,
    pub notify: Option<&'a str>,
    pub replace: Option<bool>,
}

/// Columns to fill, by name.
pub type FillMap = Vec<(String, FillDefinition)>;

/// What a watch does.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchOptions {
    /// The column of the URLs.
    pub image: String,
    pub fills: FillMap,
    pub max_tokens: i32,
    pub overwrite: bool,
    pub on_replica: bool,
    pub base_url: Option<String>,
    /// The function that signs URLs, by its signature.
    pub sign: Option<String>,
    /// Columns whose words the model gets.
    pub context: Vec<String>,
    /// A change of such a column, or of a column in a template, changes texts.
    pub follow_context: bool,
    /// The empty text is a decision: only NULL is filled.
    pub keeps_blank: bool,
    /// Texts become drafts.
    pub review: bool,
    /// As the user wrote it if it is new, else as it is stored.
    pub condition: Option<String>,
    /// The channel that is notified of filled rows.
    pub notify: Option<String>,
}

impl Default for WatchOptions {
    fn default() -> Self {
        let fill = |(column, style): (&str, &str)| (column.into(), FillDefinition::of_style(style));
        WatchOptions {
            image: "image_url".into(),
            fills: [("alt", "concise"), ("seo", "seo")].map(fill).into(),
            max_tokens: 64,
            overwrite: false,
            on_replica: false,
            base_url: None,
            sign: None,
            context: Vec::new(),
            follow_context: false,
            keeps_blank: false,
            review: false,
            condition: None,
            notify: None,
        }
    }
}

/// The arguments of `caption.watch`.
pub struct WatchArguments {
    pub relation: pg_sys::Oid,
    image: Option<String>,
    fills: Option<FillMap>,
    max_tokens: Option<i32>,
    overwrite: Option<bool>,
    on_replica: Option<bool>,
    /// Empty: none.
    base_url: Option<String>,
    /// Empty: none.
    sign: Option<String>,
    /// No columns: none.
    context: Option<Vec<String>>,
    follow_context: Option<bool>,
    keeps_blank: Option<bool>,
    review: Option<bool>,
    /// Blank: none.
    condition: Option<String>,
    /// Empty: none.
    notify: Option<String>,
    replace: bool,
}

const RELATION: &str = "It must be an existing table.";
const FILLS: &str = "It maps columns to styles, e.g. '{\"alt\": \"concise\", \"seo\": \"seo\"}', \
                     which is the default, or to objects: '{\"seo\": {\"style\": \"seo\", \
                     \"max_tokens\": 128, \"min_confidence\": 0.5}}'.";
/// Longest name of a column, bytes: NAMEDATALEN - 1.
const MAX_COLUMN_NAME: usize = 63;
/// Largest value of `fills`, bytes. A table has at most 1,600 columns.
const MAX_FILLS_BYTES: usize = 1 << 20;
/// Longest base URL, bytes.
const MAX_BASE_URL: usize = 2000;

impl From<RawArguments<'_>> for WatchArguments {
    /// Raises for an invalid value.
    fn from(raw: RawArguments<'_>) -> Self {
        let relation = require_relation(raw.relation);
        raw.max_tokens.map(style::max_tokens);
        WatchArguments {
            relation,
            image: raw.image.map(column_name),
            fills: raw.fills.as_ref().map(parse_fills),
            max_tokens: raw.max_tokens,
            overwrite: raw.overwrite,
            on_replica: raw.on_replica,
            base_url: raw.base_url.map(parse_base_url),
            sign: raw.sign.map(|function| match function {
                // '-' as regprocedure.
                pg_sys::InvalidOid => String::new(),
                function => sign::require_signature(function),
            }),
            context: raw.context.as_ref().map(context::parse),
            follow_context: raw.follow_context,
            keeps_blank: raw.blank.map(parse_blank),
            review: raw.review,
            condition: raw.condition.map(str::to_owned),
            notify: raw.notify.map(parse_channel),
            replace: raw.replace.unwrap_or(false),
        }
    }
}

impl WatchArguments {
    /// The options of the watch. `before`: those that it has; `None`: it is new.
    pub fn options(&self, before: Option<WatchOptions>) -> WatchOptions {
        let is_new = before.is_none();
        let before = before.unwrap_or_default();
        let fills = match &self.fills {
            None => before.fills,
            Some(fills) if is_new || self.replace => fills.clone(),
            Some(fills) => merged(before.fills, fills),
        };
        let base_url = self.base_url.clone().or(before.base_url).filter(|base| !base.is_empty());
        let sign = self.sign.clone().or(before.sign).filter(|function| !function.is_empty());
        let condition = self.condition.clone().or(before.condition);
        WatchOptions {
            image: self.image.clone().unwrap_or(before.image),
            fills,
            max_tokens: self.max_tokens.unwrap_or(before.max_tokens),
            overwrite: self.overwrite.unwrap_or(before.overwrite),
            on_replica: self.on_replica.unwrap_or(before.on_replica),
            base_url,
            sign,
            context: self.context.clone().unwrap_or(before.context),
            follow_context: self.follow_context.unwrap_or(before.follow_context),
            keeps_blank: self.keeps_blank.unwrap_or(before.keeps_blank),
            review: self.review.unwrap_or(before.review),
            condition: condition.filter(|text| !text.trim().is_empty()),
            notify: self.notify.clone().or(before.notify).filter(|channel| !channel.is_empty()),
        }
    }

    /// Whether the condition is a new one, written by the caller.
    pub fn has_condition(&self) -> bool {
        self.condition.is_some()
    }
}

/// The fills of a watch with those of a call.
fn merged(mut fills: FillMap, added: &FillMap) -> FillMap {
    for (column, fill) in added {
        match fills.iter_mut().find(|(known, _)| known == column) {
            Some((_, known)) => known.clone_from(fill),
            None => fills.push((column.clone(), fill.clone())),
        }
    }
    fills
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

/// A name as PostgreSQL cuts it.
fn column_name(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_COLUMN_NAME)].to_owned()
}

fn parse_base_url(base: &str) -> String {
    let base = base.trim();
    let problem = match base {
        "" => None,
        base if base.len() > MAX_BASE_URL => Some("it is too long".into()),
        base => check_base_url(base).err().map(|error| error.to_string()),
    };
    if let Some(problem) = problem {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("base_url cannot be used: {problem}"),
            None,
            Some(
                "Give the URL in front of the column's values, such as \
                 https://cdn.example.com/media/, with a slash at its end."
                    .into(),
            ),
        );
    }
    base.to_owned()
}

/// Whether the empty text is a decision; an empty argument takes `keep` away.
fn parse_blank(blank: &str) -> bool {
    match blank {
        "keep" => true,
        "" => false,
        other => {
            let shown: String = other.chars().take(MAX_COLUMN_NAME).collect();
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("invalid value for blank: \"{shown}\""),
                None,
                Some(
                    "With 'keep' empty texts stay, and only NULL is filled; with '' both are \
                     filled."
                        .into(),
                ),
            )
        }
    }
}

/// Raises for a name that PostgreSQL would not take as a channel.
fn parse_channel(channel: &str) -> String {
    if channel.len() > MAX_COLUMN_NAME {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("notify is longer than {MAX_COLUMN_NAME} bytes"),
            None,
            Some("Give the name of a channel, such as captions, for LISTEN captions.".into()),
        );
    }
    channel.to_owned()
}

fn parse_fills(fills: &AnyElement) -> FillMap {
    if value::size(fills) > MAX_FILLS_BYTES {
        refuse_fills("is too large");
    }
    let Some(JsonB(Value::Object(object))) = value::read(fills) else {
        refuse_fills("must be a JSON object")
    };
    if object.is_empty() {
        refuse_fills("must name at least one column");
    }
    let fill = |(column, value): (&String, &Value)| match FillDefinition::from_json(value) {
        Ok(fill) => (column.clone(), with_language(column, fill)),
        Err(error) => {
            refuse_fills(&format!("cannot be used: the fill of column \"{column}\" {error}"))
        }
    };
    object.iter().map(fill).collect()
}

/// The fill with its language in canonical form.
fn with_language(column: &str, fill: FillDefinition) -> FillDefinition {
    let canonical = |tag: String| {
        language::canonical(&tag).unwrap_or_else(|error| {
            refuse_fills(&format!(
                "cannot be used: the fill of column \"{column}\" has a wrong language: {error}"
            ))
        })
    };
    FillDefinition { language: fill.language.map(canonical), ..fill }
}

fn refuse_fills(problem: &str) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("fills {problem}"),
        None,
        Some(FILLS.into()),
    )
}
