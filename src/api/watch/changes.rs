//! Reports what a call of `caption.watch` changed about an existing watch.
//!
//! Called by `watch`, after everything was changed.

use super::arguments::WatchOptions;
use pg_caption_style::FillDefinition;

/// A notice with the changes.
pub fn report(table: &str, before: &WatchOptions, after: &WatchOptions) {
    let changes = changes(before, after);
    match changes.is_empty() {
        true => pgrx::notice!("the watch of table {table} starts again, unchanged"),
        false => pgrx::notice!("the watch of table {table} was changed: {}", changes.join(", ")),
    }
}

fn changes(before: &WatchOptions, after: &WatchOptions) -> Vec<String> {
    let mut changes = Vec::new();
    let mut note = |name: &str, before: String, after: String| {
        if before != after {
            changes.push(format!("{name} from {before} to {after}"));
        }
    };
    note("image", before.image.clone(), after.image.clone());
    note("max_tokens", before.max_tokens.to_string(), after.max_tokens.to_string());
    note("overwrite", before.overwrite.to_string(), after.overwrite.to_string());
    note("on_replica", before.on_replica.to_string(), after.on_replica.to_string());
    let base = |options: &WatchOptions| options.base_url.clone().unwrap_or("none".into());
    note("base_url", base(before), base(after));
    let sign = |options: &WatchOptions| options.sign.clone().unwrap_or("none".into());
    note("sign", sign(before), sign(after));
    let context = |options: &WatchOptions| match options.context.is_empty() {
        true => "none".into(),
        false => options.context.join(", "),
    };
    note("context", context(before), context(after));
    let follows = |options: &WatchOptions| options.follow_context.to_string();
    note("follow_context", follows(before), follows(after));
    let blank = |options: &WatchOptions| if options.keeps_blank { "keep" } else { "none" };
    note("blank", blank(before).into(), blank(after).into());
    note("review", before.review.to_string(), after.review.to_string());
    let condition = |options: &WatchOptions| options.condition.clone().unwrap_or("none".into());
    note("condition", condition(before), condition(after));
    let channel = |options: &WatchOptions| options.notify.clone().unwrap_or("none".into());
    note("notify", channel(before), channel(after));
    for (column, fill) in &after.fills {
        match before.fills.iter().find(|(known, _)| known == column) {
            None => {
                changes.push(format!("column \"{column}\" is filled with style {}", shown(fill)));
            }
            Some((_, old)) if old != fill => changes.push(format!(
                "column \"{column}\" has style {} instead of {}",
                shown(fill),
                shown(old)
            )),
            Some(_) => {}
        }
    }
    let removed = before
        .fills
        .iter()
        .filter(|(column, _)| after.fills.iter().all(|(remaining, _)| remaining != column));
    changes.extend(removed.map(|(column, _)| format!("column \"{column}\" is no longer filled")));
    changes
}

/// The name of a plain style, else the whole definition.
fn shown(fill: &FillDefinition) -> String {
    match fill.to_json() {
        serde_json::Value::String(style) => style,
        definition => definition.to_string(),
    }
}
