//! The contract of extension and engine: messages, failures, settings, configuration and framing.
//!
//! Used by `src/` (client) and `crates/engine` (server). Knows nothing of PostgreSQL, HTTP,
//! pictures or models, and does no I/O: [`frame`] converts messages to bytes and back, the owner of
//! the socket transfers them.

mod config;
mod context;
mod failure;
pub mod frame;
mod message;
mod settings;
mod status;
mod url_text;

pub use config::{EngineConfig, TileMode};
pub use context::{ContextFacts, MAX_CONTEXT, MAX_FACT, MAX_FACT_NAME, MAX_FACTS};
pub use failure::{
    CALL_AGAIN, Failure, FailureClass, MAX_ENGINE_DEATHS, PAUSED, TOO_MANY_CONNECTIONS,
};
pub use message::{
    AnswerReuse, CaptionOutcome, CaptionOutput, CaptionReply, CaptionRequest, ClientMessage,
    ClientRole, EarlierAnswer, EarlierCaption, FinishReason, ImageFacts, ImageSource, KnownPicture,
    ModelRef, OutputSpec, ServerMessage, StageTimings, WrittenCaption,
};
pub use settings::{
    SETTINGS, SettingContext, SettingFlag, SettingKind, SettingRow, SettingUnit, SettingValue,
};
pub use status::{
    EngineControl, EngineReport, EngineStatus, GraphStatus, HostCooldown, HostStatus,
    LocalModelStatus, ModelStatus, ModelUse, RemoteModelStatus, RemoteUsage, SavedWork,
};
pub use url_text::{UrlMistake, is_blank, is_invisible, url_in};

/// Version of everything in this crate. A client and an engine of different versions refuse each
/// other in `Hello`.
pub const PROTOCOL: u32 = 2;

/// Descriptor of the listening socket, which the launcher passes to the engine.
pub const LISTEN_FD: i32 = 3;
/// Descriptor of the pipe to which the engine writes [`EngineReport`]s, one JSON object a line.
pub const STATUS_FD: i32 = 4;
/// Longest URL that is fetched, bytes.
pub const MAX_URL_BYTES: usize = 8192;
