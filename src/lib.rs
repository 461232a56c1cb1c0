//! pg_caption: image captions where the data lives.
//!
//! The extension is the thin part that knows PostgreSQL: SQL functions that ask the engine
//! (`call`), the launcher that keeps the engine alive and starts workers (`launcher`), the workers
//! that drain the queue of one database (`worker`), the triggers that fill it (`enqueue`), and
//! `watch` that sets a table up (with `triggers`). Everything about networks, pictures and models
//! is in the engine program (`crates/engine`).

use pgrx::prelude::*;

mod api;
mod engine;
mod hooks;
mod launcher;
mod pg;
mod release;
mod settings;
mod shared;
mod worker;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
pgrx::extension_sql_file!("../sql/caption.sql", name = "caption", requires = ["schema"]);
pgrx::extension_sql_file!("../sql/models.sql", name = "models", requires = ["caption"]);
pgrx::extension_sql_file!("../sql/queue.sql", name = "queue", requires = ["caption"]);

/// Runs once in the postmaster when preloaded (and again in nothing else: children inherit), or in
/// a backend that loads the library without preloading, where only the settings are defined and
/// every entry point says what is missing.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // Rust adds a backtrace to each error's detail where RUST_BACKTRACE happens to be set: nothing
    // for the clients of a database.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: the postmaster and backends have one thread.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
    settings::init();
    if shared::preloading() {
        shared::init();
        model_status::init();
        launcher::init();
        object_access::init();
        enqueue::trigger_skip::init();
    }
}
