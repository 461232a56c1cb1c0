//! pg_caption: image captions where the data lives.
//!
//! The extension is the thin part that knows PostgreSQL: SQL functions (`api`), hooks and triggers
//! that enqueue rows (`hooks`), statements that request pictures ahead (`lookahead`), the launcher
//! that runs the engine and starts workers (`launcher`), and the workers, each of which fills the
//! tables of one database (`worker`). Everything about networks, pictures and models is in the
//! engine program (`crates/engine`).

use pgrx::prelude::*;

mod api;
mod engine;
mod hooks;
mod launcher;
mod lookahead;
mod pg;
mod settings;
mod shared;
mod worker;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
pgrx::extension_sql_file!("../sql/caption.sql", name = "caption", requires = ["schema"]);
pgrx::extension_sql_file!("../sql/models.sql", name = "models", requires = ["caption"]);
pgrx::extension_sql_file!("../sql/tables.sql", name = "tables", requires = ["schema"]);
pgrx::extension_sql_file!("../sql/watch.sql", name = "watch", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/dry_run.sql", name = "dry_run", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/publish.sql", name = "publish", requires = ["schema"]);
pgrx::extension_sql_file!("../sql/progress.sql", name = "progress", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/texts.sql", name = "texts", requires = ["progress"]);
pgrx::extension_sql_file!("../sql/review.sql", name = "review", requires = ["watch", "texts"]);
pgrx::extension_sql_file!(
    "../sql/metrics.sql",
    name = "metrics",
    requires = ["caption", "progress"]
);
pgrx::extension_sql_file!("../sql/help.sql", name = "help", requires = ["schema"]);
pgrx::extension_sql_file!("../sql/lint.sql", name = "lint", requires = ["progress"]);
pgrx::extension_sql_file!(
    "../sql/backfill.sql",
    name = "backfill",
    requires = ["watch", "progress"]
);
pgrx::extension_sql_file!(
    "../sql/rights.sql",
    name = "rights",
    requires = ["caption", "watch", "dry_run", "texts", "review", "backfill"]
);

/// Runs once in the postmaster if the library is preloaded; children inherit the result. In a
/// backend that loads the library by itself it defines the settings only, and every entry point
/// raises an error.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // With RUST_BACKTRACE in its environment, Rust would add a backtrace to each error's detail,
    // which database clients must not see.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: the postmaster and backends have one thread.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
    settings::init();
    hooks::utility::init();
    if shared::preloading() {
        shared::init();
        engine::model_status::init();
        launcher::init();
        hooks::init();
        lookahead::init();
    }
}
