//! PostgreSQL's facilities as the rest of the extension uses them.

pub mod backfill_lock;
pub mod call_reports;
pub mod condition;
pub mod guc_scope;
pub mod identity;
pub mod latch;
pub mod latest_snapshot;
pub mod report;
pub mod row_sql;
pub mod shared_text;
pub mod sign_function;
pub mod table;
pub mod table_key;
pub mod triggers;
