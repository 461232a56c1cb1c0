//! All `pg_caption.*` settings and what the engine is told of them.

use pg_caption_wire::{EngineConfig, TileMode};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `caption_image` does where a picture cannot be captioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum OnError {
    /// Raises an error.
    error,
    /// Warns and returns NULL; failures of the engine itself still raise.
    null,
}

/// When a tiling model cuts a picture into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum When {
    /// For detailed captions.
    auto,
    /// Never.
    one,
    /// Always.
    all,
}

type Text = GucSetting<Option<CString>>;

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static MODEL: Text = Text::new(Some(c"default"));
static DTYPE: Text = Text::new(Some(c"auto"));
static TILES: GucSetting<When> = GucSetting::<When>::new(When::auto);
static MODELS_DIRECTORY: Text = Text::new(Some(c""));
static ONNXRUNTIME: Text = Text::new(Some(c""));
static ENGINE: Text = Text::new(Some(c""));
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_BATCH: GucSetting<i32> = GucSetting::<i32>::new(0);
static MEMORY: GucSetting<i32> = GucSetting::<i32>::new(1024);
static DEVICE: Text = Text::new(Some(c"cpu"));
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static ALLOWED_NETWORKS: Text = Text::new(Some(c""));
static ALLOWED_HOSTS: Text = Text::new(Some(c""));
static PROXY: Text = Text::new(Some(c""));
static MAX_IMAGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(50 * 1024);
static MAX_IMAGE_PIXELS: GucSetting<i32> = GucSetting::<i32>::new(100);
static CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static FETCH_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);
static MAX_REDIRECTS: GucSetting<i32> = GucSetting::<i32>::new(5);
static FETCH_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(32);
static HOST_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(6);
static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(8);
static WRITE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(30 * 24 * 60);
static TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static ON_ERROR: GucSetting<OnError> = GucSetting::<OnError>::new(OnError::error);
static MIN_CONFIDENCE: GucSetting<f64> = GucSetting::<f64>::new(-1.0);

/// Defines every setting and reserves the prefix.
pub fn init() {
    use GucContext::{Sighup, Userset};
    let none = GucFlags::default();
    let boolean = |name, short, setting, context| {
        GucRegistry::define_bool_guc(name, short, c"", setting, context, none)
    };
    let text = |name, short, long, setting| {
        GucRegistry::define_string_guc(name, short, long, setting, Sighup, GucFlags::SUPERUSER_ONLY)
    };
    let int = |name, short, setting, min, max, flags| {
        GucRegistry::define_int_guc(name, short, c"", setting, min, max, Sighup, flags)
    };

    boolean(c"pg_caption.enabled", c"Whether queues are drained.", &ENABLED, Sighup);
    text(
        c"pg_caption.model",
        c"The active model.",
        c"A folder name under pg_caption.models_directory, or an absolute path.",
        &MODEL,
    );
    text(
        c"pg_caption.dtype",
        c"Which graph files are used.",
        c"auto, or a file suffix: fp32, fp16, quantized, int8, uint8, q4, q4f16.",
        &DTYPE,
    );
    GucRegistry::define_enum_guc(
        c"pg_caption.tiles",
        c"When a model that cuts pictures into tiles does so.",
        c"auto: for styles with the task detailed; one: never; all: always. More tiles show more and cost as many times.",
        &TILES,
        Sighup,
        none,
    );
    text(
        c"pg_caption.models_directory",
        c"Where model folders lie.",
        c"Empty: installed with the extension.",
        &MODELS_DIRECTORY,
    );
    text(
        c"pg_caption.onnxruntime",
        c"The ONNX Runtime library.",
        c"Absolute path. Empty: installed with the extension.",
        &ONNXRUNTIME,
    );
    GucRegistry::define_string_guc(
        c"pg_caption.engine",
        c"The engine program.",
        c"Absolute path. Empty: installed with the extension.",
        &ENGINE,
        Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    int(
        c"pg_caption.threads",
        c"Threads the model may use; 0: half the cores.",
        &THREADS,
        0,
        1024,
        none,
    );
    int(
        c"pg_caption.max_batch",
        c"Pictures in one model call; 0: as the model suggests.",
        &MAX_BATCH,
        0,
        256,
        none,
    );
    int(
        c"pg_caption.memory",
        c"Memory for pictures in flight, beyond the model.",
        &MEMORY,
        64,
        1 << 20,
        GucFlags::UNIT_MB,
    );
    text(c"pg_caption.device", c"Where the model runs.", c"cpu.", &DEVICE);
    int(
        c"pg_caption.max_workers",
        c"Databases drained at the same time.",
        &MAX_WORKERS,
        0,
        64,
        none,
    );
    text(
        c"pg_caption.allowed_networks",
        c"Networks open to fetches although they are private.",
        c"Comma-separated CIDR list, e.g. 127.0.0.0/8, 10.2.0.0/16.",
        &ALLOWED_NETWORKS,
    );
    text(
        c"pg_caption.allowed_hosts",
        c"Hosts that may be fetched from.",
        c"Comma-separated patterns; empty: every public host.",
        &ALLOWED_HOSTS,
    );
    text(
        c"pg_caption.proxy",
        c"An HTTP proxy for all fetches.",
        c"A URL; never taken from the environment.",
        &PROXY,
    );
    int(
        c"pg_caption.max_image_size",
        c"Largest picture file.",
        &MAX_IMAGE_SIZE,
        1,
        1 << 20,
        GucFlags::UNIT_KB,
    );
    int(
        c"pg_caption.max_image_pixels",
        c"Largest picture, in megapixels.",
        &MAX_IMAGE_PIXELS,
        1,
        10_000,
        none,
    );
    int(
        c"pg_caption.connect_timeout",
        c"Longest time to connect.",
        &CONNECT_TIMEOUT,
        1,
        3_600_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"pg_caption.fetch_timeout",
        c"Longest time to fetch one image.",
        &FETCH_TIMEOUT,
        1,
        3_600_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"pg_caption.max_redirects",
        c"Redirects followed for one image.",
        &MAX_REDIRECTS,
        0,
        50,
        none,
    );
    int(
        c"pg_caption.fetch_concurrency",
        c"Fetches at once, in all.",
        &FETCH_CONCURRENCY,
        1,
        1024,
        none,
    );
    int(
        c"pg_caption.host_concurrency",
        c"Fetches at once for one host.",
        &HOST_CONCURRENCY,
        1,
        1024,
        none,
    );
    int(
        c"pg_caption.max_attempts",
        c"Attempts before a queued row is recorded as failed.",
        &MAX_ATTEMPTS,
        1,
        1000,
        none,
    );
    int(
        c"pg_caption.write_timeout",
        c"Longest time that reading or writing rows of a watched table may take at a stretch, its own triggers included.",
        &WRITE_TIMEOUT,
        100,
        3_600_000,
        GucFlags::UNIT_MS,
    );
    int(
        c"pg_caption.retention",
        c"How long caption.failure keeps a row.",
        &RETENTION,
        1,
        i32::MAX,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_int_guc(
        c"pg_caption.timeout",
        c"Longest time one call waits, all waiting included.",
        c"",
        &TIMEOUT,
        1,
        i32::MAX,
        Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"pg_caption.on_error",
        c"What caption_image does where a picture cannot be captioned.",
        c"error: raise; null: warn and return NULL. Failures of the engine itself always raise.",
        &ON_ERROR,
        Userset,
        none,
    );
    GucRegistry::define_float_guc(
        c"pg_caption.min_confidence",
        c"Confidence below which nothing is written.",
        c"0 to 1; -1: the model's own.",
        &MIN_CONFIDENCE,
        -1.0,
        1.0,
        Userset,
        none,
    );
    // SAFETY: called once per process while the library loads; the name is a static C string.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_caption".as_ptr()) };
}

fn string(setting: &Text) -> String {
    setting.get().map(|v| v.to_string_lossy().trim().to_string()).unwrap_or_default()
}

fn list(setting: &Text) -> Vec<String> {
    string(setting)
        .split(',')
        .map(|part| part.trim().to_string())
        .filter(|part| !part.is_empty())
        .collect()
}

/// Whether queues are drained.
pub fn enabled() -> bool {
    ENABLED.get()
}

/// Databases drained at the same time.
pub fn max_workers() -> usize {
    MAX_WORKERS.get() as usize
}

/// Attempts before a queued row is recorded as failed.
pub fn max_attempts() -> i32 {
    MAX_ATTEMPTS.get()
}

/// Longest time for one statement on a watched table.
pub fn write_timeout() -> Duration {
    Duration::from_millis(WRITE_TIMEOUT.get() as u64)
}

/// How long `caption.failure` keeps a row, minutes.
pub fn retention_minutes() -> i32 {
    RETENTION.get()
}

/// Longest time one call waits.
pub fn timeout() -> Duration {
    Duration::from_millis(TIMEOUT.get() as u64)
}

/// What `caption_image` does where a picture cannot be captioned.
pub fn on_error() -> OnError {
    ON_ERROR.get()
}

/// The caller's threshold; `None`: the engine's.
pub fn min_confidence() -> Option<f32> {
    let value = MIN_CONFIDENCE.get();
    (value >= 0.0).then_some(value as f32)
}

fn package_library_directory() -> PathBuf {
    // SAFETY: a NUL-terminated array that the postmaster fills before any library is loaded and
    // nobody changes afterwards.
    let path = unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast()) };
    Path::new(&*path.to_string_lossy()).join("pg_caption")
}

fn share_directory() -> PathBuf {
    let mut buffer = [0 as core::ffi::c_char; pg_sys::MAXPGPATH as usize];
    // SAFETY: my_exec_path is a NUL-terminated array set at start; the output buffer has the
    // MAXPGPATH bytes the function asks for.
    let path = unsafe {
        pg_sys::get_share_path((&raw const pg_sys::my_exec_path).cast(), buffer.as_mut_ptr());
        CStr::from_ptr(buffer.as_ptr())
    };
    Path::new(&*path.to_string_lossy()).join("pg_caption")
}

/// The engine program.
pub fn engine_program() -> PathBuf {
    match string(&ENGINE) {
        path if path.is_empty() => package_library_directory().join("pg_caption_engine"),
        path => path.into(),
    }
}

/// Where model folders lie.
pub fn models_directory() -> PathBuf {
    match string(&MODELS_DIRECTORY) {
        path if path.is_empty() => share_directory().join("models"),
        path => path.into(),
    }
}

/// The model's folder.
pub fn model() -> PathBuf {
    // `join` keeps an absolute path as it is.
    models_directory().join(string(&MODEL))
}

/// The one configuration message of the engine, from the settings as they are now.
pub fn engine_config() -> EngineConfig {
    EngineConfig {
        model: model(),
        dtype: string(&DTYPE),
        tiles: match TILES.get() {
            When::auto => TileMode::Auto,
            When::one => TileMode::One,
            When::all => TileMode::All,
        },
        onnxruntime: match string(&ONNXRUNTIME) {
            path if path.is_empty() => package_library_directory().join("libonnxruntime.so"),
            path => path.into(),
        },
        threads: THREADS.get() as u32,
        max_batch: MAX_BATCH.get() as u32,
        memory: (MEMORY.get() as u64) << 20,
        device: string(&DEVICE),
        allowed_networks: list(&ALLOWED_NETWORKS),
        allowed_hosts: list(&ALLOWED_HOSTS),
        proxy: Some(string(&PROXY)).filter(|proxy| !proxy.is_empty()),
        max_image_size: (MAX_IMAGE_SIZE.get() as u64) << 10,
        max_image_pixels: MAX_IMAGE_PIXELS.get() as u64 * 1_000_000,
        connect_timeout_ms: CONNECT_TIMEOUT.get() as u64,
        fetch_timeout_ms: FETCH_TIMEOUT.get() as u64,
        max_redirects: MAX_REDIRECTS.get() as u32,
        fetch_concurrency: FETCH_CONCURRENCY.get() as u32,
        host_concurrency: HOST_CONCURRENCY.get() as u32,
        min_confidence: min_confidence(),
        wait_until_ready: false,
    }
}
