//! The triggers of a watched table: which rows of which statements are queued.
//!
//! Called by `api::watch`, with a pinned `search_path`. The conditions run in every writer's
//! session: they are cheap and call PostgreSQL's own operators only.

use crate::pg::condition::RowCondition;
use crate::pg::report::{optional, spi};
use crate::pg::sign_function;
use pg_caption_style::FillDefinition;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

/// Names of the extension's triggers on a watched table.
pub const TRIGGERS: [&str; 2] = ["pg_caption_insert", "pg_caption_update"];

/// The argument of the UPDATE trigger: rows whose image the statement does not set, and of which
/// it changes no watched column, are not queued.
pub const SET_OR_CHANGED: &str = "set_or_changed";

const COMMENT: &str = "pg_caption: queues rows whose captions are missing; see caption.watch()";

/// A column of the key.
pub struct TriggerKey {
    pub name: String,
    /// Its type, or the base type of its domain.
    pub base_type: pg_sys::Oid,
}

impl TriggerKey {
    /// Whether equal values always have equal text (unlike numeric 1.0 and 1.00) and comparing the
    /// values is cheaper than comparing their texts.
    fn is_plain(&self) -> bool {
        matches!(
            self.base_type,
            pg_sys::INT2OID
                | pg_sys::INT4OID
                | pg_sys::INT8OID
                | pg_sys::OIDOID
                | pg_sys::UUIDOID
                | pg_sys::DATEOID
        )
    }

    fn has_changed(&self) -> String {
        if self.is_plain() {
            format!("NEW.{0} IS DISTINCT FROM OLD.{0}", quote_identifier(&self.name))
        } else {
            has_changed(&self.name)
        }
    }
}

/// What the triggers of one table depend on.
pub struct TriggerSpec<'a> {
    /// The table, schema-qualified and quoted.
    pub table: &'a str,
    pub is_partitioned: bool,
    /// The column of the URLs, or of the pictures themselves.
    pub image: &'a str,
    pub holds_pictures: bool,
    /// Columns to fill.
    pub fills: &'a [(String, FillDefinition)],
    pub keys: &'a [TriggerKey],
    pub overwrite: bool,
    pub on_replica: bool,
    pub condition: Option<&'a RowCondition>,
    /// Columns whose change is followed.
    pub followed: &'a [String],
    /// The empty text stays: only NULL is empty.
    pub keeps_blank: bool,
    /// A row without a text may have a draft.
    pub review: bool,
}

/// Drops the extension's triggers of a table.
pub fn drop(oid: pg_sys::Oid, table: &str) {
    for trigger in TRIGGERS {
        // DROP TRIGGER IF EXISTS would send a NOTICE to the caller.
        let exists: Option<bool> = optional(Spi::get_one_with_args(
            "SELECT true FROM pg_trigger WHERE tgrelid = $1 AND tgname = $2::name",
            &[oid.into(), trigger.into()],
        ));
        if exists == Some(true) {
            spi(Spi::run(&format!("DROP TRIGGER {trigger} ON {table}")));
        }
    }
}

/// Creates the extension's triggers on a table.
pub fn create(spec: &TriggerSpec<'_>) {
    let table = spec.table;
    let reads_whole_row = spec.condition.is_some_and(|condition| condition.is_whole_row);
    // A change of any column may be a change of what the condition says.
    let limit = if reads_whole_row { String::new() } else { quote_literal(SET_OR_CHANGED) };
    let events = [
        ("INSERT", insert_condition(spec), String::new()),
        ("UPDATE", update_condition(spec), limit),
    ];
    for (trigger, (event, condition, argument)) in TRIGGERS.into_iter().zip(events) {
        spi(Spi::run(&format!(
            "CREATE TRIGGER {trigger} AFTER {event} ON {table} FOR EACH ROW \
             WHEN ({condition}) EXECUTE FUNCTION caption.enqueue({argument})"
        )));
        if spec.on_replica {
            spi(Spi::run(&format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")));
        }
        // DROP EXTENSION drops the triggers instead of requiring CASCADE.
        spi(Spi::run(&format!(
            "ALTER TRIGGER {trigger} ON {table} DEPENDS ON EXTENSION pg_caption"
        )));
        let comment = quote_literal(COMMENT);
        spi(Spi::run(&format!("COMMENT ON TRIGGER {trigger} ON {table} IS {comment}")));
    }
}

/// Has DROP of an object refused that the condition of the watch names, or of the function that
/// signs, as for any trigger.
pub fn depend_on_code(
    oid: pg_sys::Oid,
    condition: Option<&RowCondition>,
    sign: Option<pg_sys::Oid>,
) {
    let Ok(name) = std::ffi::CString::new(TRIGGERS[1]) else { return };
    // SAFETY: a catalog look-up; the trigger may have been created in this transaction.
    let trigger = unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::get_trigger_oid(oid, name.as_ptr(), false)
    };
    let trigger = pg_sys::ObjectAddress {
        classId: pg_sys::TriggerRelationId,
        objectId: trigger,
        objectSubId: 0,
    };
    if let Some(condition) = condition {
        condition.record_dependencies(trigger);
    }
    if let Some(function) = sign {
        sign_function::record_dependency(trigger, function);
    }
}

/// The condition of the INSERT trigger.
fn insert_condition(spec: &TriggerSpec<'_>) -> String {
    // Few rows of a COPY have an empty URL. The worker reads such a row once, which costs less than
    // comparing all of them here.
    let may_have_url = format!("NEW.{} IS NOT NULL", quote_identifier(spec.image));
    // Moving a row to another partition is a DELETE and an INSERT: whether its URL changed is
    // unknown here.
    if spec.overwrite || spec.is_partitioned {
        return may_have_url;
    }
    format!("{may_have_url} AND ({})", some_empty(spec))
}

/// The condition of the UPDATE trigger. Rarely true parts are last. A row that loses its URL, or
/// has lost it before it matched, is queued if it has a text, which may be machine-written, or may
/// have a draft. A row with an empty fill passes; the trigger function then looks whether the
/// statement sets the URL, perhaps to what it was.
fn update_condition(spec: &TriggerSpec<'_>) -> String {
    let image = quote_identifier(spec.image);
    // Pictures are compared as bytea: as text they are twice as long, and converted first.
    let url_changed = match spec.holds_pictures {
        true => format!("NEW.{image} IS DISTINCT FROM OLD.{image}"),
        false => has_changed(spec.image),
    };
    let key_changed = any(spec.keys.iter().map(TriggerKey::has_changed));
    let some_empty = some_empty(spec);
    let has_url = match spec.holds_pictures {
        true => format!("octet_length(NEW.{image}) > 0"),
        false => is_filled("NEW", spec.image),
    };
    let has_text = match spec.review {
        true => "true".into(),
        false => any(spec.fills.iter().map(|(column, _)| is_filled("NEW", column))),
    };
    let match_changed = spec.condition.and_then(match_may_have_changed);
    let match_changed = match_changed.map_or(String::new(), |changed| format!(" OR {changed}"));
    let words_changed = columns_differ(spec.followed);
    let words_changed = words_changed.map_or(String::new(), |changed| format!(" OR {changed}"));
    format!(
        "({url_changed} OR {key_changed} OR {some_empty}{match_changed}{words_changed}) \
         AND ({has_url} OR ({url_changed}{match_changed}) AND ({has_text}))"
    )
}

/// Whether the condition of the watch reads something that changed; it is not evaluated in the
/// session of the writer. Compared are the stored bytes, for which no type needs an operator.
/// `None`: it names no column.
fn match_may_have_changed(condition: &RowCondition) -> Option<String> {
    let columns = columns_differ(&condition.columns);
    let whole = condition.is_whole_row.then(|| images_differ("NEW", "OLD"));
    let changes: Vec<String> = columns.into_iter().chain(whole).collect();
    (!changes.is_empty()).then(|| changes.join(" OR "))
}

/// Whether the stored bytes of some columns differ; `None` without columns.
fn columns_differ(columns: &[String]) -> Option<String> {
    let row = |row: &str| {
        let column = |name: &String| format!("{row}.{}", quote_identifier(name));
        columns.iter().map(column).collect::<Vec<_>>().join(", ")
    };
    (!columns.is_empty())
        .then(|| images_differ(&format!("ROW({})", row("NEW")), &format!("ROW({})", row("OLD"))))
}

/// As an operator, a dump would show it as one of the columns' types.
fn images_differ(new: &str, old: &str) -> String {
    format!("pg_catalog.record_image_ne({new}, {old})")
}

fn any(conditions: impl Iterator<Item = String>) -> String {
    conditions.collect::<Vec<_>>().join(" OR ")
}

/// Compared byte by byte: a column may have a collation, or be of a type, for which different texts
/// are equal.
fn text(row: &str, column: &str) -> String {
    format!("{row}.{}::text COLLATE \"C\"", quote_identifier(column))
}

/// Whether a fill of the new row is empty.
fn some_empty(spec: &TriggerSpec<'_>) -> String {
    any(spec.fills.iter().map(|(column, _)| match spec.keeps_blank {
        true => format!("NEW.{} IS NULL", quote_identifier(column)),
        false => is_empty("NEW", column),
    }))
}

/// No operator is called where a NULL decides already.
fn is_empty(row: &str, column: &str) -> String {
    format!("({0} IS NULL OR {0} = '')", text(row, column))
}

fn is_filled(row: &str, column: &str) -> String {
    format!("{} <> ''", text(row, column))
}

fn has_changed(column: &str) -> String {
    format!("{} IS DISTINCT FROM {}", text("NEW", column), text("OLD", column))
}
