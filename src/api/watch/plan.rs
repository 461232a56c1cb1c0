//! The plan of a watch: its arguments, checked against the catalogs.
//!
//! Called by `watch`, with the caller's rights. Raises errors and warnings, changes nothing.

use super::arguments::WatchOptions;
use super::{condition, context, image_column, sign};
use crate::api::{FillTemplates, language, style};
use crate::pg::condition::{ConditionSource, RowCondition};
use crate::pg::report::{optional, refuse, warn};
use crate::pg::table::{self, ColumnDescription, TableDescription};
use crate::pg::table_key;
use crate::pg::triggers::{self, TriggerKey, TriggerSpec};
use pg_caption_style::{CaptionStyle, FillDefinition};
use pgrx::prelude::*;

/// Everything that `caption.watch` writes.
pub struct WatchPlan<'a> {
    pub options: &'a WatchOptions,
    pub table: TableDescription,
    /// Columns of the key.
    pub keys: Vec<String>,
    trigger_keys: Vec<TriggerKey>,
    /// The function that signs URLs.
    pub sign: Option<pg_sys::Oid>,
    /// The image column holds pictures rather than URLs.
    holds_pictures: bool,
    /// The condition of the watch.
    pub condition: Option<RowCondition>,
    /// Columns whose change is followed.
    pub followed: Vec<String>,
}

impl<'a> WatchPlan<'a> {
    /// Raises if the table cannot be watched with these arguments.
    /// `source`: how the condition was written.
    pub fn new(
        relation: pg_sys::Oid,
        options: &'a WatchOptions,
        source: ConditionSource<'_>,
    ) -> WatchPlan<'a> {
        let table = table::describe(relation);
        require_watchable(&table);
        require_local_partitions(&table);
        table::require_ownership(&table);
        table::require_no_other_watch(&table);
        table::require_no_children(&table);
        let image = table::column(&table, &options.image);
        let holds_pictures = image_column::require(&table, &image, options);
        for (column, fill) in &options.fills {
            require_fill(&table, column, fill, &options.image);
        }
        context::require(&table, options);
        context::require_blanks(&table, options);
        let followed = context::followed(&table, options);
        let keys = table_key::key(&table);
        let key_column = |name: &String| {
            let column = table::column(&table, name);
            table_key::require_comparable(&table, &column);
            TriggerKey { name: column.name, base_type: column.base_type }
        };
        let trigger_keys = keys.iter().map(key_column).collect();
        require_unkeyed(options, &keys);
        let sign = options.sign.as_deref().map(|signature| sign::require(&table, signature));
        let condition = options.condition.as_deref();
        let condition = condition.map(|text| condition::require(&table, text, source));
        WatchPlan { options, table, keys, trigger_keys, sign, holds_pictures, condition, followed }
    }

    /// Replaces the triggers of the table.
    pub fn replace_triggers(&self) {
        triggers::drop(self.table.oid, &self.table.name);
        triggers::create(&self.triggers());
        triggers::depend_on_code(self.table.oid, self.condition.as_ref(), self.sign);
    }

    fn triggers(&self) -> TriggerSpec<'_> {
        TriggerSpec {
            table: &self.table.name,
            is_partitioned: self.table.kind == "p",
            image: &self.options.image,
            holds_pictures: self.holds_pictures,
            fills: &self.options.fills,
            keys: &self.trigger_keys,
            overwrite: self.options.overwrite,
            on_replica: self.options.on_replica,
            condition: self.condition.as_ref(),
            followed: &self.followed,
            keeps_blank: self.options.keeps_blank,
            review: self.options.review,
        }
    }
}

/// Raises unless the relation is a permanent table of a user.
pub fn require_watchable(table: &TableDescription) {
    let wrong = |problem: String, detail: Option<&str>| -> ! {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            problem,
            detail.map(String::from),
            Some("Ordinary and partitioned tables can be watched.".into()),
        )
    };
    let kind = match table.kind.as_str() {
        "r" | "p" => None,
        "v" => Some("a view"),
        "m" => Some("a materialized view"),
        "f" => Some("a foreign table"),
        _ => Some("not a table"),
    };
    if let Some(kind) = kind {
        wrong(format!("{} is {kind}", table.name), None);
    }
    if table.is_temporary {
        let detail = "Its rows are visible in one session only.";
        wrong(format!("{} is a temporary table", table.name), Some(detail));
    }
    if table.is_extension_table {
        wrong(format!("{} is a table of pg_caption itself", table.name), None);
    }
}

/// Raises for a table with partitions on other servers. It has no primary key, and its triggers
/// would miss the rows that are written there.
fn require_local_partitions(table: &TableDescription) {
    const FOREIGN: &str = "\
        SELECT t.relid::regclass::text FROM pg_partition_tree($1::oid::regclass) t \
          JOIN pg_class c ON c.oid = t.relid WHERE c.relkind = 'f' ORDER BY 1 LIMIT 1";
    if table.kind != "p" {
        return;
    }
    let foreign: Option<String> = optional(Spi::get_one_with_args(FOREIGN, &[table.oid.into()]));
    if let Some(foreign) = foreign {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("{} has a partition on another server: {foreign}", table.name),
            Some("Rows that are written on that server would be missed.".into()),
            Some(
                "Watch each partition on the server where its rows are. Texts are seen through \
                 this table."
                    .into(),
            ),
        );
    }
}

/// The style of a fill, in its language, and the fill completed by it. Raises if the fill cannot be
/// used.
pub fn require_fill(
    table: &TableDescription,
    column: &str,
    fill: &FillDefinition,
    image: &str,
) -> (CaptionStyle, FillDefinition) {
    require_fillable(table, column, &fill.style, image);
    let style = style::resolve(&fill.style);
    let fill = fill.clone().completed(&style);
    require_templates(table, column, &fill);
    let style = CaptionStyle { language: fill.language.clone(), ..style };
    language::require(&style);
    (style, fill)
}

/// Raises if a template cannot be read, or names a column that the table lacks.
fn require_templates(table: &TableDescription, column: &str, fill: &FillDefinition) {
    if let Err(error) = FillTemplates::read(fill, &table::column_names(table.oid)) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("the fill of column \"{column}\" cannot be used: {error}"),
            None,
            Some(
                "A template is like '{title}: {caption}', a fallback like '{title}', with columns \
                 of the table."
                    .into(),
            ),
        );
    }
}

/// Raises unless captions can be written to the column.
fn require_fillable(table: &TableDescription, name: &str, style: &str, image: &str) {
    let min_chars = style::resolve(style).rules.min_chars;
    let column = table::column(table, name);
    table::require_text(table, &column);
    if column.is_generated {
        refuse(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("column \"{name}\" of table {} is generated", table.name),
            Some("A generated column cannot be written to.".into()),
            Some("Name another column in fills.".into()),
        );
    }
    warn_if_narrow(table, &column, style, min_chars);
    if name == image {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("column \"{name}\" cannot hold both the URL and its caption"),
            None,
            Some("Name another column in fills.".into()),
        );
    }
}

/// Warns if a column is shorter than the texts of its style: the worker cuts texts to fit.
fn warn_if_narrow(
    table: &TableDescription,
    column: &ColumnDescription,
    style: &str,
    min_chars: u32,
) {
    let Some(length) = column.max_length.filter(|length| *length < min_chars) else { return };
    warn(
        format!(
            "column \"{}\" of table {} holds {length} characters, \
             but style \"{style}\" writes at least {min_chars}",
            column.name, table.name
        ),
        Some(format!("Texts are cut to {length} characters.")),
        Some("Use a wider column, or a style with a smaller min_chars (see caption.style).".into()),
    );
}

/// Raises if a column to fill is part of the key.
fn require_unkeyed(options: &WatchOptions, keys: &[String]) {
    if let Some((name, _)) = options.fills.iter().find(|(name, _)| keys.contains(name)) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("column \"{name}\" is part of the key and cannot be filled"),
            None,
            None,
        );
    }
}
