//! The one configuration message the launcher sends the engine, as the first line on its standard
//! input.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// When a tiling model cuts a picture into tiles, which shows it details and costs as many times as
/// there are tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TileMode {
    /// For styles with the task `detailed`; the others look at the picture as one tile.
    #[default]
    Auto,
    /// Never.
    One,
    /// Always, if the model's folder does.
    All,
}

/// Everything the engine may use and do. Built from the server's `pg_caption.*` settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Model folder: absolute.
    pub model: PathBuf,
    /// `auto` or a file suffix without underscore: `quantized`, `int8`, `uint8`, `q4`, `q4f16`,
    /// `fp16`, `fp32`.
    pub dtype: String,
    /// The ONNX Runtime library: absolute path.
    pub onnxruntime: PathBuf,
    /// When a tiling model cuts a picture into tiles.
    pub tiles: TileMode,
    /// Threads of ONNX Runtime's pool; 0: half the cores, at least 1.
    pub threads: u32,
    /// Pictures in one encoder call and rows in one decoder call; 0: from the model.
    pub max_batch: u32,
    /// Bytes for everything in flight beyond the model.
    pub memory: u64,
    /// `cpu`.
    pub device: String,
    /// CIDR networks open to fetches although they are private.
    pub allowed_networks: Vec<String>,
    /// Host patterns; empty: every public host.
    pub allowed_hosts: Vec<String>,
    /// Explicit proxy URL.
    pub proxy: Option<String>,
    /// Largest encoded picture, bytes.
    pub max_image_size: u64,
    /// Largest decoded picture, pixels.
    pub max_image_pixels: u64,
    /// Milliseconds to connect.
    pub connect_timeout_ms: u64,
    /// Milliseconds for one image, redirects included.
    pub fetch_timeout_ms: u64,
    /// Redirects followed for one image.
    pub max_redirects: u32,
    /// Fetches at once, in all.
    pub fetch_concurrency: u32,
    /// Fetches at once for one host.
    pub host_concurrency: u32,
    /// Confidence below which nothing is written; `None`: the model's own.
    pub min_confidence: Option<f32>,
    /// Accept connections only once the model is ready (a successor), or at once (the first
    /// engine).
    pub wait_until_ready: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            model: PathBuf::new(),
            dtype: "auto".into(),
            tiles: TileMode::Auto,
            onnxruntime: PathBuf::new(),
            threads: 0,
            max_batch: 0,
            memory: 1 << 30,
            device: "cpu".into(),
            allowed_networks: Vec::new(),
            allowed_hosts: Vec::new(),
            proxy: None,
            max_image_size: 50 << 20,
            max_image_pixels: 100_000_000,
            connect_timeout_ms: 5_000,
            fetch_timeout_ms: 30_000,
            max_redirects: 5,
            fetch_concurrency: 32,
            host_concurrency: 6,
            min_confidence: None,
            wait_until_ready: false,
        }
    }
}
