//! Which rows need what: a row as it is, what the ledger says of it, and the job that comes of
//! both.

use crate::{PageId, Row, Watched};
use pg_caption_wire::{CaptionRequest, ImageSource, KnownPicture, OutputSpec};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

/// Time the engine has for one row; its own limits for connecting and fetching are far below.
const PATIENCE: Duration = Duration::from_secs(300);

/// A row that needs captions.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which row.
    pub row: Row,
    /// Page to count off when it is done; `None`: it was counted off when the row was put aside.
    pub page: Option<PageId>,
    /// The URL to caption.
    pub url: String,
    /// Indexes into the watch's fills that need a text.
    pub cells: Vec<usize>,
    /// What the ledger says was written before: column to [`entry`].
    pub ours: Map<String, Value>,
    /// `caption.recaption` wants it captioned again although its URL is the same.
    pub again: bool,
    /// What the server said of the picture that all of it was written for.
    pub seen: Option<KnownPicture>,
    /// The picture need not be looked at if it is still that one: nothing is missing.
    pub known: Option<KnownPicture>,
    /// Charged attempts so far.
    pub attempts: i32,
    /// Engines that died with it in flight.
    pub deaths: u32,
}

impl Job {
    /// Whose answer it will wait for: what stands between `//` and the path, as written. Spelled in
    /// two ways, one host counts as two.
    pub fn host(&self) -> &str {
        let after = self.url.split_once("//").map_or("", |(_, after)| after);
        after.split(['/', '?', '#', '\\']).next().unwrap_or_default()
    }

    /// What the engine is asked; the connection gives it its id.
    pub fn request(&self, table: &Watched) -> CaptionRequest {
        let output = |cell: &usize| OutputSpec {
            style: table.fills[*cell].style.clone(),
            max_tokens: table.max_tokens,
            context: None,
        };
        CaptionRequest {
            id: 0,
            share: None,
            image: ImageSource::Url { url: self.url.clone(), known: self.known.clone() },
            outputs: self.cells.iter().map(output).collect(),
            remaining_ms: PATIENCE.as_millis() as u64,
            // Watches use the server's threshold, which the engine knows.
            min_confidence: None,
        }
    }
}

/// A row as it is now.
#[derive(Debug, Clone)]
pub struct Current {
    /// Its URL.
    pub url: Option<String>,
    /// Its fills, in the watch's order.
    pub texts: Vec<Option<String>>,
}

/// Hash of a URL or a text in the ledger: half a SHA-256, hex.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).fold(
        String::with_capacity(32),
        |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        },
    )
}

/// The ledger's entry for one text: its hash, and the hash of the URL that it was written for.
pub fn entry(text: &str, url: &str) -> Value {
    serde_json::json!({ "text": hash(text), "url": hash(url) })
}

/// Whether the text of a fill is what the ledger says that a machine wrote.
pub fn is_ours(
    watched: &Watched,
    current: &Current,
    ours: &Map<String, Value>,
    cell: usize,
) -> bool {
    let text = current.texts.get(cell).and_then(Option::as_deref).unwrap_or_default();
    ours.get(&watched.fills[cell].column)
        .and_then(|entry| entry.get("text"))
        .and_then(Value::as_str)
        == Some(hash(text).as_str())
}

/// Indexes of the fills that need a text: empty ones, ours of another URL (of this one too, if they
/// are wanted `again`), and a person's where the watch overwrites and has not seen this URL.
pub fn needs(
    watched: &Watched,
    current: &Current,
    ours: &Map<String, Value>,
    again: bool,
) -> Vec<usize> {
    let Some(url) = current.url.as_deref().filter(|url| !url.is_empty()) else { return Vec::new() };
    let url = hash(url);
    let is_needed = |at: &usize| {
        let empty = current.texts[*at].as_deref().unwrap_or_default().is_empty();
        let said = ours
            .get(&watched.fills[*at].column)
            .and_then(|entry| entry.get("url"))
            .and_then(Value::as_str);
        let new_url = said != Some(url.as_str());
        empty
            || (is_ours(watched, current, ours, *at) && (new_url || again))
            || (new_url && watched.overwrite)
    };
    (0..current.texts.len()).filter(is_needed).collect()
}

/// What the ledger and the deferred rows say of one key.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Column to [`entry`].
    pub ours: Map<String, Value>,
    /// Captioned last before the time from which `caption.recaption` wants everything captioned
    /// again.
    pub again: bool,
    /// Hash of the URL captioned last.
    pub url: String,
    /// What the server said of its picture.
    pub seen: Option<KnownPicture>,
    /// Charged attempts so far.
    pub attempts: i32,
}

impl Past {
    /// A job of a row whose `cells` need a text.
    pub fn job(
        self,
        row: Row,
        page: PageId,
        url: String,
        cells: Vec<usize>,
        current: &[Option<String>],
    ) -> Job {
        let seen = self.seen.filter(|_| self.url == hash(&url));
        // A text that is missing is written whether the picture has changed or not: the ledger
        // keeps hashes, not texts.
        let complete = self.again
            && cells.iter().all(|cell| {
                current
                    .get(*cell)
                    .is_some_and(|text| text.as_deref().is_some_and(|text| !text.is_empty()))
            });
        let known = seen.clone().filter(|_| complete);
        Job {
            row,
            page: Some(page),
            url,
            cells,
            ours: self.ours,
            again: self.again,
            seen,
            known,
            attempts: self.attempts,
            deaths: 0,
        }
    }
}
