//! What the engine tells of itself: to the launcher on the status pipe, to anybody who asks on a
//! connection.

use crate::{Failure, StageTimings};
use serde::{Deserialize, Serialize};

/// A line the launcher writes to the engine's standard input after the configuration. End of file
/// means: leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum EngineControl {
    /// A successor serves: stop accepting, send GoAway, finish what is in flight, exit 0.
    Drain,
    /// What the engine before this one knew of hosts that asked for patience.
    Cooling {
        /// The pauses that are not over.
        hosts: Vec<HostCooldown>,
    },
}

/// A line on the status pipe, engine to launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EngineReport {
    /// Configuration read; the model is loading.
    Starting,
    /// The model answers.
    Ready {
        /// The model.
        model: ModelStatus,
    },
    /// The model cannot be used; requests are answered with this failure (class `Engine`).
    Failed(Failure),
    /// Files of the system that it needs are others than those it may read (see the engine's
    /// `confine`): a successor may read them.
    Outdated,
    /// An engine that drains says this at once, and again before it leaves: hosts that asked for
    /// patience, for its successor.
    Cooling {
        /// The pauses that are not over.
        hosts: Vec<HostCooldown>,
    },
}

/// A host's pause, as it is handed from one engine to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCooldown {
    /// `name:port`.
    pub host: String,
    /// Milliseconds left.
    pub remaining_ms: u64,
    /// How often in a row it asked for patience.
    pub streak: u32,
    /// Its last answer.
    pub last: Option<String>,
}

/// `caption.engine_status()`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Process id.
    pub pid: u32,
    /// Release of the engine.
    pub release: String,
    /// `loading`, `ready`, `failed`, `draining`.
    pub state: String,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The model, once ready.
    pub model: Option<ModelStatus>,
    /// Seconds since start.
    pub uptime_s: f64,
    /// Open client connections.
    pub connections: u32,
    /// Requests accepted and not yet answered.
    pub in_flight: u32,
    /// Requests answered since start.
    pub answered: u64,
    /// Pictures encoded, and encoder calls they took.
    pub encoded: u64,
    /// Encoder calls.
    pub encode_calls: u64,
    /// Captions generated.
    pub generated: u64,
    /// CPU milliseconds by stage since start, all requests.
    pub cpu_ms: StageTimings,
    /// Resident memory, bytes.
    pub rss: u64,
    /// Confinement in force: `landlock vN`, `no_new_privs` …
    pub confinement: Vec<String>,
    /// Hosts with fetches in flight or cooling, and those asked lately: a few hundred at most.
    pub hosts: Vec<HostStatus>,
}

/// The loaded model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Folder name.
    pub name: String,
    /// SHA-256 over graphs and configuration, lower-case hex.
    pub digest: String,
    /// `vision-encoder-decoder`, `florence2`, …
    pub family: String,
    /// Bytes of the files loaded.
    pub bytes: u64,
    /// The graphs.
    pub graphs: Vec<GraphStatus>,
    /// Ids never depend on what a picture was batched with (no graph holds DynamicQuantizeLinear).
    pub batch_invariant: bool,
    /// Cross-attention keys and values are computed once a picture although the published graph
    /// computes them for every token.
    #[serde(default)]
    pub hoisted: bool,
    /// Confidence below which the model's captions are uncertain, if the folder states one.
    pub min_confidence: Option<f32>,
    /// Installed graphs that go before those that are used and cannot be: file and reason, one
    /// each.
    #[serde(default)]
    pub passed_over: Vec<String>,
}

/// One graph of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphStatus {
    /// File name.
    pub file: String,
    /// `fp32`, `fp16`, `quantized` …
    pub dtype: String,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// `name:port`.
    pub host: String,
    /// Fetches in flight.
    pub in_flight: u32,
    /// Milliseconds until it may be asked again, if cooling.
    pub cooling_ms: Option<u64>,
    /// Status or error of the last answer: `http_200`, `redirect`, `http_429`, `timeout`, `tls` …
    pub last: Option<String>,
    /// Milliseconds since that answer.
    #[serde(default)]
    pub last_ms_ago: Option<u64>,
}
