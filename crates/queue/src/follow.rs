//! Words of a row that change after a text was written: what of the text is made again.
//!
//! Pure. Entries of the ledger note the words that a text shows, and the context that its prompt
//! held. Called by the examiner and by [`crate::RowUpdate`].

use crate::draft::draft_of;
use crate::job::hash;
use crate::ledger::{is_fallback_text, is_machine_written, noted};
use crate::{CurrentRow, FillText, WatchedTable};
use pg_caption_publish::TextTemplate;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Characters of a digest for the fixed part of a template, and for the words in it.
const SHAPE_CHARS: usize = 8;
const WORDS_CHARS: usize = 16;

/// Words of a row, read together with its texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FollowedWords {
    /// The context columns with words: column and text, cleaned and bounded.
    pub context: Vec<(String, String)>,
    /// Hashes of the words of [`WatchedTable::followed_columns`], without NULLs.
    pub digests: BTreeMap<String, String>,
}

/// Digest of a context.
pub fn context_digest(context: &[(String, String)]) -> String {
    let words: Vec<&str> = context.iter().map(|(_, word)| word.as_str()).collect();
    let mut digest = hash(&words.join("\n"));
    digest.truncate(WORDS_CHARS);
    digest
}

/// Digest of a template and of the words that it shows; names of columns do not count, so that a
/// renamed column changes nothing. `digest_of`: the hash of a column's words, if it has any.
pub fn words_digest(template: &TextTemplate, digest_of: impl Fn(&str) -> Option<String>) -> String {
    let words: Vec<String> =
        template.columns().map(|column| digest_of(column).unwrap_or_default()).collect();
    let (shape, words) = (hash(&template.shape()), hash(&words.join(" ")));
    format!("{}{}", &shape[..SHAPE_CHARS], &words[..WORDS_CHARS])
}

/// Whether a text has to be requested again: its prompt held a context that has changed since.
pub fn asks_again(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
    fill: usize,
) -> bool {
    let context = noted(table, ledger, fill, "context").filter(|_| table.follow_context);
    context.is_some_and(|context| context != context_digest(&current.followed.context))
        && is_plain(table, ledger, fill)
}

/// Whether a user has decided nothing about the text, nor is to decide about its draft.
fn is_plain(table: &WatchedTable, ledger: &Map<String, Value>, fill: usize) -> bool {
    noted(table, ledger, fill, "state").is_none() && draft_of(table, ledger, fill).is_none()
}

/// The template that made the text of a fill.
fn shown<'a>(
    table: &'a WatchedTable,
    ledger: &Map<String, Value>,
    fill: usize,
) -> Option<&'a TextTemplate> {
    let of = &table.fills[fill];
    if is_fallback_text(table, ledger, fill) { &of.fallback } else { &of.template }.as_ref()
}

/// Indexes of the machine-written fills, without those in `needed`, whose text shows words that
/// have changed. Texts of another template stay: `caption.recaption()` writes them again.
pub fn rendered_fills(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
    needed: &[usize],
) -> Vec<usize> {
    let url = current.written_url();
    if !table.follow_context || url.is_empty() {
        return Vec::new();
    }
    let url = hash(url);
    let has_changed = |fill: &usize| {
        let (Some(template), Some(old)) =
            (shown(table, ledger, *fill), noted(table, ledger, *fill, "words"))
        else {
            return false;
        };
        let new = words_digest(template, |column| current.followed.digests.get(column).cloned());
        old != new && old.get(..SHAPE_CHARS) == new.get(..SHAPE_CHARS)
    };
    let is_ours = |fill: &usize| {
        noted(table, ledger, *fill, "url") == Some(url.as_str())
            && is_plain(table, ledger, *fill)
            && is_machine_written(table, current, ledger, *fill)
    };
    (0..table.fills.len())
        .filter(|fill| !needed.contains(fill) && is_ours(fill) && has_changed(fill))
        .collect()
}

/// The text of a fill with the words of the locked row: the caption in the ledger in its template,
/// or the fallback, which is `None` without words. `None`: it is not machine-written any longer.
pub fn rendered_text(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
    fill: usize,
) -> Option<Option<String>> {
    if !is_machine_written(table, current, ledger, fill) {
        return None;
    }
    let (template, rules) = (shown(table, ledger, fill)?, &table.fills[fill].style.rules);
    if is_fallback_text(table, ledger, fill) {
        return Some(template.fallback(&current.words, rules));
    }
    let caption = noted(table, ledger, fill, "caption")?;
    Some(Some(template.render(caption, &current.words, rules)))
}

/// The entry of a text that was rendered again: everything about its caption stays.
pub fn rendered_entry(stored: &FillText, text: &str, before: Option<&Value>) -> Value {
    let mut entry = before.cloned().unwrap_or_default();
    entry["text"] = stored.ledger_hash().into();
    entry["written"] = text.into();
    entry
}
