//! What is wrong with a row of `caption.style`, in the words of its columns. Called by the trigger
//! of the table. The constraints of the table, which show their names only, repeat the ranges: a
//! superuser can disable triggers.

use crate::patch::StylePatch;
use crate::validate::{MAX_CHARS, MIN_CHARS, MIN_MAX_CHARS, validate};
use crate::{builtin, builtin_names, json_problem};
use serde_json::{Map, Value};

/// Longest template and fallback of a style, characters.
const MAX_TEMPLATE: usize = 500;

/// Why the row, as `to_jsonb` writes it, is no style; `None` if it is one. The language is not
/// looked at.
///
/// ```
/// let row = serde_json::json!({ "name": "poetic", "instruction": "Rhyme.", "max_chars": 5 });
/// let problem = pg_caption_style::row_problem(row.as_object().unwrap().clone());
/// assert_eq!(problem.as_deref(), Some("max_chars must be from 10 to 4000, it is 5"));
/// ```
pub fn row_problem(row: Map<String, Value>) -> Option<String> {
    let name = row.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if builtin(&name).is_none() && row.get("instruction").is_none_or(Value::is_null) {
        return Some(format!("style \"{name}\" has no instruction"));
    }
    number_problem(&row).or_else(|| text_problem(&row)).or_else(|| {
        match StylePatch::from_row(row) {
            Ok(patch) => validate(&patch.completed(&name)).err().map(|error| error.to_string()),
            Err(error) => Some(json_problem(&error)),
        }
    })
}

fn number_problem(row: &Map<String, Value>) -> Option<String> {
    let ranges = [
        ("min_chars", MIN_CHARS, MAX_CHARS),
        ("max_chars", MIN_MAX_CHARS, MAX_CHARS),
        ("max_sentences", 1, i32::MAX as u32),
    ];
    ranges.into_iter().find_map(|(column, least, most)| {
        let number = row.get(column)?.as_i64()?;
        let fits = (i64::from(least)..=i64::from(most)).contains(&number);
        (!fits).then(|| format!("{column} must be from {least} to {most}, it is {number}"))
    })
}

fn text_problem(row: &Map<String, Value>) -> Option<String> {
    let text = |column| row.get(column).and_then(Value::as_str);
    let too_long = ["template", "fallback"].into_iter().find_map(|column| {
        let chars = text(column)?.chars().count();
        let fits = (1..=MAX_TEMPLATE).contains(&chars);
        (!fits)
            .then(|| format!("{column} must have 1 to {MAX_TEMPLATE} characters, it has {chars}"))
    });
    let task = text("task").filter(|task| !builtin_names().contains(task));
    let prompts = row.get("prompts").filter(|prompts| {
        !prompts.as_object().is_some_and(|prompts| prompts.values().all(Value::is_string))
    });
    too_long
        .or_else(|| {
            let names = builtin_names().join(", ");
            task.map(|task| format!("task must be one of {names}, it is \"{task}\""))
        })
        .or_else(|| prompts.map(|_| "prompts must be a JSON object of texts, by model_type".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problem(more: Value) -> Option<String> {
        let mut row = json!({ "name": "poetic", "instruction": "Rhyme.", "prompts": {} });
        for (column, value) in more.as_object().unwrap() {
            row[column] = value.clone();
        }
        row_problem(row.as_object().unwrap().clone())
    }

    #[test]
    fn usable_rows_have_no_problem() {
        for row in [
            json!({}),
            json!({ "name": "seo", "instruction": null, "max_chars": 90 }),
            json!({ "task": "concise", "min_chars": 1, "max_sentences": 1, "template": "{title}" }),
            json!({ "prompts": { "florence2": "Look." }, "fallback": null }),
            json!({ "instruction": "Rhyme.\r\n\tBriefly." }),
        ] {
            assert_eq!(problem(row.clone()), None, "{row}");
        }
    }

    #[test]
    fn each_column_is_named() {
        for (row, expected) in [
            (json!({ "instruction": null }), "style \"poetic\" has no instruction"),
            (json!({ "name": "Poetic" }), "style name \"Poetic\" is not allowed"),
            (json!({ "name": null }), "style name \"\" is not allowed"),
            (json!({ "instruction": "bell\u{7}" }), "the instruction must have 1 to 2000"),
            (json!({ "instruction": "x".repeat(2001) }), "the instruction must have 1 to 2000"),
            (json!({ "task": "rhyme" }), "task must be one of concise, seo, detailed"),
            (json!({ "min_chars": -1 }), "min_chars must be from 1 to 4000, it is -1"),
            (json!({ "max_chars": 9 }), "max_chars must be from 10 to 4000, it is 9"),
            (json!({ "max_sentences": 0 }), "max_sentences must be from 1 to"),
            (json!({ "min_chars": 50, "max_chars": 40 }), "lengths must satisfy"),
            (json!({ "prompts": [] }), "prompts must be a JSON object"),
            (json!({ "prompts": { "florence2": 1 } }), "prompts must be a JSON object"),
            (json!({ "prompts": { "florence2": " " } }), "the prompt for \"florence2\""),
            (json!({ "template": "" }), "template must have 1 to 500 characters, it has 0"),
            (json!({ "fallback": "x".repeat(501) }), "fallback must have 1 to 500 characters"),
        ] {
            let found = problem(row.clone()).unwrap_or_default();
            assert!(found.starts_with(expected), "{row}: {found}");
        }
    }
}
