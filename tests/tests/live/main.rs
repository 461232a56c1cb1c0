//! Promises of a live server: a real cluster, the real engine, real HTTP on loopback. One file per topic, one sentence per test.

mod caption_image;
mod caption_images;
mod catalogue;
mod faults;
mod models;
mod other_sessions;
mod processes;
mod refusals;
mod rights;
mod styles;
mod upgrade;
mod watch;
mod watched_keys;
