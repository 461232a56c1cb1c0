//! The one configuration message: the first line that the launcher writes to the engine's standard
//! input. Made from the table of settings.

use crate::ModelUse;
use crate::settings::{SETTINGS, SettingKind, SettingUnit, SettingValue};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// When a tiling model splits a picture into tiles. Tiles show details and multiply the cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TileMode {
    /// For styles with the task `detailed`; other styles see the picture as one tile.
    #[default]
    Auto,
    /// Never.
    One,
    /// Always, if the model's folder asks for tiles.
    All,
}

macro_rules! engine_config {
    ($(
        $name:ident: $kind:ident $arguments:tt, $context:ident
        $(engine($field:ident: $type:ty))? $(cli $cli:tt)?,
        $description:literal, $detail:literal;
    )*) => {
        /// Everything the engine may use and do. Sizes are in bytes and pixels, times in
        /// milliseconds, paths are absolute.
        ///
        /// ```
        /// use pg_caption_wire::{EngineConfig, SettingUnit, SettingValue};
        ///
        /// let mut config = EngineConfig::default();
        /// config.set("memory", SettingValue::Integer(64, SettingUnit::Megabytes)).unwrap();
        /// assert_eq!(config.memory, 64 << 20);
        /// ```
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct EngineConfig {
            $($(
                #[doc = $description]
                ///
                #[doc = $detail]
                pub $field: $type,
            )?)*
            /// Changes with the file at `fetch_headers_file`, so that a changed file starts a
            /// successor. Nothing of its contents is in it.
            pub fetch_headers_stamp: String,
            /// Whether to accept connections only after the model is ready (a successor), instead
            /// of immediately (the first engine).
            pub wait_until_ready: bool,
            /// What earlier engines used of the daily limits of models.
            pub daily_use: Vec<ModelUse>,
        }

        impl EngineConfig {
            /// Every field empty or zero.
            fn empty() -> EngineConfig {
                EngineConfig {
                    $($($field: Default::default(),)?)*
                    fetch_headers_stamp: String::new(),
                    wait_until_ready: false,
                    daily_use: Vec::new(),
                }
            }

            /// Sets the field of the setting `name` (without `pg_caption.`).
            ///
            /// # Errors
            /// The engine has no such setting, or the value does not fit its type.
            pub fn set(&mut self, name: &str, value: SettingValue<'_>) -> Result<(), String> {
                match name {
                    $($(stringify!($name) => self.$field = field(name, value)?,)?)*
                    _ => return Err(format!("the engine has no setting \"{name}\"")),
                }
                Ok(())
            }
        }
    };
}

crate::for_each_setting!(engine_config);

impl Default for EngineConfig {
    /// The defaults of the table; paths are empty.
    fn default() -> Self {
        let mut config = EngineConfig::empty();
        for row in SETTINGS {
            if row.engine && !matches!(row.kind, SettingKind::Path { .. }) {
                config.set(row.name, row.default_value()).expect("defaults fit. This is a bug.");
            }
        }
        config
    }
}

/// A type that a field of the configuration can have.
trait ConfigField: Sized {
    /// `None` if the value is of another type or too large.
    fn from_value(value: SettingValue<'_>) -> Option<Self>;
}

fn field<F: ConfigField>(name: &str, value: SettingValue<'_>) -> Result<F, String> {
    F::from_value(value).ok_or_else(|| format!("the value does not fit \"{name}\""))
}

impl ConfigField for bool {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        if let SettingValue::Boolean(on) = value { Some(on) } else { None }
    }
}

impl ConfigField for u64 {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        let SettingValue::Integer(value, unit) = value else { return None };
        u64::try_from(value).ok()?.checked_mul(SettingUnit::factor(unit))
    }
}

impl ConfigField for u32 {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        u64::from_value(value)?.try_into().ok()
    }
}

/// Negative numbers stand for "not set".
impl ConfigField for Option<f32> {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        let SettingValue::Real(value) = value else { return None };
        Some((value >= 0.0).then_some(value as f32))
    }
}

impl ConfigField for String {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        if let SettingValue::Text(text) = value { Some(text.trim().into()) } else { None }
    }
}

/// The empty text stands for "not set".
impl ConfigField for Option<String> {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        String::from_value(value).map(|text| Some(text).filter(|text| !text.is_empty()))
    }
}

/// A comma-separated list.
impl ConfigField for Vec<String> {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        let SettingValue::Text(text) = value else { return None };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Some(parts.map(String::from).collect())
    }
}

impl ConfigField for PathBuf {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        String::from_value(value).map(PathBuf::from)
    }
}

impl ConfigField for TileMode {
    fn from_value(value: SettingValue<'_>) -> Option<Self> {
        match value {
            SettingValue::Text("auto") => Some(TileMode::Auto),
            SettingValue::Text("one") => Some(TileMode::One),
            SettingValue::Text("all") => Some(TileMode::All),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_come_from_the_table() {
        let config = EngineConfig::default();
        assert_eq!(
            (config.memory, config.max_image_size, config.max_image_pixels),
            (1 << 30, 50 << 20, 100_000_000)
        );
        assert_eq!((config.connect_timeout_ms, config.fetch_timeout_ms), (5_000, 30_000));
        assert_eq!((config.dtype.as_str(), config.tiles), ("auto", TileMode::Auto));
        assert_eq!((config.proxy, config.min_confidence), (None, None));
        assert!(config.allowed_hosts.is_empty() && config.model.as_os_str().is_empty());
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let mut config = EngineConfig::default();
        config.set("allowed_networks", SettingValue::Text(" 10.0.0.0/8,, ::1 ")).unwrap();
        assert_eq!(config.allowed_networks, ["10.0.0.0/8", "::1"]);
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let mut config = EngineConfig::default();
        for (name, value) in [
            ("memory", SettingValue::Text("1GB")),
            ("threads", SettingValue::Integer(-1, SettingUnit::Count)),
            ("tiles", SettingValue::Text("two")),
            ("timeout", SettingValue::Integer(1, SettingUnit::Milliseconds)),
        ] {
            assert!(config.set(name, value).unwrap_err().contains(name), "{name}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<EngineConfig>(r#"{"device": "cpu"}"#).is_err());
        let config: EngineConfig = serde_json::from_str(r#"{"threads": 3}"#).unwrap();
        assert_eq!(config, EngineConfig { threads: 3, ..EngineConfig::default() });
    }
}
