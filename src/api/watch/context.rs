//! The context of a watch: columns whose words the model gets as facts, and whose changes may be
//! followed; and the columns in which the empty text may stay.
//!
//! Called by `arguments` and `plan`, with the caller's rights. Changes nothing.

use super::arguments::WatchOptions;
use crate::api::{FillTemplates, style};
use crate::pg::report::{refuse, select_one};
use crate::pg::table::{self, TableDescription};
use pg_caption_queue::MAX_CONTEXT_COLUMNS;
use pg_caption_style::FillDefinition;
use pgrx::AnyElement;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::collections::BTreeSet;

const HINT: &str = "Name columns of the table, such as context => '{title,brand}'; '{}' takes the \
                    context away.";

/// The argument `context`, without repetitions; raises for NULLs and for too many columns.
pub fn parse(columns: &AnyElement) -> Vec<String> {
    // SAFETY: the value has the type that it is declared with.
    let argument = unsafe { DatumWithOid::new(columns.datum(), columns.oid()) };
    let read: Option<Vec<Option<String>>> = select_one("SELECT $1::text[]", &[argument]);
    let mut named = Vec::new();
    for column in read.into_iter().flatten() {
        let Some(column) = column else {
            refuse(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "context must not contain nulls",
                None,
                Some(HINT.into()),
            )
        };
        if !named.contains(&column) {
            named.push(column);
        }
    }
    if named.len() > MAX_CONTEXT_COLUMNS {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("context has {} columns", named.len()),
            Some(format!("At most {MAX_CONTEXT_COLUMNS} are possible.")),
            Some("Name those that say what the picture shows.".into()),
        );
    }
    named
}

/// Raises unless each context column can be read as words.
pub fn require(table: &TableDescription, options: &WatchOptions) {
    for name in &options.context {
        let column = table::column(table, name);
        let wrong = |detail: &str| -> ! {
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("column \"{name}\" of table {} cannot be context", table.name),
                Some(detail.into()),
                Some(HINT.into()),
            )
        };
        if column.base_type == pg_sys::BYTEAOID {
            wrong("It is of type bytea and has no words.");
        }
        if *name == options.image {
            wrong("The watch reads the picture from it.");
        }
        if options.fills.iter().any(|(fill, _)| fill == name) {
            wrong("The watch fills it.");
        }
    }
}

/// The columns whose change is followed: those of the context, and those in templates.
pub fn followed(table: &TableDescription, options: &WatchOptions) -> Vec<String> {
    if !options.follow_context {
        return Vec::new();
    }
    let columns = table::column_names(table.oid);
    let mut followed: BTreeSet<String> = options.context.iter().cloned().collect();
    let completed = |(_, fill): &(String, FillDefinition)| {
        let fill = fill.clone();
        match style::find(&fill.style) {
            Some(style) => fill.completed(&style),
            None => fill,
        }
    };
    let fills = options.fills.iter().map(completed);
    for templates in fills.filter_map(|fill| FillTemplates::read(&fill, &columns).ok()) {
        followed.extend(templates.columns().map(String::from));
    }
    followed.into_iter().collect()
}

/// Whether a column may not be NULL, or has a default other than NULL; by itself or its domain.
const ALWAYS_HAS_VALUE: &str = "\
    WITH RECURSIVE kind AS ( \
           SELECT t.oid, t.typnotnull, t.typdefault, t.typbasetype, t.typtype \
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
            WHERE a.attrelid = $1 AND a.attname = $2::name \
            UNION ALL \
           SELECT t.oid, t.typnotnull, t.typdefault, t.typbasetype, t.typtype \
             FROM kind k JOIN pg_type t ON t.oid = k.typbasetype WHERE k.typtype = 'd') \
    SELECT CASE WHEN a.attnotnull \
                  OR EXISTS (SELECT FROM kind k WHERE k.typtype = 'd' AND k.typnotnull) \
                THEN 'NOT NULL' \
                WHEN pg_get_expr(d.adbin, d.adrelid) !~ '^NULL(::.*)?$' \
                  OR d.adbin IS NULL \
                     AND EXISTS (SELECT FROM kind k WHERE k.typtype = 'd' \
                                    AND k.typdefault !~ '^NULL(::.*)?$') \
                THEN 'DEFAULT' END \
      FROM pg_attribute a \
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE a.attrelid = $1 AND a.attname = $2::name AND NOT a.attisdropped";

/// Why the empty text cannot stay in a column as a decision; `None`: it can.
pub fn obstacle_to_blank(relation: pg_sys::Oid, column: &str) -> Option<&'static str> {
    let found: Option<String> = select_one(ALWAYS_HAS_VALUE, &[relation.into(), column.into()]);
    Some(match found.as_deref()? {
        "NOT NULL" => "is NOT NULL",
        _ => "has a default other than NULL",
    })
}

/// Raises unless NULL and the empty text differ in each column to fill.
pub fn require_blanks(table: &TableDescription, options: &WatchOptions) {
    if !options.keeps_blank {
        return;
    }
    for (column, _) in &options.fills {
        let Some(obstacle) = obstacle_to_blank(table.oid, column) else { continue };
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("blank => 'keep' needs a nullable column: \"{column}\" {obstacle}"),
            Some("With it NULL is a text that is missing, and '' a decision.".into()),
            Some(format!(
                "ALTER TABLE {} ALTER {column} DROP NOT NULL, ALTER {column} DROP DEFAULT.",
                table.name,
                column = pgrx::spi::quote_identifier(column)
            )),
        );
    }
}
