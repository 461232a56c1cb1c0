//! What the extension and the engine agree on: messages, failures, configuration, and how they are
//! framed.
//!
//! Used by `src/` (client) and `crates/engine` (server). Knows nothing of PostgreSQL, HTTP,
//! pictures or models, and does no I/O of its own: [`frame`] turns messages into bytes and back,
//! whoever owns the socket moves them.

mod config;
mod failure;
pub mod frame;
mod message;
mod status;

pub use config::{EngineConfig, TileMode};
pub use failure::{Failure, FailureClass};
pub use message::{
    CaptionOutcome, CaptionOutput, CaptionReply, CaptionRequest, ClientMessage, ClientRole,
    FinishReason, ImageFacts, ImageSource, KnownPicture, ModelRef, OutputSpec, ServerMessage,
    StageTimings, WrittenCaption,
};
pub use status::{
    EngineControl, EngineReport, EngineStatus, GraphStatus, HostCooldown, HostStatus, ModelStatus,
};

/// Version of everything in this crate. A client and an engine of different versions refuse each
/// other in `Hello`.
pub const PROTOCOL: u32 = 1;

/// The descriptor the launcher hands the listening socket over as.
pub const LISTEN_FD: i32 = 3;
/// The descriptor of the pipe on which the engine writes [`EngineReport`]s, one JSON object a line.
pub const STATUS_FD: i32 = 4;
