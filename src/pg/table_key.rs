//! The key of a table: the columns by which a row is found again when its caption is written.
//!
//! Called by `api::watch`, in the caller's session and with a pinned `search_path`. Changes
//! nothing.

use crate::pg::report::{optional, refuse};
use crate::pg::table::{ColumnDescription, TableDescription};
use pgrx::prelude::*;

/// The best unique index over plain NOT NULL columns. `$2`: whether its uniqueness is checked
/// immediately or at the end of the transaction.
const BEST_KEY: &str = "\
    SELECT ARRAY(SELECT a.attname::text \
                   FROM unnest(i.indkey) WITH ORDINALITY k (attnum, ord) \
                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
                  WHERE k.ord <= i.indnkeyatts ORDER BY k.ord) \
      FROM pg_index i \
     WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate = $2 \
       AND i.indpred IS NULL AND i.indexprs IS NULL \
       AND NOT EXISTS (SELECT FROM pg_attribute a \
                        WHERE a.attrelid = i.indrelid AND NOT a.attnotnull \
                          AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) \
     ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1";

/// The columns of the primary key, else of the narrowest valid unique index over NOT NULL columns.
/// Raises if there is no such index.
pub fn key(table: &TableDescription) -> Vec<String> {
    if let Some(columns) = best_key(table, true) {
        return columns;
    }
    match best_key(table, false) {
        Some(columns) => refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the key of table {} is deferrable and cannot be used", table.name),
            Some(format!(
                "It is ({}). Within a transaction two rows may have the same key, \
                 and a caption could be written into the wrong row.",
                columns.join(", ")
            )),
            Some(
                "Make the constraint NOT DEFERRABLE (drop it and add it again), \
                 or add a unique index over NOT NULL columns."
                    .into(),
            ),
        ),
        None => refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} has no key", table.name),
            Some("Rows are found again by their key when the caption is written.".into()),
            Some("Add a primary key, or a unique index over NOT NULL columns.".into()),
        ),
    }
}

fn best_key(table: &TableDescription, immediate: bool) -> Option<Vec<String>> {
    let arguments = &[table.oid.into(), immediate.into()];
    let found: Option<Vec<String>> = optional(Spi::get_one_with_args(BEST_KEY, arguments));
    found.filter(|columns| !columns.is_empty())
}

/// Raises for a key column whose comparison operators are not PostgreSQL's own, and for one whose
/// text may change while its value stays the same.
pub fn require_comparable(table: &TableDescription, column: &ColumnDescription) {
    require_builtin_type(table, column);
    if let Some(unstable) = unstable_type(column) {
        refuse_unstable_type(table, column, &unstable);
    }
}

const HAS_BUILTIN_OPERATORS: &str = "\
    SELECT t.typnamespace = 'pg_catalog'::regnamespace::oid \
           OR t.typtype = ANY ('{e,r}'::\"char\"[]) \
      FROM pg_type t WHERE t.oid = $1";

/// Operators of other types could not be named safely, and their order is not that of the text.
fn require_builtin_type(table: &TableDescription, column: &ColumnDescription) {
    let arguments = &[column.base_type.into()];
    if optional(Spi::get_one_with_args(HAS_BUILTIN_OPERATORS, arguments)) != Some(true) {
        refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            describe(table, column),
            None,
            Some(
                "Keys of PostgreSQL's own types, their domains and ranges are supported. \
                 A unique index over NOT NULL columns of such types is enough."
                    .into(),
            ),
        );
    }
}

/// The first type with unstable text among the types that a type consists of: base type of a
/// domain, elements of an array, bounds of a range.
const UNSTABLE_TYPE: &str = "\
    WITH RECURSIVE part AS ( \
        SELECT $1::oid AS oid \
        UNION \
        SELECT x.oid \
          FROM part p \
          JOIN pg_type t ON t.oid = p.oid \
         CROSS JOIN LATERAL (VALUES \
               (t.typbasetype), \
               (CASE WHEN t.typcategory = 'A' THEN t.typelem END), \
               ((SELECT r.rngsubtype FROM pg_range r \
                  WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid))) AS x (oid) \
         WHERE x.oid <> 0) \
    SELECT CASE t.typtype WHEN 'e' THEN 'enum' ELSE t.typname::text END \
      FROM part p JOIN pg_type t ON t.oid = p.oid \
     WHERE t.typtype = 'e' \
        OR t.typnamespace = 'pg_catalog'::regnamespace::oid \
           AND (t.typname = 'money' OR t.typname::text LIKE 'reg%') LIMIT 1";

fn unstable_type(column: &ColumnDescription) -> Option<String> {
    optional(Spi::get_one_with_args(UNSTABLE_TYPE, &[column.base_type.into()]))
}

fn refuse_unstable_type(table: &TableDescription, column: &ColumnDescription, unstable: &str) -> ! {
    let (reason, replacement) = match unstable {
        "money" => ("the text of money depends on the locale".into(), "numeric"),
        "enum" => ("ALTER TYPE … RENAME VALUE changes the text of an enum".into(), "text"),
        _ => (format!("the text of {unstable} depends on names and the search_path"), "oid"),
    };
    refuse(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        describe(table, column),
        Some(format!("Rows are found again by the text of their key, and {reason}.")),
        Some(format!(
            "Use {replacement} instead, or add a unique index over other NOT NULL columns."
        )),
    )
}

fn describe(table: &TableDescription, column: &ColumnDescription) -> String {
    format!(
        "key column \"{}\" of table {} is of type {}",
        column.name, table.name, column.type_name
    )
}
