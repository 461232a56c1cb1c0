//! The launcher's decisions, without PostgreSQL: which engine starts, serves and leaves
//! ([`handover`]), which database gets a worker and when ([`schedule`]), and why a database has
//! none ([`database_status`]).

pub mod database_status;
pub mod handover;
pub mod registry;
pub mod schedule;
