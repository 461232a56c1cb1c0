//! Whether the SQL objects of this database belong to this library: after an upgrade of the package
//! they do not until somebody says `ALTER EXTENSION pg_caption UPDATE`. Called by `watch` and by a
//! worker when it begins. Never refuses work: what was there before goes on.

use crate::shared;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The version of the library and of the SQL objects that it brings.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of this database's SQL objects. Needs a transaction.
fn installed() -> Option<String> {
    Spi::get_one("SELECT extversion FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'pg_caption'").ok().flatten()
}

/// Whether the SQL objects are this library's own. Needs a transaction.
pub fn objects_are_current() -> bool {
    installed().as_deref() == Some(VERSION)
}

/// What to say where the objects are of another version; `None` where all is well.
fn difference() -> Option<String> {
    let installed = installed().filter(|installed| installed != VERSION)?;
    Some(format!(
        "the SQL objects of pg_caption in this database are of version {installed}, its library is of version {VERSION}"
    ))
}

/// Warns the caller, who may be able to do something about it.
pub fn warn_caller() {
    if let Some(message) = difference() {
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "pg_caption")
            .set_detail("Everything that the older objects offer works.")
            .set_hint("ALTER EXTENSION pg_caption UPDATE")
            .report(PgLogLevel::WARNING);
    }
}

/// Says so in the server's log, once for each database in the server's life.
pub fn note_in_log(database: u32) {
    if let Some(message) = difference()
        && shared::first_note(database)
    {
        let name = Spi::get_one::<String>("SELECT pg_catalog.current_database()::pg_catalog.text")
            .ok()
            .flatten()
            .unwrap_or_default();
        pgrx::log!(
            "pg_caption: database \"{name}\": {message}; in it, say: ALTER EXTENSION pg_caption UPDATE"
        );
    }
}
