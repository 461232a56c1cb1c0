//! The state of the engine: reported to the launcher on the status pipe, and to clients on request.

use crate::{Failure, StageTimings};
use serde::{Deserialize, Serialize};

/// A line that the launcher writes to the engine's standard input after the configuration. End of
/// file means: exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum EngineControl {
    /// A successor serves: stop accepting, send GoAway, finish the requests in flight, exit 0.
    Drain,
    /// Pauses of hosts that the previous engine knew.
    Cooling {
        /// The pauses that have not ended.
        hosts: Vec<HostCooldown>,
    },
    /// A client waits for the engine: answer with [`EngineReport::Pong`].
    Ping {
        /// Returned in the answer.
        number: u64,
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
    /// System files that it needs were replaced by files that it may not read (see the engine's
    /// `confine`). A successor may read them.
    Outdated,
    /// Pauses of hosts, for the successor. A draining engine sends them immediately and again
    /// before it exits.
    Cooling {
        /// The pauses that have not ended.
        hosts: Vec<HostCooldown>,
    },
    /// The first request was answered by more than the engine's own inability.
    Answered,
    /// Answer to [`EngineControl::Ping`].
    Pong {
        /// Number of the ping.
        number: u64,
        /// How long the longest decoding step or model call in progress has lasted, milliseconds;
        /// 0: none is in progress.
        busy_ms: u64,
    },
}

/// A host's pause, as one engine passes it to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCooldown {
    /// `name:port`.
    pub host: String,
    /// Milliseconds left.
    pub remaining_ms: u64,
    /// Consecutive answers that asked for a pause.
    pub streak: u32,
    /// Code of its last answer.
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
    /// Why it cannot serve.
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
    /// Pictures encoded since start.
    pub encoded: u64,
    /// Encoder calls since start.
    pub encode_calls: u64,
    /// Captions generated since start.
    pub generated: u64,
    /// CPU milliseconds by stage since start, all requests.
    pub cpu_ms: StageTimings,
    /// Resident memory, bytes.
    pub rss: u64,
    /// Active confinement: `landlock vN`, `no_new_privs` …
    pub confinement: Vec<String>,
    /// Hosts with fetches in flight, paused hosts and recently used hosts: a few hundred at most.
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
    /// Bytes of the loaded files.
    pub bytes: u64,
    /// Confidence below which captions are uncertain, if the folder states one.
    pub min_confidence: Option<f32>,
    /// Facts about graphs; only a model that runs in the engine has them.
    #[serde(flatten)]
    pub local: Option<LocalModelStatus>,
}

impl ModelStatus {
    /// [`LocalModelStatus::skipped_graphs`]; empty for a model without graphs.
    pub fn skipped_graphs(&self) -> &[String] {
        self.local.as_ref().map_or(&[], |local| &local.skipped_graphs)
    }
}

/// What only a model that runs in the engine reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalModelStatus {
    /// The graphs.
    pub graphs: Vec<GraphStatus>,
    /// Whether token ids are independent of the batch (no graph has DynamicQuantizeLinear).
    pub batch_invariant: bool,
    /// Whether cross-attention keys and values are computed once a picture, although the published
    /// graph computes them for every token.
    #[serde(default)]
    pub hoisted: bool,
    /// Unusable installed graphs that take precedence over those in use: file and reason, one each.
    #[serde(default)]
    pub skipped_graphs: Vec<String>,
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
    /// Milliseconds until its pause ends, if paused.
    pub cooling_ms: Option<u64>,
    /// Status or error of the last answer: `http_200`, `redirect`, `http_429`, `timeout`, `tls` …
    pub last: Option<String>,
    /// Milliseconds since that answer.
    #[serde(default)]
    pub last_ms_ago: Option<u64>,
}
