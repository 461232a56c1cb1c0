//! The constraints of `caption.style` in `sql/schema.sql` are the limits of this crate.

use pg_caption_style::{
    MAX_CHARS, MAX_NAME, MIN_CHARS, MIN_MAX_CHARS, StylePatch, StyleTask, builtin_names,
};
use std::path::Path;

/// The definition of the table, with single spaces.
fn table() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql/schema.sql");
    let schema = std::fs::read_to_string(path).expect("sql/schema.sql");
    let from = schema.split("CREATE TABLE caption.style (").nth(1).expect("caption.style");
    let table = from.split(");\n").next().unwrap_or_default();
    table.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn has(constraint: String) {
    let table = table();
    assert!(table.contains(&constraint), "{constraint} is not in {table}");
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

#[test]
fn names_have_the_same_form() {
    has(format!("CHECK (name ~ '^[a-z][a-z0-9_]{{0,{}}}$')", MAX_NAME - 1));
}

#[test]
fn lengths_have_the_same_bounds() {
    has(format!("CHECK (min_chars BETWEEN {MIN_CHARS} AND {MAX_CHARS})"));
    has(format!("CHECK (max_chars BETWEEN {MIN_MAX_CHARS} AND {MAX_CHARS})"));
    has("CHECK (min_chars <= max_chars)".into());
    has("CHECK (max_sentences > 0)".into());
}

#[test]
fn tasks_and_built_in_names_are_the_same() {
    let tasks = [StyleTask::Concise, StyleTask::Seo, StyleTask::Detailed].map(StyleTask::name);
    has(format!("CHECK (task IN ({}))", quoted(tasks)));
    has(format!("CHECK (instruction IS NOT NULL OR name IN ({}))", quoted(builtin_names())));
}

#[test]
fn prompts_are_texts_by_family() {
    has("jsonb_typeof(prompts) = 'object'".into());
    has("NOT jsonb_path_exists(prompts, '$.* ? (@.type() != \"string\")')".into());
    for (prompts, accepted) in [
        (serde_json::json!({"florence2": "Look."}), true),
        (serde_json::json!({"florence2": 1}), false),
        (serde_json::json!(["Look."]), false),
    ] {
        let row = serde_json::Map::from_iter([("prompts".to_string(), prompts.clone())]);
        assert_eq!(StylePatch::from_row(row).is_ok(), accepted, "{prompts}");
    }
}

#[test]
fn every_column_belongs_to_the_patch() {
    let table = table();
    let columns: Vec<&str> = table
        .split(", ")
        .filter_map(|part| part.split(' ').next())
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .filter(|word| !["name", ""].contains(word))
        .collect();
    assert!(columns.contains(&"max_sentences"), "{columns:?}");
    for column in columns {
        // A wrong type is an error for a known column; an unknown one is ignored.
        let row = serde_json::Map::from_iter([(column.to_string(), serde_json::json!([[]]))]);
        assert!(StylePatch::from_row(row).is_err(), "{column} is not part of StylePatch");
    }
}
