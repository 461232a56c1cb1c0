//! The harness of the live tests: temporary clusters, a web server with prepared answers, pictures,
//! and waiting for conditions.
//!
//! The harness knows no test. It cleans up after itself, even if a test panics or its process is
//! killed.

mod cluster;
mod database;
mod locations;
mod message_style;
mod models;
pub mod pictures;
mod server;
mod session;
mod wait;

pub use cluster::{
    ClusterBackup, StopMode, TestCluster, alive, signal, signal_if_alive, start_time,
};
pub use database::{FILLED, TestDatabase, shared_database};
pub use locations::{
    demo_pictures, model, module_file, parity, project, releases, rust_files, shared, sql_blocks,
    test_program,
};
pub use message_style::{message_problem, sentence_problem};
pub use models::ModelsDirectory;
/// Signals for [`signal`].
pub use rustix::process::Signal;
pub use server::{AnswerGate, ServerAnswer, ServerRequest, TestServer};
pub use session::{TestSession, quote_literal};
pub use wait::eventually;
