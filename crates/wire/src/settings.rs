//! The one table of settings. The extension makes its server settings from it (`src/settings.rs`),
//! this crate the engine's configuration (`config.rs`), the engine its command line.
//!
//! A new setting of the engine is one row here and its consumer. The table knows nothing of
//! PostgreSQL: contexts and units are names that the extension translates.

/// Calls the macro `$callback` with the table of settings.
///
/// A row: `name: kind(default …), context engine(field: type) cli(flag, value, note), description,
/// detail;`. Kinds are `boolean(default)`, `integer(default, min, max, unit)`, `real(default, min,
/// max)`, `text(default)`, `path(default)` and `choice(Type: Variant c"name", …)`, whose first
/// variant is the default. `engine(…)` names the field of [`crate::EngineConfig`] that receives the
/// value, `cli(…)` the flag of the engine's command line with the name of its value. An empty
/// `note` shows the default. Texts and paths are visible to superusers only.
#[macro_export]
macro_rules! for_each_setting {
    ($callback:ident) => {
        $callback! {
            enabled: boolean(true), sighup,
                "Enables captioning of queued rows.",
                "";
            model: path("default"), sighup engine(model: std::path::PathBuf),
                "Sets the active model.",
                "A folder name in \"pg_caption.models_directory\", or an absolute path.";
            dtype: text("auto"), sighup engine(dtype: String) cli("dtype", "SUFFIX", ""),
                "Selects the graph files of the model by precision.",
                "\"auto\", or a file suffix: fp32, fp16, quantized, int8, uint8, q4, q4f16.";
            tiles: choice(TileMode: Auto c"auto", One c"one", All c"all"),
                sighup engine(tiles: $crate::TileMode)
                cli("tiles", "WHEN", "[default: auto; all with --exact]"),
                "Selects when a tiling model splits a picture into tiles.",
                "auto: for detailed styles; one: never; all: always. Tiles multiply the cost.";
            models_directory: path(""), sighup engine(models_directory: std::path::PathBuf),
                "Sets the directory of the model folders.",
                "Empty means the directory installed with the extension.";
            onnxruntime: path(""), sighup engine(onnxruntime: std::path::PathBuf),
                "Sets the ONNX Runtime library.",
                "An absolute path. Empty means the library installed with the extension.";
            engine: path(""), sighup,
                "Sets the engine program.",
                "An absolute path. Empty means the program installed with the extension.";
            threads: integer(0, 0, 1024, Count),
                sighup engine(threads: u32) cli("threads", "N", ""),
                "Sets the number of threads of the model.",
                "Zero means half the processor cores.";
            max_batch: integer(0, 0, 256, Count),
                sighup engine(max_batch: u32) cli("batch", "N", ""),
                "Sets the maximum number of pictures in one call of the model.",
                "Zero means the number that the model suggests.";
            memory: integer(1024, 64, 1_048_576, Megabytes), sighup engine(memory: u64),
                "Sets the maximum memory for pictures in flight.",
                "The memory of the model itself is not included.";
            memo: integer(64, 0, 1_048_576, Megabytes), sighup engine(memo: u64),
                "Sets the maximum memory for answers of the model that are kept for a while.",
                "Zero means none.";
            max_workers: integer(2, 0, 64, Count), sighup,
                "Sets the maximum number of databases that are processed at the same time.",
                "";
            allowed_networks: text(""), sighup engine(allowed_networks: Vec<String>)
                cli("allow-network", "CIDR", "[repeatable]"),
                "Sets the private networks from which pictures may be fetched.",
                "A comma-separated list in CIDR form, such as 127.0.0.0/8, 10.2.0.0/16.";
            allowed_hosts: text(""), sighup engine(allowed_hosts: Vec<String>),
                "Sets the hosts from which pictures may be fetched.",
                "A comma-separated list of patterns. Empty means every public host.";
            proxy: text(""), sighup engine(proxy: Option<String>),
                "Sets the HTTP proxy for all fetches.",
                "A URL. Proxies named by the environment are ignored.";
            fetch_headers_file: path(""), sighup engine(fetch_headers_file: std::path::PathBuf),
                "Sets the file of request headers for chosen hosts.",
                "A JSON file; empty means none. A reload reads it again.";
            max_image_size: integer(51_200, 1, 1_048_576, Kilobytes),
                sighup engine(max_image_size: u64),
                "Sets the maximum size of a picture file.",
                "";
            max_image_pixels: integer(100, 1, 10_000, Megapixels),
                sighup engine(max_image_pixels: u64),
                "Sets the maximum size of a picture in megapixels.",
                "";
            connect_timeout: integer(5_000, 1, 3_600_000, Milliseconds),
                sighup engine(connect_timeout_ms: u64),
                "Sets the maximum time to look up a host, and again to connect to it.",
                "";
            fetch_timeout: integer(30_000, 1, 3_600_000, Milliseconds),
                sighup engine(fetch_timeout_ms: u64),
                "Sets the maximum time to fetch one picture.",
                "Redirects are included.";
            max_redirects: integer(5, 0, 50, Count), sighup engine(max_redirects: u32),
                "Sets the maximum number of redirects for one picture.",
                "";
            fetch_concurrency: integer(32, 1, 1024, Count),
                sighup engine(fetch_concurrency: u32),
                "Sets the maximum number of concurrent fetches.",
                "";
            host_concurrency: integer(6, 1, 1024, Count), sighup engine(host_concurrency: u32),
                "Sets the maximum number of concurrent fetches from one host.",
                "";
            max_attempts: integer(8, 1, 1000, Count), sighup,
                "Sets the maximum number of attempts before a queued row is recorded as failed.",
                "";
            write_timeout: integer(10_000, 100, 3_600_000, Milliseconds), sighup,
                "Sets the maximum time of one statement on a watched table.",
                "The triggers of the table are included.";
            retention: integer(43_200, 1, 2_147_483_647, Minutes), sighup,
                "Sets how long caption.failure keeps a row.",
                "";
            timeout: integer(60_000, 1, 2_147_483_647, Milliseconds), user,
                "Sets the maximum time of one call.",
                "All waiting is included.";
            on_error: choice(OnError: Error c"error", Null c"null"), user,
                "Selects what caption_image does if a picture cannot be captioned.",
                "error raises, null warns and returns NULL. Engine failures always raise.";
            min_confidence: real(-1.0, -1.0, 1.0), user engine(min_confidence: Option<f32>)
                cli("min-confidence", "X", "[default: the model's own]"),
                "Sets the confidence below which no caption is written.",
                "0 to 1; -1 means the threshold of the model.";
            block_obscenity: boolean(true), sighup engine(block_obscenity: bool),
                "Refuses captions with slurs or obscene words.",
                "";
            lookahead: integer(-1, -1, 1024, Count), user,
                "Sets the number of rows whose pictures a statement requests ahead of their turn.",
                "-1 means twice \"pg_caption.max_batch\", or 16 if that is 0; 0 means none.";
        }
    };
}

/// One setting, `pg_caption.` [`SettingRow::name`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SettingRow {
    /// Name without the prefix `pg_caption.`.
    pub name: &'static str,
    /// Type, default and bounds.
    pub kind: SettingKind,
    /// Who may change it.
    pub context: SettingContext,
    /// Whether it is part of [`crate::EngineConfig`].
    pub engine: bool,
    /// Its flag on the engine's command line.
    pub flag: Option<SettingFlag>,
    /// One sentence, as `pg_settings.short_desc` shows it.
    pub description: &'static str,
    /// Further sentences, as `pg_settings.extra_desc` shows them; may be empty.
    pub detail: &'static str,
}

/// Type, default and bounds of a setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SettingKind {
    /// On or off.
    Boolean {
        /// The default.
        default: bool,
    },
    /// A whole number of `unit`.
    Integer {
        /// The default.
        default: i32,
        /// Smallest value.
        min: i32,
        /// Largest value.
        max: i32,
        /// What is counted.
        unit: SettingUnit,
    },
    /// A real number.
    Real {
        /// The default.
        default: f64,
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// Any text.
    Text {
        /// The default.
        default: &'static str,
    },
    /// A path, which the extension completes.
    Path {
        /// The default.
        default: &'static str,
    },
    /// One of several names; the first is the default.
    Choice {
        /// The names.
        names: &'static [&'static str],
    },
}

/// What an integer setting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingUnit {
    /// A number without a unit.
    Count,
    /// 1024 × 1024 bytes.
    Megabytes,
    /// 1024 bytes.
    Kilobytes,
    /// Milliseconds.
    Milliseconds,
    /// Minutes.
    Minutes,
    /// 1,000,000 pixels. PostgreSQL has no such unit.
    Megapixels,
}

impl SettingUnit {
    /// As PostgreSQL writes the unit; empty where it has none.
    pub fn name(self) -> &'static str {
        match self {
            SettingUnit::Count | SettingUnit::Megapixels => "",
            SettingUnit::Megabytes => "MB",
            SettingUnit::Kilobytes => "kB",
            SettingUnit::Milliseconds => "ms",
            SettingUnit::Minutes => "min",
        }
    }

    /// Bytes, pixels or counts in one unit. Times are passed on as they are.
    pub(crate) fn factor(self) -> u64 {
        match self {
            SettingUnit::Megabytes => 1 << 20,
            SettingUnit::Kilobytes => 1 << 10,
            SettingUnit::Megapixels => 1_000_000,
            SettingUnit::Count | SettingUnit::Milliseconds | SettingUnit::Minutes => 1,
        }
    }

    /// Larger units, each with its size in the unit before it.
    fn larger(self) -> &'static [(&'static str, i32)] {
        match self {
            SettingUnit::Kilobytes => &[("MB", 1024), ("GB", 1024), ("TB", 1024)],
            SettingUnit::Megabytes => &[("GB", 1024), ("TB", 1024)],
            SettingUnit::Milliseconds => &[("s", 1000), ("min", 60), ("h", 60), ("d", 24)],
            SettingUnit::Minutes => &[("h", 60), ("d", 24)],
            SettingUnit::Count | SettingUnit::Megapixels => &[],
        }
    }
}

/// Who may change a setting, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingContext {
    /// The configuration files and `ALTER SYSTEM`, with a reload.
    Sighup,
    /// Any session.
    User,
}

/// A flag of the engine's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingFlag {
    /// Without the leading dashes.
    pub flag: &'static str,
    /// Name of the value in the help.
    pub value: &'static str,
    /// Replaces the note on the default in the help, unless empty.
    pub note: &'static str,
}

/// A value of a setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SettingValue<'a> {
    /// On or off.
    Boolean(bool),
    /// A whole number of the unit.
    Integer(i32, SettingUnit),
    /// A real number.
    Real(f64),
    /// A text, a path or the name of a choice.
    Text(&'a str),
}

impl SettingRow {
    /// The default.
    pub fn default_value(&self) -> SettingValue<'static> {
        match self.kind {
            SettingKind::Boolean { default } => SettingValue::Boolean(default),
            SettingKind::Integer { default, unit, .. } => SettingValue::Integer(default, unit),
            SettingKind::Real { default, .. } => SettingValue::Real(default),
            SettingKind::Text { default } | SettingKind::Path { default } => {
                SettingValue::Text(default)
            }
            SettingKind::Choice { names } => SettingValue::Text(names[0]),
        }
    }

    /// The default as `SHOW` prints it: `on`, `1GB`, `30s`.
    pub fn default_text(&self) -> String {
        match self.default_value() {
            SettingValue::Boolean(on) => if on { "on" } else { "off" }.into(),
            SettingValue::Integer(value, unit) => {
                let (mut value, mut name) = (value, unit.name());
                for (larger, size) in unit.larger() {
                    if value == 0 || value % size != 0 {
                        break;
                    }
                    (value, name) = (value / size, larger);
                }
                format!("{value}{name}")
            }
            SettingValue::Real(value) => value.to_string(),
            SettingValue::Text(text) => text.into(),
        }
    }

    /// Reads a value, numbers in the setting's own unit. Bounds are not checked.
    ///
    /// # Errors
    /// The text does not fit the type.
    pub fn parse<'a>(&self, text: &'a str) -> Result<SettingValue<'a>, String> {
        let text = text.trim();
        match self.kind {
            SettingKind::Boolean { .. } => match text {
                "on" | "true" => Ok(SettingValue::Boolean(true)),
                "off" | "false" => Ok(SettingValue::Boolean(false)),
                _ => Err("use on or off".into()),
            },
            SettingKind::Integer { unit, .. } => text
                .parse()
                .map(|value| SettingValue::Integer(value, unit))
                .map_err(|_| "it is not a whole number".into()),
            SettingKind::Real { .. } => {
                text.parse().map(SettingValue::Real).map_err(|_| "it is not a number".into())
            }
            SettingKind::Text { .. } | SettingKind::Path { .. } => Ok(SettingValue::Text(text)),
            SettingKind::Choice { names } if names.contains(&text) => Ok(SettingValue::Text(text)),
            SettingKind::Choice { names } => Err(format!("use {}", names.join(", "))),
        }
    }
}

macro_rules! settings_table {
    ($(
        $name:ident: $kind:ident $arguments:tt, $context:ident
        $(engine($field:ident: $type:ty))? $(cli($flag:literal, $value:literal, $note:literal))?,
        $description:literal, $detail:literal;
    )*) => {
        /// All settings, in the order of the documentation.
        pub const SETTINGS: &[SettingRow] = &[$(SettingRow {
            name: stringify!($name),
            kind: settings_table!(@kind $kind $arguments),
            context: settings_table!(@context $context),
            engine: settings_table!(@given $($field)?),
            flag: settings_table!(@flag $($flag $value $note)?),
            description: $description,
            detail: $detail,
        }),*];
    };
    (@kind boolean ($default:literal)) => {
        SettingKind::Boolean { default: $default }
    };
    (@kind integer ($default:literal, $min:literal, $max:literal, $unit:ident)) => {
        SettingKind::Integer {
            default: $default,
            min: $min,
            max: $max,
            unit: SettingUnit::$unit,
        }
    };
    (@kind real ($default:literal, $min:literal, $max:literal)) => {
        SettingKind::Real { default: $default, min: $min, max: $max }
    };
    (@kind text ($default:literal)) => {
        SettingKind::Text { default: $default }
    };
    (@kind path ($default:literal)) => {
        SettingKind::Path { default: $default }
    };
    (@kind choice ($type:ident: $($variant:ident $name:literal),*)) => {
        SettingKind::Choice { names: &[$(text($name)),*] }
    };
    (@context sighup) => { SettingContext::Sighup };
    (@context user) => { SettingContext::User };
    (@given $field:ident) => { true };
    (@given) => { false };
    (@flag $flag:literal $value:literal $note:literal) => {
        Some(SettingFlag { flag: $flag, value: $value, note: $note })
    };
    (@flag) => { None };
}

/// The name of a choice, which the table holds as PostgreSQL needs it.
const fn text(name: &'static std::ffi::CStr) -> &'static str {
    match name.to_str() {
        Ok(text) => text,
        Err(_) => panic!("names of choices are UTF-8"),
    }
}

for_each_setting!(settings_table);

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> &'static SettingRow {
        SETTINGS.iter().find(|row| row.name == name).expect("a setting of that name")
    }

    #[test]
    fn defaults_are_shown_in_the_largest_unit() {
        for (name, shown) in [
            ("enabled", "on"),
            ("memory", "1GB"),
            ("max_image_size", "50MB"),
            ("max_image_pixels", "100"),
            ("connect_timeout", "5s"),
            ("timeout", "1min"),
            ("retention", "30d"),
            ("threads", "0"),
            ("min_confidence", "-1"),
            ("tiles", "auto"),
            ("proxy", ""),
        ] {
            assert_eq!(row(name).default_text(), shown, "{name}");
        }
    }

    #[test]
    fn values_are_read_by_type() {
        assert_eq!(row("threads").parse("4"), Ok(SettingValue::Integer(4, SettingUnit::Count)));
        assert_eq!(row("tiles").parse("one"), Ok(SettingValue::Text("one")));
        assert_eq!(row("enabled").parse("off"), Ok(SettingValue::Boolean(false)));
        assert_eq!(row("min_confidence").parse("0.5"), Ok(SettingValue::Real(0.5)));
        for (name, text) in [("threads", "x"), ("tiles", "two"), ("min_confidence", "high")] {
            assert!(row(name).parse(text).is_err(), "{name} {text}");
        }
    }

    #[test]
    fn defaults_are_within_their_bounds() {
        for row in SETTINGS {
            match row.kind {
                SettingKind::Integer { default, min, max, .. } => {
                    assert!((min..=max).contains(&default), "{}", row.name);
                }
                SettingKind::Real { default, min, max } => {
                    assert!((min..=max).contains(&default), "{}", row.name);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn descriptions_are_whole_sentences() {
        for row in SETTINGS {
            assert!(row.description.starts_with(|c: char| c.is_ascii_uppercase()), "{}", row.name);
            assert!(row.description.ends_with('.'), "{}", row.name);
            assert!(row.detail.is_empty() || row.detail.ends_with('.'), "{}", row.name);
            // `pg_settings` shows both on one line.
            assert!(!row.detail.contains('\n'), "{}", row.name);
        }
    }
}
