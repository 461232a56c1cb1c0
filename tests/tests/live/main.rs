//! Promises of a live server: a real cluster, the real engine, real HTTP on loopback. One file per
//! topic, one promise per test.

mod capacity;
mod caption_image;
mod caption_images;
mod catalogue;
mod confinement;
mod copies;
mod crashes;
mod databases;
mod faults;
mod health;
mod hosts;
mod memory_limits;
mod messages;
mod model_swaps;
mod models;
mod open_transactions;
mod other_sessions;
mod owner_settings;
mod parity;
mod processes;
mod prune;
mod recaption;
mod redefinitions;
mod refusals;
mod rights;
mod row_errors;
mod settings;
mod skipped_changes;
mod skipped_statements;
mod styles;
mod upgrade;
mod waiting;
mod watch;
mod watched_keys;
mod watched_triggers;
