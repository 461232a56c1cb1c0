//! What [`crate::handover::EngineHandover`] has the launcher do, and the texts for log and callers.

use pg_caption_wire::{EngineConfig, EngineControl};
use std::fmt;
use std::time::Duration;

/// Process id of an engine. It is unique until the engine's end was reported.
pub type EnginePid = u32;

/// An engine to start.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineStart {
    /// Its configuration.
    pub config: EngineConfig,
}

impl EngineStart {
    /// Whether it loads its model while another engine serves.
    pub fn is_successor(&self) -> bool {
        self.config.wait_until_ready
    }
}

/// What to do, in order.
#[derive(Debug, PartialEq)]
pub enum EngineAction {
    /// Write a message to an engine's standard input. An engine that has ended needs none.
    Send(EnginePid, EngineControl),
    /// Kill an engine that hangs.
    Kill(EnginePid),
    /// Publish the state for callers and workers. Each publication counts as a change of the
    /// engine.
    Announce {
        /// The serving engine, which may still load its model.
        serving: Option<EnginePid>,
        /// Why no engine answers, or none with a model.
        trouble: Option<EngineTrouble>,
    },
    /// Write to the server log.
    Log(HandoverEvent),
}

/// How an engine hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineHang {
    /// It has not answered for so long.
    Silent(Duration),
    /// One decoding step or model call has lasted so long.
    Step(Duration),
    /// Its model has been loading for so long.
    Load(Duration),
}

/// Why no engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineTrouble {
    /// The program could not be started.
    NotStarted(String),
    /// The engine ended; another one will be started.
    Ended(String),
    /// The engine runs without a model.
    NoModel(String),
}

impl fmt::Display for EngineTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineTrouble::NotStarted(why) => write!(f, "The engine program {why}."),
            EngineTrouble::Ended(how) => {
                write!(f, "The engine ended ({how}); the next one is being started.")
            }
            EngineTrouble::NoModel(why) => f.write_str(why),
        }
    }
}

/// An event for the server log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandoverEvent {
    /// An engine is ready with this model.
    Ready(EnginePid, String),
    /// An engine cannot use its model.
    NoModel(EnginePid, String),
    /// The serving engine ended.
    Ended(EnginePid, String),
    /// A successor ended before it was ready.
    SuccessorEnded(EnginePid, String),
    /// The program could not be started.
    NotStarted(String),
    /// An engine asks for a successor.
    Outdated(EnginePid),
    /// An engine did not leave in time.
    Hangs(EnginePid),
    /// A successor loads a model that the settings no longer name.
    Superseded(EnginePid),
    /// An engine hangs.
    Frozen(EnginePid, EngineHang),
}

impl fmt::Display for HandoverEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandoverEvent::Ready(pid, model) => write!(f, "engine {pid} serves model {model}"),
            HandoverEvent::NoModel(pid, why) => {
                write!(f, "engine {pid} cannot use its model: {why}")
            }
            HandoverEvent::Ended(pid, how) => {
                write!(f, "engine {pid} ended ({how}); requests in flight are sent to the next one")
            }
            HandoverEvent::SuccessorEnded(pid, how) => {
                write!(
                    f,
                    "engine {pid} ended while loading ({how}); the old one continues to serve"
                )
            }
            HandoverEvent::NotStarted(why) => write!(f, "the engine program {why}"),
            HandoverEvent::Outdated(pid) => {
                write!(
                    f,
                    "engine {pid} asks to be replaced: system files that it reads have changed"
                )
            }
            HandoverEvent::Hangs(pid) => {
                write!(f, "engine {pid} was asked to leave and did not; killing it")
            }
            HandoverEvent::Superseded(pid) => {
                write!(f, "engine {pid} loads with settings that have changed since; killing it")
            }
            HandoverEvent::Frozen(pid, EngineHang::Load(time)) => {
                let seconds = time.as_secs();
                write!(f, "engine {pid} has been loading its model for {seconds} s; killing it")
            }
            HandoverEvent::Frozen(pid, EngineHang::Silent(time)) => {
                let seconds = time.as_secs();
                write!(f, "engine {pid} did not respond for {seconds} s; killing it")
            }
            HandoverEvent::Frozen(pid, EngineHang::Step(time)) => {
                write!(
                    f,
                    "engine {pid} has been decoding, or in one call of its model, for {} s; \
                     killing it",
                    time.as_secs()
                )
            }
        }
    }
}
