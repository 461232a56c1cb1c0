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
    /// What other engines have used of a model's daily limits since this one started.
    Used(ModelUse),
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
        model: Box<ModelStatus>,
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
    /// What was used of the model's daily limits, earlier engines included. Sent every few seconds
    /// while it changes, and before the engine exits.
    Used(ModelUse),
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

/// What was used of a model's daily limits, as one engine passes it to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUse {
    /// Digest of the model, [`ModelStatus::digest`].
    pub digest: String,
    /// Day since 1970-01-01 (UTC).
    pub day: u32,
    /// Requests of that day.
    pub requests: u64,
    /// Tokens of that day.
    pub tokens: u64,
}

impl ModelUse {
    /// Whether this says more than an earlier report about the same model.
    pub fn exceeds(&self, other: &ModelUse) -> bool {
        (self.day, self.requests, self.tokens) > (other.day, other.requests, other.tokens)
    }
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
    /// Names this process among all engines: its counts begin with it.
    #[serde(default)]
    pub run: String,
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
    /// Milliseconds since start in which at least one request was in flight: with `answered`, how
    /// fast the engine is.
    #[serde(default)]
    pub busy_ms: f64,
    /// Work that was not done twice, since start.
    #[serde(default)]
    pub saved: SavedWork,
    /// CPU milliseconds by stage since start, all requests.
    pub cpu_ms: StageTimings,
    /// Resident memory, bytes.
    pub rss: u64,
    /// Active confinement: `landlock vN`, `no_new_privs` …
    pub confinement: Vec<String>,
    /// Hosts with fetches in flight, paused hosts and recently used hosts: a few hundred at most.
    pub hosts: Vec<HostStatus>,
}

/// Work that was saved because requests were for the same picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWork {
    /// Fetches: another request fetched the URL at the same time, or a short while ago.
    pub fetches: u64,
    /// Encodings of pictures.
    pub encodings: u64,
    /// Captions that another request, the memo or the ledger had.
    pub captions: u64,
    /// Of these, captions of the memo.
    pub from_memo: u64,
    /// Of these, captions of the ledger.
    pub from_ledger: u64,
    /// Bytes that the memo holds now.
    pub memo_bytes: u64,
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
    /// Facts about a server; only a model that runs elsewhere has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteModelStatus>,
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

/// What only a model on a server reports. It contains no key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RemoteModelStatus {
    /// The server, `host:port`.
    pub server: String,
    /// `openai` or `caption`.
    pub protocol: String,
    /// The model's name at the server.
    pub model: Option<String>,
    /// What the server does not accept, as learned from its refusals.
    pub learned: Vec<String>,
    /// Requests that may be in flight now.
    pub ceiling: u32,
    /// Requests in flight.
    pub in_flight: u32,
    /// Pictures and captions that wait for the server.
    pub waiting: u32,
    /// Milliseconds until the end of its pause, if it is paused.
    pub paused_ms: Option<u64>,
    /// The last failure that concerned all requests, if none was answered since.
    pub trouble: Option<Failure>,
    /// Day of the daily limits, since 1970-01-01 (UTC).
    pub day: u32,
    /// Requests used of that day.
    pub day_requests: u64,
    /// Tokens used of that day.
    pub day_tokens: u64,
    /// What was used since the engine started, of the last two days.
    pub usage: Vec<RemoteUsage>,
}

/// What one style used in one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoteUsage {
    /// Day since 1970-01-01 (UTC).
    pub day: u32,
    /// Name of the model's folder.
    pub model: String,
    /// Name of the style.
    pub style: String,
    /// Requests, repeated ones included.
    pub requests: u64,
    /// Captions returned.
    pub images: u64,
    /// Tokens of requests, as the server counted them.
    pub input_tokens: u64,
    /// Tokens of answers, as the server counted them.
    pub output_tokens: u64,
    /// Requests without a caption.
    pub failures: u64,
    /// By the prices in `remote.json`.
    pub cost: f64,
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
