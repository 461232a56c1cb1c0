//! PostgreSQL's own facilities as the rest of the extension uses them.

pub mod guc_scope;
pub mod identity;
pub mod latch;
pub mod report;
pub mod table;
pub mod triggers;
