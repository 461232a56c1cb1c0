//! Checks the image column of a watch: URLs, or the pictures themselves. A column with several
//! pictures a row is refused with the statements that give each picture a row of its own.
//!
//! Called by `plan`, with the caller's rights.

use super::arguments::WatchOptions;
use crate::pg::report::{refuse, select_one};
use crate::pg::table::{self, ColumnDescription, TableDescription};
use crate::pg::table_key;
use pgrx::prelude::*;

/// Whether the column holds pictures (bytea) rather than URLs; raises if it holds neither.
pub fn require(
    table: &TableDescription,
    column: &ColumnDescription,
    options: &WatchOptions,
) -> bool {
    let elements = match column.base_type {
        pg_sys::BYTEAOID => {
            require_no_url_options(table, column, options);
            return true;
        }
        pg_sys::TEXTARRAYOID | pg_sys::VARCHARARRAYOID => Elements::Array,
        pg_sys::JSONBOID => Elements::Json("jsonb_array_elements"),
        pg_sys::JSONOID => Elements::Json("json_array_elements"),
        _ => {
            table::require_text(table, column);
            return false;
        }
    };
    refuse(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!(
            "column \"{}\" of table {} is of type {}: a row may have several pictures",
            column.name, table.name, column.type_name
        ),
        Some("A watch writes one text for each row and column.".into()),
        Some(format!(
            "Give each picture a row of its own, see docs/galleries.md: {}",
            recipe(table, column, &elements)
        )),
    )
}

fn require_no_url_options(
    table: &TableDescription,
    column: &ColumnDescription,
    options: &WatchOptions,
) {
    let given = [("base_url", &options.base_url), ("sign", &options.sign)];
    if let Some((name, _)) = given.iter().find(|(_, value)| value.is_some()) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "{name} has no use: column \"{}\" of table {} is of type {}",
                column.name, table.name, column.type_name
            ),
            Some("The column holds the pictures themselves, not URLs.".into()),
            None,
        );
    }
}

/// How the values of a column become rows.
enum Elements {
    Array,
    /// With the function that takes a JSON array apart.
    Json(&'static str),
}

/// `$1`: the table, `$2`: the columns of its key, `$3`: its image column, `$4`: the rows of an
/// image column as a FROM item `e (url, position)`.
const RECIPE: &str = "\
    WITH name AS ( \
        SELECT format('%I.%I', n.nspname, c.relname) AS parent, \
               format('%I.%I', n.nspname, left(c.relname, 50) || '_picture') AS child, \
               format('%I.%I', n.nspname, left(c.relname, 50) || '_pictures') AS function \
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1), \
      key AS ( \
        SELECT string_agg(format('%I', a.attname), ', ' ORDER BY k.at) AS names, \
               string_agg(format('NEW.%I', a.attname), ', ' ORDER BY k.at) AS new, \
               string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' \
                          ORDER BY k.at) AS types \
          FROM unnest($2) WITH ORDINALITY k (name, at) \
          JOIN pg_attribute a ON a.attrelid = $1 AND a.attname = k.name::name) \
    SELECT format('CREATE TABLE %1$s (%2$s, image_url text, position int, alt text, seo text, \
                   PRIMARY KEY (%3$s, image_url), \
                   FOREIGN KEY (%3$s) REFERENCES %4$s (%3$s) ON UPDATE CASCADE ON DELETE CASCADE); \
                   CREATE FUNCTION %5$s() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                   DELETE FROM %1$s WHERE (%3$s) = (%6$s) AND image_url NOT IN \
                   (SELECT e.url FROM %7$s WHERE e.url IS NOT NULL); \
                   INSERT INTO %1$s (%3$s, image_url, position) \
                   SELECT %6$s, e.url, min(e.position) FROM %7$s WHERE e.url <> '''' \
                   GROUP BY e.url ON CONFLICT (%3$s, image_url) \
                   DO UPDATE SET position = excluded.position; RETURN NULL; END $$; \
                   CREATE TRIGGER pictures AFTER INSERT OR UPDATE OF %8$I ON %4$s \
                   FOR EACH ROW EXECUTE FUNCTION %5$s(); UPDATE %4$s SET %8$I = %8$I; \
                   SELECT caption.watch(%9$L);', \
                  n.child, k.types, k.names, n.parent, n.function, k.new, $4, $3, n.child) \
      FROM name n, key k";

fn recipe(table: &TableDescription, column: &ColumnDescription, elements: &Elements) -> String {
    let value = format!("NEW.{}", pgrx::spi::quote_identifier(&column.name));
    let rows = match elements {
        Elements::Array => format!("unnest({value}) WITH ORDINALITY AS e (url, position)"),
        // An array of texts, or of objects with the member url.
        Elements::Json(function) => format!(
            "(SELECT coalesce(j.v->>'url', j.v#>>'{{}}'), j.at FROM {function}(CASE WHEN \
             left({value}::text, 1) = '[' THEN {value} END) WITH ORDINALITY AS j (v, at)) \
             AS e (url, position)"
        ),
    };
    let keys = table_key::key(table);
    let arguments =
        [table.oid.into(), keys.into(), column.name.as_str().into(), rows.as_str().into()];
    select_one(RECIPE, &arguments).unwrap_or_default()
}
