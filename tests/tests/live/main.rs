//! Promises of a live server: a real cluster, the real engine, real HTTP on loopback. One file per topic, one sentence per test.

mod caption_image;
mod caption_images;
mod catalogue;
mod confinement;
mod faults;
mod hosts;
mod open_transactions;
mod other_sessions;
mod processes;
mod recaption;
mod refusals;
mod rights;
mod upgrade;
mod watch;
mod watched_keys;
