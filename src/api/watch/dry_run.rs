//! What a watch would do, before there is one: its options checked and its rows selected, with the
//! rights of the caller.
//!
//! Called by `estimate` and `preview`. Writes nothing, and creates nothing.

use super::arguments::{RawArguments, WatchArguments, WatchOptions};
use super::{condition, context, image_column, plan, register};
use crate::api::FillTemplates;
use crate::pg::condition::{ConditionSource, ROW};
use crate::pg::table::{self, TableDescription};
use pg_caption_style::CaptionStyle;
use pgrx::AnyElement;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use std::ffi::CStr;

/// The arguments of `caption.estimate` and `caption.preview`. A NULL is what the watch of the table
/// has, or the default of a new one.
pub struct DryArguments<'a> {
    pub relation: Option<pg_sys::Oid>,
    pub image: Option<&'a str>,
    pub fills: Option<AnyElement>,
    pub condition: Option<&'a str>,
    pub base_url: Option<&'a str>,
}

/// A column that would be filled.
pub struct DryFill {
    pub column: String,
    /// With the limit of the column.
    pub style: CaptionStyle,
    pub max_tokens: u32,
    pub min_confidence: Option<f32>,
    pub templates: FillTemplates,
}

/// A watch that is not created.
pub struct DryRun {
    pub table: TableDescription,
    pub options: WatchOptions,
    pub fills: Vec<DryFill>,
    /// The image column holds pictures rather than URLs.
    pub holds_pictures: bool,
    condition: Option<String>,
}

impl DryRun {
    /// Raises where `caption.watch()` would. For a watched table the caller needs the rights of its
    /// owner: condition, base URL and templates of a watch are not for others.
    pub fn new(arguments: DryArguments<'_>, caller_path: &CStr) -> DryRun {
        let DryArguments { relation, image, fills, condition, base_url } = arguments;
        let arguments = WatchArguments::from(RawArguments {
            relation,
            image,
            fills,
            base_url,
            condition,
            replace: Some(true),
            ..RawArguments::default()
        });
        let table = table::describe(arguments.relation);
        plan::require_watchable(&table);
        let watch = register::options(table.oid, false);
        let watch = watch.or_else(|| register::options(table.oid, true));
        if watch.is_some() {
            table::require_ownership(&table);
        }
        // It keeps its columns while it is read.
        // SAFETY: a lock request in a transaction, which fails on no table.
        unsafe { pg_sys::LockRelationOid(table.oid, pg_sys::AccessShareLock as i32) };
        let options = arguments.options(watch);
        let image = table::column(&table, &options.image);
        let holds_pictures = image_column::require(&table, &image, &options);
        context::require(&table, &options);
        let source = match arguments.has_condition() {
            true => ConditionSource::User { search_path: caller_path },
            false => ConditionSource::Stored,
        };
        let condition = options.condition.as_deref().map(|text| {
            condition::parse(&table, text, source, ("condition", condition::HINT)).text
        });
        let fills = fills_of(&table, &options);
        DryRun { table, options, fills, holds_pictures, condition }
    }

    /// The image column of the row `t`.
    pub fn image(&self) -> String {
        format!("t.{}", quote_identifier(&self.options.image))
    }

    /// The `FROM` item of the table, and the condition that a row has a picture and satisfies the
    /// condition of the watch.
    pub fn rows(&self) -> String {
        let image = self.image();
        let has_picture = match self.holds_pictures {
            true => format!("octet_length({image}) > 0"),
            false => format!("{image}::text ~ '[^[:space:]]'"),
        };
        let condition = self.condition.as_ref().map(|text| format!(" AND ({text})"));
        format!(
            "{} AS {} WHERE {has_picture}{}",
            self.table.only(),
            ROW.to_string_lossy(),
            condition.unwrap_or_default()
        )
    }

    /// The condition that a text is missing.
    pub fn has_empty(&self) -> String {
        if self.options.overwrite {
            return "true".into();
        }
        let is_empty = |fill: &DryFill| {
            let column = format!("t.{}", quote_identifier(&fill.column));
            match self.options.keeps_blank {
                true => format!("{column} IS NULL"),
                false => format!("coalesce({column}::text, '') = ''"),
            }
        };
        let empty: Vec<String> = self.fills.iter().map(is_empty).collect();
        format!("({})", empty.join(" OR "))
    }
}

fn fills_of(table: &TableDescription, options: &WatchOptions) -> Vec<DryFill> {
    let columns = table::column_names(table.oid);
    let fill = |(column, fill): &(String, pg_caption_style::FillDefinition)| {
        let (mut style, fill) = plan::require_fill(table, column, fill, &options.image);
        if let Some(length) = table::column(table, column).max_length {
            style.rules.max_chars = style.rules.max_chars.min(length);
            style.rules.min_chars = style.rules.min_chars.min(length);
        }
        let templates = FillTemplates::read(&fill, &columns);
        DryFill {
            column: column.clone(),
            style,
            max_tokens: fill.max_tokens.unwrap_or(options.max_tokens as u32),
            min_confidence: fill.min_confidence.map(|confidence| confidence as f32),
            templates: templates.unwrap_or(FillTemplates { caption: None, fallback: None }),
        }
    };
    options.fills.iter().map(fill).collect()
}
