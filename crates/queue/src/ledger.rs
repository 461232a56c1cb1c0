//! The ledger's entries: which text was written into which column, for which URL, by which model,
//! or as a fallback.
//!
//! An entry is a JSON object within `caption.ledger.outputs`, by column. Entries of earlier
//! releases have the two hashes alone.

use crate::draft::draft_of;
use crate::job::{FillText, hash};
use crate::{CurrentRow, WatchFill, WatchedTable};
use pg_caption_wire::{EarlierCaption, ModelRef, WrittenCaption};
use serde_json::{Map, Value, json};

/// Characters of a model's digest that an entry names.
const DIGEST_CHARS: usize = 12;

/// The source of a text that is not a model's.
const FALLBACK: &str = "fallback";
/// What [`is_withdrawn`] looks for; written by `caption.withdraw()`.
pub const WITHDRAWN: &str = "withdrawn";

/// State of a text that a reviewer has approved.
pub const APPROVED: &str = "approved";

/// The entry of a text: the hashes of the text as stored and of its URL, and where it is from.
pub fn ledger_entry(
    stored: &FillText,
    url: &str,
    (fill, text): (&WatchFill, &str),
    (written, model, file): (&WrittenCaption, &ModelRef, &str),
) -> Value {
    let picture = picture_digest(file, &model.digest);
    // Of a cascade, the one that wrote this text.
    let model = written.model.as_ref().unwrap_or(model);
    let digest = model.digest.get(..DIGEST_CHARS).unwrap_or(&model.digest);
    json!({
        "text": stored.ledger_hash(),
        "url": hash(url),
        "written": text,
        "caption": written.caption,
        "source": "model",
        "confidence": written.confidence,
        "style": fill.style.name,
        "language": fill.style.language,
        "as": request_digest(fill),
        "picture": picture,
        "model": format!("{}@{digest}", model.name),
    })
}

/// The entry of a fallback. Without a request's digest: `caption.recaption()` asks again.
pub fn fallback_entry(stored: &FillText, url: &str, (fill, text): (&WatchFill, &str)) -> Value {
    json!({
        "text": stored.ledger_hash(),
        "url": hash(url),
        "written": text,
        "source": FALLBACK,
        "style": fill.style.name,
    })
}

/// Whether a fill has the fallback for its picture. Its failure stays.
pub fn has_fallback(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
) -> bool {
    (0..table.fills.len()).any(|fill| {
        let draft = draft_of(table, ledger, fill).and_then(|draft| draft.get("source")?.as_str());
        draft == Some(FALLBACK)
            || is_fallback_text(table, ledger, fill)
                && is_machine_written(table, current, ledger, fill)
    })
}

/// Whether the text that the ledger has for a fill is its fallback.
pub fn is_fallback_text(table: &WatchedTable, ledger: &Map<String, Value>, fill: usize) -> bool {
    noted(table, ledger, fill, "source") == Some(FALLBACK)
}

/// Hash of the SHA-256 of a picture's file and of the digest of the model that was asked about it.
pub fn picture_digest(file: &str, model: &str) -> String {
    let mut digest = hash(&format!("{file} {model}"));
    digest.truncate(32);
    digest
}

/// The caption that the ledger has for a fill, if a model wrote it for this picture.
pub fn earlier_caption(
    table: &WatchedTable,
    ledger: &Map<String, Value>,
    fill: usize,
    picture: &str,
) -> Option<EarlierCaption> {
    let entry = ledger.get(&table.fills[fill].column)?;
    // Texts of one row may be of several files and models.
    let is_of_picture = entry.get("picture")?.as_str() == Some(picture);
    if !is_of_picture || entry.get("source")?.as_str() != Some("model") {
        return None;
    }
    let caption = entry.get("caption")?.as_str().filter(|caption| !caption.is_empty())?;
    let confidence = entry.get("confidence").and_then(Value::as_f64);
    let (name, digest) = entry.get("model")?.as_str()?.rsplit_once('@')?;
    Some(EarlierCaption {
        caption: caption.into(),
        confidence: confidence.map(|confidence| confidence as f32),
        model: Some(ModelRef { name: name.into(), digest: digest.into() }),
    })
}

/// Hash of all that a fill requests besides the picture: a text with another one was written for
/// other wishes, and is captioned again by `caption.recaption()` though the picture is the same.
pub fn request_digest(fill: &WatchFill) -> String {
    let style = serde_json::to_string(&fill.style).unwrap_or_default();
    let mut digest = hash(&format!("{} {style} {:?}", fill.max_tokens, fill.template));
    digest.truncate(16);
    digest
}

/// A text in the ledger's entry of a fill.
pub fn noted<'a>(
    table: &WatchedTable,
    ledger: &'a Map<String, Value>,
    fill: usize,
    name: &str,
) -> Option<&'a str> {
    ledger.get(&table.fills[fill].column)?.get(name)?.as_str()
}

/// Whether the ledger has the current text of a fill: it is machine-written.
pub fn is_machine_written(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
    fill: usize,
) -> bool {
    let digest = current.texts.get(fill).and_then(FillText::digest);
    digest.is_some() && noted(table, ledger, fill, "text") == digest.as_deref()
}

/// Whether the owner took the text for this URL out again: the fill stays empty.
pub fn is_withdrawn(
    table: &WatchedTable,
    ledger: &Map<String, Value>,
    fill: usize,
    url_hash: &str,
) -> bool {
    noted(table, ledger, fill, "state") == Some(WITHDRAWN)
        && noted(table, ledger, fill, "url") == Some(url_hash)
}
