//! Settings of the server as arguments of the command line, made from the table of settings in
//! `crates/wire`. Locations (model, ONNX Runtime) are arguments of their own, because they default
//! to what is installed with the program.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use pg_caption_wire::{EngineConfig, SETTINGS, SettingKind, SettingRow};
use std::marker::PhantomData;

/// Which settings a subcommand accepts.
pub trait SettingSubset {
    /// Whether the subcommand accepts this setting, which has a flag.
    fn accepts(row: &SettingRow) -> bool;
}

/// Every setting that has a flag.
#[derive(Debug, Clone, Copy)]
pub struct AllSettings;

impl SettingSubset for AllSettings {
    fn accepts(_: &SettingRow) -> bool {
        true
    }
}

/// The settings that decide how a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadSettings;

impl SettingSubset for LoadSettings {
    fn accepts(row: &SettingRow) -> bool {
        matches!(row.name, "dtype" | "threads")
    }
}

/// The given settings, with their texts.
#[derive(Debug, Clone)]
pub struct SettingArgs<S> {
    given: Vec<(&'static SettingRow, String)>,
    subset: PhantomData<S>,
}

impl<S> SettingArgs<S> {
    /// Puts the given settings into a configuration.
    ///
    /// # Errors
    /// A value that does not fit; the parser has checked all of them.
    pub fn apply(&self, config: &mut EngineConfig) -> Result<(), String> {
        self.given.iter().try_for_each(|(row, text)| config.set(row.name, row.parse(text)?))
    }
}

fn rows<S: SettingSubset>() -> impl Iterator<Item = &'static SettingRow> {
    SETTINGS.iter().filter(|row| row.engine && row.flag.is_some() && S::accepts(row))
}

/// Whether the flag can be repeated: its values become one comma-separated text.
fn is_list(row: &SettingRow) -> bool {
    matches!(row.kind, SettingKind::Text { default: "" })
}

fn argument(row: &'static SettingRow) -> Option<Arg> {
    let flag = row.flag?;
    let note = match flag.note {
        "" => format!("[default: {}]", row.default_text()),
        note => note.into(),
    };
    let help = [row.description, row.detail, &note];
    let help = help.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let check = move |text: &str| {
        EngineConfig::default().set(row.name, row.parse(text)?)?;
        Ok::<_, String>(text.to_string())
    };
    let action = if is_list(row) { ArgAction::Append } else { ArgAction::Set };
    Some(
        Arg::new(row.name)
            .long(flag.flag)
            .value_name(flag.value)
            .help(help)
            .action(action)
            .allow_negative_numbers(true)
            .value_parser(check),
    )
}

impl<S: SettingSubset> Args for SettingArgs<S> {
    fn augment_args(command: Command) -> Command {
        command.args(rows::<S>().filter_map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: SettingSubset> FromArgMatches for SettingArgs<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = rows::<S>().filter_map(|row| {
            let values: Vec<&str> =
                matches.get_many::<String>(row.name)?.map(String::as_str).collect();
            Some((row, values.join(",")))
        });
        Ok(SettingArgs { given: given.collect(), subset: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_wire::TileMode;

    fn config<S: SettingSubset>(arguments: &[&str]) -> Result<EngineConfig, String> {
        let command = SettingArgs::<S>::augment_args(Command::new("x").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).map_err(|e| e.to_string())?;
        let arguments = SettingArgs::<S>::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        let mut config = EngineConfig::default();
        arguments.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn flags_set_their_fields() {
        let config = config::<AllSettings>(&[
            "--dtype=q4",
            "--tiles=one",
            "--threads=3",
            "--batch=2",
            "--min-confidence=0.25",
            "--allow-network=10.0.0.0/8",
            "--allow-network=::1",
        ]);
        let expected = EngineConfig {
            dtype: "q4".into(),
            tiles: TileMode::One,
            threads: 3,
            max_batch: 2,
            min_confidence: Some(0.25),
            allowed_networks: vec!["10.0.0.0/8".into(), "::1".into()],
            ..EngineConfig::default()
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_flag() {
        for wrong in ["--threads=many", "--tiles=two", "--min-confidence=high", "--threads=-1"] {
            let flag = wrong.split('=').next().unwrap();
            let error = config::<AllSettings>(&[wrong]).unwrap_err();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn loading_takes_its_own_settings_only() {
        assert_eq!(config::<LoadSettings>(&["--threads=2"]).unwrap().threads, 2);
        assert!(config::<LoadSettings>(&["--batch=2"]).is_err());
    }
}
