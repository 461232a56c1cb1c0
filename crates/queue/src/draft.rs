//! Drafts: texts that wait for a review, kept in the ledger's entry of their column.
//!
//! An entry may have a written text, a draft, or both: a text stays in its row until the draft that
//! would replace it is approved.

use crate::job::hash;
use crate::ledger::request_digest;
use crate::{WatchFill, WatchedTable};
use serde_json::{Map, Value};

/// The member of a ledger entry that holds the draft.
pub const DRAFT: &str = "draft";
/// State of a draft that waits for its review.
pub const PENDING: &str = "draft";
/// State of a draft that a reviewer did not want.
pub const REJECTED: &str = "rejected";

/// The draft of a fill.
pub fn draft_of<'a>(
    table: &WatchedTable,
    ledger: &'a Map<String, Value>,
    fill: usize,
) -> Option<&'a Map<String, Value>> {
    ledger.get(&table.fills[fill].column)?.get(DRAFT)?.as_object()
}

/// A text in a draft.
fn text_of<'a>(draft: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    draft.get(name)?.as_str()
}

/// Whether nothing is requested because of a draft for this URL: it waits, or it was rejected and
/// the fill still asks for the same. A request to caption the row again replaces a waiting one.
pub fn is_drafted(
    table: &WatchedTable,
    ledger: &Map<String, Value>,
    fill: usize,
    url_hash: &str,
) -> bool {
    draft_of(table, ledger, fill).is_some_and(|draft| {
        let is_rejected = text_of(draft, "state") == Some(REJECTED);
        text_of(draft, "url") == Some(url_hash)
            && (!is_rejected || was_requested_so(draft, &table.fills[fill]))
    })
}

/// Whether a draft was requested as the fill requests now. A fallback is of no request.
pub fn was_requested_so(draft: &Map<String, Value>, fill: &WatchFill) -> bool {
    text_of(draft, "as").is_none_or(|digest| digest == request_digest(fill))
}

/// Whether the fill has a draft of another URL.
pub fn is_stale(table: &WatchedTable, ledger: &Map<String, Value>, fill: usize, url: &str) -> bool {
    let drafted = draft_of(table, ledger, fill).and_then(|draft| text_of(draft, "url"));
    drafted.is_some_and(|drafted| drafted != hash(url))
}

/// Whether a new draft says nothing new after a rejected one: the same picture, model and request.
pub fn is_rejected_already(rejected: Option<&Map<String, Value>>, draft: &Value) -> bool {
    rejected.is_some_and(|rejected| {
        let is_same = |name: &str| rejected.get(name) == draft.get(name);
        text_of(rejected, "state") == Some(REJECTED)
            && rejected.get("image").is_some_and(|image| !image.is_null())
            && ["url", "image", "model", "as"].into_iter().all(is_same)
    })
}

/// A ledger entry without its draft; `None`: nothing else is in it.
pub fn without_draft(entry: &Value) -> Option<Value> {
    let mut entry = entry.as_object()?.clone();
    entry.remove(DRAFT);
    (!entry.is_empty()).then_some(Value::Object(entry))
}

/// A ledger entry with another draft.
pub fn with_draft(entry: Option<Value>, draft: Value) -> Value {
    let mut entry = entry.and_then(|entry| entry.as_object().cloned()).unwrap_or_default();
    entry.insert(DRAFT.into(), draft);
    Value::Object(entry)
}

/// A draft from the entry that its text would have if it were written: it waits, for the picture
/// with this SHA-256.
pub fn draft_from(mut entry: Value, image: Option<&str>) -> Value {
    if let Some(draft) = entry.as_object_mut() {
        // The hash of a text in the row, which has no such text yet.
        draft.remove("text");
        draft.insert("state".into(), PENDING.into());
        draft.insert("image".into(), image.into());
    }
    entry
}

/// Names a draft as it is: another text, state or picture has another version.
pub fn draft_version(draft: &Map<String, Value>) -> String {
    let text = serde_json::to_string(draft).unwrap_or_default();
    let mut version = hash(&text);
    version.truncate(16);
    version
}
