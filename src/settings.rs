//! All `pg_caption.*` settings: defined from the table in `crates/wire`, read by the rest of the
//! extension, passed to the engine. Nothing else calls the GUC interface.

use pg_caption_wire::{
    EngineConfig, SETTINGS, SettingContext, SettingKind, SettingRow, SettingUnit, SettingValue,
    for_each_setting,
};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::time::Duration;

type TextSetting = GucSetting<Option<CString>>;

macro_rules! server_settings {
    ($(
        $name:ident: $kind:ident $arguments:tt, $context:ident
        $(engine $engine:tt)? $(cli $cli:tt)?,
        $description:literal, $detail:literal;
    )*) => {
        $(server_settings!(@type $kind $arguments $description);)*

        /// The variables, by name.
        #[allow(non_upper_case_globals)]
        mod variable {
            use super::*;
            $(server_settings!(@variable $name $kind $arguments);)*
        }

        /// The variables, in the order of [`SETTINGS`].
        static VARIABLES: &[&(dyn ServerSetting + Sync)] = &[$(&variable::$name),*];
    };

    (@type choice ($type:ident: $($variant:ident $text:literal),*) $description:literal) => {
        #[doc = $description]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
        pub enum $type {
            $(
                #[doc = concat!("`", stringify!($variant), "`")]
                #[name = $text]
                $variant,
            )*
        }

        impl ServerSetting for GucSetting<$type> {
            fn define(&'static self, row: &SettingRow, text: Texts, context: GucContext) {
                GucRegistry::define_enum_guc(
                    text.name, text.short, text.long, self, context, flags(row),
                );
            }

            fn pass(&self, row: &SettingRow, config: &mut EngineConfig) -> Result<(), String> {
                let name = match self.get() { $($type::$variant => $text),* };
                config.set(row.name, SettingValue::Text(&name.to_string_lossy()))
            }
        }
    };
    (@type $kind:ident $arguments:tt $description:literal) => {};

    (@variable $name:ident boolean ($default:literal)) => {
        pub static $name: GucSetting<bool> = GucSetting::<bool>::new($default);
    };
    (@variable $name:ident integer ($default:literal, $($bounds:tt)*)) => {
        pub static $name: GucSetting<i32> = GucSetting::<i32>::new($default);
    };
    (@variable $name:ident real ($default:literal, $($bounds:tt)*)) => {
        pub static $name: GucSetting<f64> = GucSetting::<f64>::new($default);
    };
    (@variable $name:ident text ($default:literal)) => {
        pub static $name: TextSetting = TextSetting::new(Some(c(concat!($default, "\0"))));
    };
    (@variable $name:ident path $arguments:tt) => {
        server_settings!(@variable $name text $arguments);
    };
    (@variable $name:ident choice ($type:ident: $default:ident $($others:tt)*)) => {
        pub static $name: GucSetting<$type> = GucSetting::<$type>::new($type::$default);
    };
}

for_each_setting!(server_settings);

/// A C string from a literal that ends with NUL.
const fn c(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("the literal does not end with NUL"),
    }
}

/// The texts of a setting as PostgreSQL keeps them.
struct Texts {
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
}

/// A variable of the server.
trait ServerSetting {
    /// Registers the variable.
    fn define(&'static self, row: &SettingRow, text: Texts, context: GucContext);

    /// Copies its value into the engine's configuration.
    fn pass(&self, row: &SettingRow, config: &mut EngineConfig) -> Result<(), String>;
}

impl ServerSetting for GucSetting<bool> {
    fn define(&'static self, row: &SettingRow, text: Texts, context: GucContext) {
        GucRegistry::define_bool_guc(text.name, text.short, text.long, self, context, flags(row));
    }

    fn pass(&self, row: &SettingRow, config: &mut EngineConfig) -> Result<(), String> {
        config.set(row.name, SettingValue::Boolean(self.get()))
    }
}

impl ServerSetting for GucSetting<i32> {
    fn define(&'static self, row: &SettingRow, text: Texts, context: GucContext) {
        let SettingKind::Integer { min, max, .. } = row.kind else { return };
        GucRegistry::define_int_guc(
            text.name,
            text.short,
            text.long,
            self,
            min,
            max,
            context,
            flags(row),
        );
    }

    fn pass(&self, row: &SettingRow, config: &mut EngineConfig) -> Result<(), String> {
        let SettingKind::Integer { unit, .. } = row.kind else { return Ok(()) };
        config.set(row.name, SettingValue::Integer(self.get(), unit))
    }
}

impl ServerSetting for GucSetting<f64> {
    fn define(&'static self, row: &SettingRow, text: Texts, context: GucContext) {
        let SettingKind::Real { min, max, .. } = row.kind else { return };
        GucRegistry::define_float_guc(
            text.name,
            text.short,
            text.long,
            self,
            min,
            max,
            context,
            flags(row),
        );
    }

    fn pass(&self, row: &SettingRow, config: &mut EngineConfig) -> Result<(), String> {
        config.set(row.name, SettingValue::Real(self.get()))
    }
}

impl ServerSetting for TextSetting {
    fn define(&'static self, row: &SettingRow, text: Texts, context: GucContext) {
        GucRegistry::define_string_guc(text.name, text.short, text.long, self, context, flags(row));
    }

    fn pass(&self, row: &SettingRow, config: &mut EngineConfig) -> Result<(), String> {
        config.set(row.name, SettingValue::Text(&string(self)))
    }
}

/// Units, and the restriction of texts and paths to superusers.
fn flags(row: &SettingRow) -> GucFlags {
    match row.kind {
        SettingKind::Integer { unit, .. } => match unit {
            SettingUnit::Count | SettingUnit::Megapixels => GucFlags::default(),
            SettingUnit::Megabytes => GucFlags::UNIT_MB,
            SettingUnit::Kilobytes => GucFlags::UNIT_KB,
            SettingUnit::Milliseconds => GucFlags::UNIT_MS,
            SettingUnit::Minutes => GucFlags::UNIT_MIN,
        },
        SettingKind::Text { .. } | SettingKind::Path { .. } => GucFlags::SUPERUSER_ONLY,
        _ => GucFlags::default(),
    }
}

/// Defines every setting and reserves the prefix.
pub fn init() {
    // PostgreSQL keeps pointers to the texts of a setting for the life of the process.
    let kept = |text: String| -> &'static CStr {
        Box::leak(CString::new(text).unwrap_or_default().into_boxed_c_str())
    };
    for (variable, row) in VARIABLES.iter().zip(SETTINGS) {
        let text = Texts {
            name: kept(format!("pg_caption.{}", row.name)),
            short: kept(row.description.into()),
            long: kept(row.detail.into()),
        };
        let context = match row.context {
            SettingContext::Sighup => GucContext::Sighup,
            SettingContext::User => GucContext::Userset,
        };
        variable.define(row, text, context);
    }
    // SAFETY: called once per process while the library loads; the name is a static C string.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_caption".as_ptr()) };
}

fn string(setting: &TextSetting) -> String {
    setting.get().map(|v| v.to_string_lossy().trim().to_string()).unwrap_or_default()
}

/// Whether queued rows are captioned.
pub fn enabled() -> bool {
    variable::enabled.get()
}

/// Maximum number of databases that are processed at the same time.
pub fn max_workers() -> usize {
    variable::max_workers.get() as usize
}

/// Maximum number of attempts before a queued row is recorded as failed.
pub fn max_attempts() -> i32 {
    variable::max_attempts.get()
}

/// Maximum time of one statement on a watched table.
pub fn write_timeout() -> Duration {
    Duration::from_millis(variable::write_timeout.get() as u64)
}

/// How long `caption.failure` keeps a row, minutes.
pub fn retention_minutes() -> i32 {
    variable::retention.get()
}

/// Maximum time of one call.
pub fn timeout() -> Duration {
    Duration::from_millis(variable::timeout.get() as u64)
}

/// Largest picture that is accepted, bytes.
pub fn max_image_size() -> u64 {
    // The setting is in kilobytes.
    variable::max_image_size.get() as u64 * 1024
}

impl OnError {
    /// The value with this name, as the setting takes it.
    pub fn named(name: &str) -> Option<OnError> {
        [("error", OnError::Error), ("null", OnError::Null)]
            .into_iter()
            .find_map(|(known, value)| name.eq_ignore_ascii_case(known).then_some(value))
    }
}

/// What `caption_image` does if a picture cannot be captioned.
pub fn on_error() -> OnError {
    variable::on_error.get()
}

/// Rows ahead of whose turn their pictures are requested; 0: none.
pub fn lookahead() -> usize {
    /// Twice the largest batch that a model suggests.
    const DEFAULT: usize = 16;
    match (variable::lookahead.get(), variable::max_batch.get()) {
        (-1, 0) => DEFAULT,
        (-1, batch) => 2 * batch as usize,
        (rows, _) => rows as usize,
    }
}

/// The session's threshold; `None`: that of the model.
pub fn min_confidence() -> Option<f32> {
    let value = variable::min_confidence.get();
    (value >= 0.0).then_some(value as f32)
}

fn package_library_directory() -> PathBuf {
    // SAFETY: a NUL-terminated array that the postmaster fills before any library is loaded and
    // that never changes afterwards.
    let path = unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast()) };
    Path::new(&*path.to_string_lossy()).join("pg_caption")
}

fn share_directory() -> PathBuf {
    let mut buffer = [0 as core::ffi::c_char; pg_sys::MAXPGPATH as usize];
    // SAFETY: my_exec_path is a NUL-terminated array set at start; the output buffer has the
    // MAXPGPATH bytes that the function requires.
    let path = unsafe {
        pg_sys::get_share_path((&raw const pg_sys::my_exec_path).cast(), buffer.as_mut_ptr());
        CStr::from_ptr(buffer.as_ptr())
    };
    Path::new(&*path.to_string_lossy()).join("pg_caption")
}

/// A path setting; an empty one means the installed file.
fn path_or(setting: &TextSetting, installed: impl FnOnce() -> PathBuf) -> PathBuf {
    match string(setting) {
        path if path.is_empty() => installed(),
        path => path.into(),
    }
}

/// The engine program.
pub fn engine_program() -> PathBuf {
    path_or(&variable::engine, || package_library_directory().join("pg_caption_engine"))
}

/// The directory of the model folders.
pub fn models_directory() -> PathBuf {
    path_or(&variable::models_directory, || share_directory().join("models"))
}

/// The folder of the active model.
pub fn model() -> PathBuf {
    // `join` keeps an absolute path as it is.
    models_directory().join(string(&variable::model))
}

/// The file of request headers; `None`: no file. A relative path starts in the data directory.
pub fn fetch_headers_file() -> Option<PathBuf> {
    let path = string(&variable::fetch_headers_file);
    (!path.is_empty()).then(|| std::path::absolute(&path).unwrap_or_else(|_| path.into()))
}

/// The configuration message of the engine, from the current settings.
pub fn engine_config() -> EngineConfig {
    let mut config = EngineConfig::default();
    for (variable, row) in VARIABLES.iter().zip(SETTINGS).filter(|(_, row)| row.engine) {
        if let Err(reason) = variable.pass(row, &mut config) {
            pgrx::error!("{reason}; this is a bug in pg_caption");
        }
    }
    config.model = model();
    config.fetch_headers_file = fetch_headers_file().unwrap_or_default();
    config.models_directory = models_directory();
    config.onnxruntime =
        path_or(&variable::onnxruntime, || package_library_directory().join("libonnxruntime.so"));
    config
}
