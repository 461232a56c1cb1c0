//! Promises of a live server: a real cluster, the real engine, real HTTP on loopback. One file per
//! topic, one sentence per test.

mod capacity;
mod caption_image;
mod caption_images;
mod catalogue;
mod confinement;
mod copies;
mod crashes;
mod databases;
mod exchanges;
mod faults;
mod health;
mod hosts;
mod models;
mod open_transactions;
mod other_sessions;
mod parity;
mod processes;
mod recaption;
mod redefinitions;
mod refusals;
mod rights;
mod row_errors;
mod spared_changes;
mod spared_statements;
mod styles;
mod tidy;
mod upgrade;
mod waiting;
mod watch;
mod watched_keys;
mod watched_triggers;
