//! `caption.lint`: the rules that a text breaks, whether a model or a user wrote it.
//!
//! Called by SQL. Reads styles only.

use super::style;
use pg_caption_publish::{MAX_NEIGHBOURS, lint as findings};
use pgrx::prelude::*;

/// Bytes of a text that are examined. No style permits so long a text.
const MAX_BYTES: usize = 65_536;

fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_BYTES)]
}

/// `caption.lint(text, style, neighbours)`.
#[pg_extern(sql = false, stable, parallel_safe)]
fn lint(
    text: Option<&str>,
    style: Option<&str>,
    neighbours: Option<Array<'_, &str>>,
) -> TableIterator<
    'static,
    (
        name!(rule, String),
        name!(github, Option<String>),
        name!(message, String),
        name!(position, i32),
    ),
> {
    let style = style::resolve(style.unwrap_or("concise"));
    let neighbours: Vec<&str> = match &neighbours {
        Some(others) => others.iter().flatten().take(MAX_NEIGHBOURS).map(bounded).collect(),
        None => Vec::new(),
    };
    let found = findings(text.map(bounded), &style, &neighbours);
    let row = |finding: pg_caption_publish::LintFinding| {
        let position = i32::try_from(finding.position).unwrap_or(i32::MAX);
        let github = finding.rule.github().map(str::to_owned);
        (finding.rule.id().to_owned(), github, finding.message, position)
    };
    TableIterator::new(found.into_iter().map(row).collect::<Vec<_>>())
}
