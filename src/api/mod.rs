//! What SQL calls: the caption functions, `caption.watch` and its companions, and what the views
//! ask.

mod call;
pub mod models;
mod progress;
pub mod status;
pub mod style;
mod watch;
