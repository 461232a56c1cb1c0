//! `pg_caption_engine serve --http`: the engine as a model server for other machines.
//!
//! It speaks OpenAI's `chat/completions` with pictures as data URLs: it fetches nothing. hyper
//! reads requests; this code bounds them (bytes, time, connections, requests in flight) and turns
//! them into jobs, which the engine batches across clients. Confined as the engine of a server; the
//! address is bound before.

mod admission;
mod chat;
mod key;
mod prometheus;
mod reply;
mod route;
mod server;

pub use server::{HttpOptions, run};
