//! The launcher's decisions, without PostgreSQL: which engine starts, serves and leaves
//! ([`handover`]), which database gets a worker and when ([`schedule`], [`registry`]), and why a
//! database has none ([`database_status`]), and how much an engine may write ([`engine_output`]).
//! `src/launcher` carries them out.

pub mod database_status;
mod engine_action;
pub mod engine_output;
pub mod handover;
pub mod registry;
pub mod schedule;
mod watchdog;
