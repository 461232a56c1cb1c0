//! Settings as PostgreSQL shows them are those of the table in crates/wire.

use pg_caption_tests::shared_database;
use pg_caption_wire::{SETTINGS, SettingContext, SettingKind, SettingValue};

#[test]
fn settings_match_their_table() {
    let db = shared_database();
    // Loads the library in this session.
    let mut session = db.session();
    session.run("SELECT caption_image(NULL::text)");
    let mut shown = session.rows(
        "SELECT name, boot_val, coalesce(unit, ''), context, vartype, min_val, max_val, short_desc
           FROM pg_settings WHERE name LIKE 'pg_caption.%' ORDER BY name",
    );
    let mut expected: Vec<Vec<Option<String>>> = SETTINGS
        .iter()
        .map(|setting| {
            let (default, unit) = match setting.default_value() {
                SettingValue::Boolean(on) => (if on { "on" } else { "off" }.to_string(), ""),
                SettingValue::Integer(value, unit) => (value.to_string(), unit.name()),
                SettingValue::Real(value) => (value.to_string(), ""),
                SettingValue::Text(text) => (text.to_string(), ""),
            };
            let context = match setting.context {
                SettingContext::Sighup => "sighup",
                SettingContext::User => "user",
            };
            let (kind, range) = match setting.kind {
                SettingKind::Boolean { .. } => ("bool", None),
                SettingKind::Integer { min, max, .. } => {
                    ("integer", Some((min.to_string(), max.to_string())))
                }
                SettingKind::Real { min, max, .. } => {
                    ("real", Some((min.to_string(), max.to_string())))
                }
                SettingKind::Choice { .. } => ("enum", None),
                SettingKind::Text { .. } | SettingKind::Path { .. } => ("string", None),
            };
            let (min, max) = range.unzip();
            [
                Some(format!("pg_caption.{}", setting.name)),
                Some(default),
                Some(unit.into()),
                Some(context.into()),
                Some(kind.into()),
                min,
                max,
                Some(setting.description.into()),
            ]
            .into()
        })
        .collect();
    shown.sort();
    expected.sort();
    assert_eq!(shown, expected);
}
