//! A watched table as a worker sees it. The extension reads it and checks it against the catalogs.

use pg_caption_publish::TextTemplate;
use pg_caption_style::CaptionStyle;
use std::collections::BTreeSet;

/// Most context columns of a watch.
pub const MAX_CONTEXT_COLUMNS: usize = 16;

/// A column to fill.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchFill {
    /// Its name, unquoted.
    pub column: String,
    /// Its style, with what the fill changes; `max_chars` respects the column's declared length.
    pub style: CaptionStyle,
    /// Upper bound of generated tokens.
    pub max_tokens: u32,
    /// Confidence below which there is no caption, 0..=1; `None`: that of the server.
    pub min_confidence: Option<f32>,
    /// Combines the caption with words of the row.
    pub template: Option<TextTemplate>,
    /// The text of a picture without a caption.
    pub fallback: Option<TextTemplate>,
}

/// A key column.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyColumn {
    /// Its name, quoted.
    pub column: String,
    /// Its type, as `format_type` gives it.
    pub kind: String,
}

/// A watched table.
#[derive(Debug, Clone)]
pub struct WatchedTable {
    /// Its OID.
    pub oid: u32,
    /// Schema-qualified, quoted name. `ONLY` precedes it unless the table is partitioned: rows of
    /// inheritance children do not belong to the watch.
    pub name: String,
    /// OID of the owner; rows are read and written with the owner's rights.
    pub owner: u32,
    /// Quoted column of the URL, or of the picture itself.
    pub url: String,
    /// The column holds pictures (bytea). In place of a URL, each is identified by its hash.
    pub holds_pictures: bool,
    /// The function that turns a value into a URL when it is fetched, as `schema.name(text)`.
    pub sign: Option<String>,
    /// Base of relative URLs.
    pub base_url: Option<String>,
    /// Only rows that satisfy it get captions: an expression over the row, which
    /// [`crate::QueueStore`] evaluates.
    pub condition: Option<String>,
    /// Columns whose words the model gets as facts, unquoted; at most [`MAX_CONTEXT_COLUMNS`].
    pub context: Vec<String>,
    /// A change of a context column, or of a column in a template, changes the text.
    pub follow_context: bool,
    /// The empty text is a decision of a user: only NULL is filled.
    pub keeps_blank: bool,
    /// Columns to fill.
    pub fills: Vec<WatchFill>,
    /// Key columns.
    pub keys: Vec<KeyColumn>,
    /// User-edited text is replaced, too.
    pub overwrite: bool,
    /// Texts become drafts, which `caption.approve()` writes.
    pub review: bool,
    /// Triggers report changed rows. A backfill that ends by itself has none.
    pub has_triggers: bool,
    /// The most rows in progress; `None`: the worker's limits.
    pub batch: Option<usize>,
    /// The watch is paused, or the table cannot be read.
    pub paused: bool,
    /// Number of the backfill; `caption.watch()` starts a new one.
    pub backfill_run: i32,
    /// Last key that the backfill has passed, as JSON text.
    pub backfill_after: Option<String>,
    /// The backfill has reached the end.
    pub backfill_done: bool,
    /// Rows captioned before this time are captioned again: a timestamptz as text.
    pub recaption_before: Option<String>,
}

impl WatchedTable {
    /// Whether jobs made for `self` can be settled under `other`.
    pub fn is_like(&self, other: &WatchedTable) -> bool {
        (&self.name, self.owner, &self.url, &self.base_url, &self.fills, &self.keys)
            == (&other.name, other.owner, &other.url, &other.base_url, &other.fills, &other.keys)
            && (&self.condition, &self.sign, self.holds_pictures)
                == (&other.condition, &other.sign, other.holds_pictures)
            && (&self.context, self.follow_context, self.keeps_blank)
                == (&other.context, other.follow_context, other.keeps_blank)
            && (self.overwrite, self.review, self.paused, self.backfill_run)
                == (other.overwrite, other.review, other.paused, other.backfill_run)
    }
}

impl WatchedTable {
    /// The columns whose words templates and fallbacks show, unquoted, in order.
    pub fn word_columns(&self) -> Vec<&str> {
        let templates = self.fills.iter().flat_map(|fill| [&fill.template, &fill.fallback]);
        let columns: BTreeSet<&str> = templates.flatten().flat_map(TextTemplate::columns).collect();
        columns.into_iter().collect()
    }

    /// The columns whose change is followed, unquoted, in order: those of the context and those in
    /// templates.
    pub fn followed_columns(&self) -> Vec<&str> {
        if !self.follow_context {
            return Vec::new();
        }
        let context = self.context.iter().map(String::as_str);
        let columns: BTreeSet<&str> = self.word_columns().into_iter().chain(context).collect();
        columns.into_iter().collect()
    }

    /// A number of rows, at most those that may be in progress.
    pub fn bounded(&self, rows: usize) -> usize {
        self.batch.map_or(rows, |batch| rows.min(batch))
    }

    /// A number of unfinished chunks: with a batch, one.
    pub fn chunks(&self, chunks: usize) -> usize {
        if self.batch.is_some() { 1 } else { chunks }
    }
}

impl WatchedTable {
    /// Whether a request needs more than the row that was read: a signed URL, or the picture.
    pub fn completes_requests(&self) -> bool {
        self.holds_pictures || self.sign.is_some()
    }
}

/// OIDs of the tables that are not paused.
pub fn active(tables: &[WatchedTable]) -> Vec<u32> {
    tables.iter().filter(|table| !table.paused).map(|table| table.oid).collect()
}
