//! The triggers of a watched table: which rows of which statements are worth a look.
//!
//! Called by `caption.watch` and `caption.unwatch`. The conditions run in every writer's session,
//! so they are cheap and call PostgreSQL's own operators only.

use crate::pg::report::{optional, spi};
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

/// Names of our triggers on a watched table.
pub const TRIGGERS: [&str; 2] = ["pg_caption_insert", "pg_caption_update"];

/// A column of the key.
pub struct Key<'a> {
    pub name: &'a str,
    /// Its type, or what its domain is made of.
    pub base: pg_sys::Oid,
}

impl Key<'_> {
    /// Values that are equal have the same text (as numbers like 1.0 and 1.00 have not), and are
    /// compared at less cost than their texts.
    fn is_plain(&self) -> bool {
        matches!(
            self.base,
            pg_sys::INT2OID
                | pg_sys::INT4OID
                | pg_sys::INT8OID
                | pg_sys::OIDOID
                | pg_sys::UUIDOID
                | pg_sys::DATEOID
        )
    }
}

/// Takes our triggers off a table.
pub fn drop(oid: pg_sys::Oid, table: &str) {
    for trigger in TRIGGERS {
        // A NOTICE about a trigger that is not there would only puzzle.
        let exists: Option<bool> = optional(Spi::get_one_with_args(
            "SELECT true FROM pg_catalog.pg_trigger WHERE tgrelid OPERATOR(pg_catalog.=) $1 AND tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
            &[oid.into(), trigger.into()],
        ));
        if exists == Some(true) {
            spi(Spi::run(&format!("DROP TRIGGER {trigger} ON {table}")));
        }
    }
}

/// Puts them on it (`table`: schema-qualified and quoted), for the URL's column, columns to fill,
/// and key columns.
pub fn create(
    table: &str,
    partitioned: bool,
    image_url: &str,
    fills: &[(String, String)],
    keys: &[Key],
    overwrite: bool,
    on_replica: bool,
) {
    // Evaluated for every row that anybody writes: no operator is called where a NULL decides
    // already, and what is rarely true stands last.
    let text =
        |row: &str, column: &str| format!("{row}.{}::pg_catalog.text", quote_identifier(column));
    let empty = |row: &str, column: &str| {
        format!("({0} IS NULL OR {0} OPERATOR(pg_catalog.=) '')", text(row, column))
    };
    let filled =
        |row: &str, column: &str| format!("{} OPERATOR(pg_catalog.<>) ''", text(row, column));
    let has_url = filled("NEW", image_url);
    let some_empty =
        fills.iter().map(|(column, _)| empty("NEW", column)).collect::<Vec<_>>().join(" OR ");
    let became_empty = fills
        .iter()
        .map(|(column, _)| format!("({} AND {})", empty("NEW", column), filled("OLD", column)))
        .collect::<Vec<_>>()
        .join(" OR ");
    let changed =
        |column: &str| format!("{} IS DISTINCT FROM {}", text("NEW", column), text("OLD", column));
    let key_changed = keys.iter().map(|key| {
        if key.is_plain() {
            format!("NEW.{0} IS DISTINCT FROM OLD.{0}", quote_identifier(key.name))
        } else {
            changed(key.name)
        }
    });
    let key_changed = key_changed.collect::<Vec<_>>().join(" OR ");
    // Of the many rows of a COPY hardly any has an empty URL; such a one is read once by the
    // worker, which costs less than to compare them all.
    let may_have_url = format!("NEW.{} IS NOT NULL", quote_identifier(image_url));
    // Moving a row to another partition is a DELETE and an INSERT: nothing tells whether its URL
    // changed, too.
    let on_insert = if overwrite || partitioned {
        may_have_url
    } else {
        format!("{may_have_url} AND ({some_empty})")
    };
    let on_update =
        format!("({} OR {key_changed} OR {became_empty}) AND {has_url}", changed(image_url));
    for (trigger, event, condition) in
        [(TRIGGERS[0], "INSERT", on_insert), (TRIGGERS[1], "UPDATE", on_update)]
    {
        spi(Spi::run(&format!(
            "CREATE TRIGGER {trigger} AFTER {event} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION caption.enqueue()"
        )));
        if on_replica {
            spi(Spi::run(&format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")));
        }
        // DROP EXTENSION takes the triggers along instead of asking for CASCADE.
        spi(Spi::run(&format!(
            "ALTER TRIGGER {trigger} ON {table} DEPENDS ON EXTENSION pg_caption"
        )));
        spi(Spi::run(&format!(
            "COMMENT ON TRIGGER {trigger} ON {table} IS {}",
            quote_literal(
                "pg_caption: remembers rows whose captions are to be written; see caption.watch()"
            )
        )));
    }
}
