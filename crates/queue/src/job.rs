//! Which rows need which texts: the row as it is, its ledger entry, and the job made from both.

use crate::{PageId, RowKey, WatchedTable};
use pg_caption_wire::{CaptionRequest, ImageSource, KnownPicture, OutputSpec};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Deadline of one row in the engine, whose own limits for connecting and fetching are far lower.
const ROW_DEADLINE: Duration = Duration::from_secs(300);

/// A row that needs captions.
#[derive(Debug, Clone)]
pub struct RowJob {
    /// The row.
    pub row: RowKey,
    /// The page to acknowledge; `None`: acknowledged when the row was postponed.
    pub page: Option<PageId>,
    /// The URL to caption.
    pub url: String,
    /// Indexes of the watch's fills that need a text.
    pub fills: Vec<usize>,
    /// The row's ledger: column to [`ledger_entry`].
    pub ledger: Map<String, Value>,
    /// `caption.recaption` requires new captions for the same URL.
    pub recaption: bool,
    /// HTTP validators of the picture that all ledger entries were written for.
    pub validators: Option<KnownPicture>,
    /// The engine may answer "unchanged" for this picture: no text is missing.
    pub known: Option<KnownPicture>,
    /// Charged attempts.
    pub attempts: i32,
    /// Engines lost with this job alone in flight.
    pub engine_losses: u32,
}

impl RowJob {
    /// The host of the URL, as written between `//` and the path. A host that is spelled in two
    /// ways counts as two.
    pub fn host(&self) -> &str {
        let after = self.url.split_once("//").map_or("", |(_, after)| after);
        after.split(['/', '?', '#', '\\']).next().unwrap_or_default()
    }

    /// The request to the engine; the connection sets its id.
    pub fn request(&self, table: &WatchedTable) -> CaptionRequest {
        let output = |fill: &usize| OutputSpec {
            style: table.fills[*fill].style.clone(),
            max_tokens: table.max_tokens,
            context: None,
        };
        CaptionRequest {
            id: 0,
            share: None,
            image: ImageSource::Url { url: self.url.clone(), known: self.known.clone() },
            outputs: self.fills.iter().map(output).collect(),
            remaining_ms: ROW_DEADLINE.as_millis() as u64,
            // Watches use the server's threshold, which the engine knows.
            min_confidence: None,
        }
    }
}

/// A row as it is now.
#[derive(Debug, Clone)]
pub struct CurrentRow {
    /// Its URL.
    pub url: Option<String>,
    /// Its texts, in the order of the watch's fills.
    pub texts: Vec<Option<String>>,
}

/// Hash of a URL or a text in the ledger: the first half of its SHA-256, in hex.
pub fn hash(text: &str) -> String {
    let mut hex = format!("{:x}", Sha256::digest(text.as_bytes()));
    hex.truncate(32);
    hex
}

/// The ledger's entry for one text: its hash, and the hash of the URL that it was written for.
pub fn ledger_entry(text: &str, url: &str) -> Value {
    serde_json::json!({ "text": hash(text), "url": hash(url) })
}

/// Whether the ledger has the current text of a fill: it is machine-written.
pub fn is_machine_written(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
    fill: usize,
) -> bool {
    let text = current.texts.get(fill).and_then(Option::as_deref).unwrap_or_default();
    noted(table, ledger, fill, "text") == Some(hash(text).as_str())
}

/// A hash in the ledger's entry of a fill.
pub fn noted<'a>(
    table: &WatchedTable,
    ledger: &'a Map<String, Value>,
    fill: usize,
    name: &str,
) -> Option<&'a str> {
    ledger.get(&table.fills[fill].column)?.get(name)?.as_str()
}

/// Indexes of the fills that need a text: empty ones, machine-written ones of another URL (or of
/// this one, with `recaption`), and user-edited ones where the watch overwrites and the ledger does
/// not know this URL.
pub fn needed_fills(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
    recaption: bool,
) -> Vec<usize> {
    let Some(url) = current.url.as_deref().filter(|url| !url.is_empty()) else { return Vec::new() };
    let url = hash(url);
    let is_needed = |fill: &usize| {
        let empty = current.texts[*fill].as_deref().unwrap_or_default().is_empty();
        let new_url = noted(table, ledger, *fill, "url") != Some(url.as_str());
        empty
            || (is_machine_written(table, current, ledger, *fill) && (new_url || recaption))
            || (new_url && table.overwrite)
    };
    (0..current.texts.len()).filter(is_needed).collect()
}

/// What the ledger and `caption.deferred` have for one key.
#[derive(Debug, Clone, Default)]
pub struct RowHistory {
    /// Column to [`ledger_entry`].
    pub ledger: Map<String, Value>,
    /// Last captioned before the time from which `caption.recaption` requires new captions.
    pub recaption: bool,
    /// Hash of the URL captioned last.
    pub url: String,
    /// HTTP validators of its picture.
    pub validators: Option<KnownPicture>,
    /// Charged attempts.
    pub attempts: i32,
}

impl RowHistory {
    /// A job for a row whose `fills` need a text.
    pub fn job(
        self,
        row: RowKey,
        page: PageId,
        url: String,
        fills: Vec<usize>,
        current: &[Option<String>],
    ) -> RowJob {
        let validators = self.validators.filter(|_| self.url == hash(&url));
        // A missing text is written even if the picture is unchanged: the ledger has hashes, not
        // texts.
        let has_text = |fill: &usize| {
            current.get(*fill).and_then(Option::as_deref).is_some_and(|text| !text.is_empty())
        };
        let is_complete = self.recaption && fills.iter().all(has_text);
        let known = validators.clone().filter(|_| is_complete);
        RowJob {
            row,
            page: Some(page),
            url,
            fills,
            ledger: self.ledger,
            recaption: self.recaption,
            validators,
            known,
            attempts: self.attempts,
            engine_losses: 0,
        }
    }
}
