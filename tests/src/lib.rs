//! What the live tests share: throw-away clusters, a web server that does as told, pictures,
//! waiting for conditions.
//!
//! Nothing here knows what a test is about. Everything cleans up after itself, also when a test
//! panics or its process is killed.

mod cluster;
mod database;
mod models;
pub mod pictures;
mod place;
mod session;
mod wait;
mod web;

pub use cluster::{Backup, Cluster, Stop, alive, signal};
pub use database::Database;
pub use models::Models;
pub use place::{demo_pictures, model, parity, shared};
/// Signals for [`signal`].
pub use rustix::process::Signal;
pub use session::Session;
pub use wait::eventually;
pub use web::{Answer, Gate, Request, Web};
