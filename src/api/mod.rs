//! What SQL calls: the caption functions, `caption.watch` and its companions, models, and the
//! functions behind the views.
//!
//! The SQL functions pin their `search_path`, so the SQL in this folder uses plain names.

pub mod call;
pub mod context;
mod database;
pub mod language;
mod lint;
mod model_selection;
mod models;
mod progress;
pub mod rule;
mod status;
pub mod style;
mod templates;
pub mod value;
pub mod watch;

pub use templates::FillTemplates;
