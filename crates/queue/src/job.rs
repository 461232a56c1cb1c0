//! Which rows need which texts: the row as it is, its ledger entry, and the job made from both.

use crate::base_url::resolve_url;
use crate::draft::{draft_of, is_drafted, was_requested_so};
use crate::follow::{FollowedWords, asks_again, context_digest, rendered_fills};
use crate::ledger::{
    earlier_caption, is_machine_written, is_withdrawn, noted, picture_digest, request_digest,
};
use crate::{EngineTrial, PageId, RowKey, WatchedTable};
use pg_caption_wire::{
    AnswerReuse, CaptionOutcome, CaptionRequest, ContextFacts, EarlierAnswer, EarlierCaption,
    Failure, ImageSource, KnownPicture, MAX_URL_BYTES, OutputSpec, is_blank,
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// Deadline of one row in the engine, whose own limits for connecting and fetching are far lower.
const ROW_DEADLINE: Duration = Duration::from_secs(300);
/// Longest value of a column that failures show in place of a signed URL, characters.
const MAX_SHOWN: usize = 300;

/// A row that needs captions.
#[derive(Debug, Clone)]
pub struct RowJob {
    /// The row.
    pub row: RowKey,
    /// The page to acknowledge; `None`: acknowledged when the row was postponed.
    pub page: Option<PageId>,
    /// The URL to caption. Empty: the row has none, and its machine-written texts are removed.
    pub url: String,
    /// The address that is fetched, where it differs: the URL is relative to the base URL of the
    /// watch.
    pub resolved: Option<String>,
    /// Indexes of the watch's fills that need a text.
    pub fills: Vec<usize>,
    /// Indexes of further fills whose caption stays: words of the row in their text have changed.
    pub rendered: Vec<usize>,
    /// Words of the row that the model gets as facts: column and text.
    pub context: Vec<(String, String)>,
    /// The row's ledger: column to [`crate::ledger::ledger_entry`].
    pub ledger: Map<String, Value>,
    /// `caption.recaption` requires new captions for the same URL.
    pub recaption: bool,
    /// HTTP validators of the picture that all ledger entries were written for.
    pub validators: Option<KnownPicture>,
    /// The engine may answer "unchanged" for this picture: no text is missing, and each was
    /// requested as it is now. With [`RowJob::earlier`], it answers with those captions.
    pub known: Option<KnownPicture>,
    /// What the ledger has for the fills: the answer if the picture's file is the same.
    pub earlier: Option<Box<EarlierAnswer>>,
    /// Which earlier work of the engine may be used.
    pub reuse: AnswerReuse,
    /// Why nothing is requested: the condition of the watch cannot be evaluated for this row, or
    /// its picture is too large.
    pub refused: Option<Failure>,
    /// Charged attempts.
    pub attempts: i32,
    /// Engines lost while its picture ran.
    pub trial: EngineTrial,
}

impl RowJob {
    /// Whether the row has no URL: nothing is requested, machine-written texts are removed.
    pub fn is_removal(&self) -> bool {
        self.url.is_empty()
    }

    /// The answer to a job that needs no request.
    pub fn immediate_answer(&self) -> Option<CaptionOutcome> {
        match &self.refused {
            Some(failure) => Some(CaptionOutcome::Failed(failure.clone())),
            // Not used: texts are removed, or rendered again.
            None => {
                (self.is_removal() || self.fills.is_empty()).then_some(CaptionOutcome::Unchanged)
            }
        }
    }

    /// The address that is fetched.
    pub fn address(&self) -> &str {
        self.resolved.as_deref().unwrap_or(&self.url)
    }

    /// The host of the URL, as written between `//` and the path. A host that is spelled in two
    /// ways counts as two.
    pub fn host(&self) -> &str {
        let after = self.address().split_once("//").map_or("", |(_, after)| after);
        after.split(['/', '?', '#', '\\']).next().unwrap_or_default()
    }

    fn source(&self, url: String, shown: Option<String>) -> ImageSource {
        ImageSource::Url { url, known: self.known.clone(), shown }
    }

    /// The source for a signed URL. Failures show the value of the column instead.
    pub fn signed_source(&self, table: &WatchedTable, signed: &str) -> ImageSource {
        let url = match &table.base_url {
            Some(base) => resolve_url(base, signed),
            None => signed.to_owned(),
        };
        let value = self.url.split(['?', '#']).next().unwrap_or_default();
        self.source(url, Some(value.chars().take(MAX_SHOWN).collect()))
    }

    /// The request to the engine; the connection sets its id. If
    /// [`WatchedTable::completes_requests`], it lacks the signed URL or the picture.
    pub fn request(&self, table: &WatchedTable) -> CaptionRequest {
        let output = |fill: &usize| {
            let fill = &table.fills[*fill];
            OutputSpec {
                style: fill.style.clone(),
                max_tokens: fill.max_tokens,
                context: ContextFacts::new(self.context.iter().map(|(name, word)| (name, word))),
                min_confidence: fill.min_confidence,
            }
        };
        CaptionRequest {
            id: 0,
            share: None,
            image: match table.holds_pictures {
                true => ImageSource::Bytes,
                false => self.source(self.address().to_owned(), None),
            },
            outputs: self.fills.iter().map(output).collect(),
            remaining_ms: ROW_DEADLINE.as_millis() as u64,
            from_turn: false,
            // The driver sets it, for fills without a threshold of their own.
            min_confidence: None,
            isolated: self.trial.is_isolated(),
            // The driver sets them.
            rules: Vec::new(),
            earlier: self.earlier.clone(),
            reuse: self.reuse,
        }
    }
}

/// A row as it is now.
#[derive(Debug, Clone)]
pub struct CurrentRow {
    /// Its URL, cut after [`MAX_URL_CHARS`].
    pub url: Option<String>,
    /// Its texts, in the order of the watch's fills.
    pub texts: Vec<FillText>,
    /// Words of the row by column, for [`WatchedTable::word_columns`]; read when a text is written.
    pub words: BTreeMap<String, String>,
    /// The words of the context, and whether those in texts have changed.
    pub followed: FollowedWords,
    /// Whether it satisfies the condition of the watch.
    pub matches: RowMatch,
    /// Why its picture is not captioned, if that is known from the row.
    pub refused: Option<Failure>,
}

/// Whether a row satisfies the condition of its watch.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum RowMatch {
    /// It does, or the watch has no condition.
    #[default]
    Matching,
    /// The condition is false or NULL: the row keeps its texts.
    Excluded,
    /// The condition raised an error.
    Raised(Failure),
}

impl CurrentRow {
    /// Its URL as it is written; empty if it has none: NULL, or nothing that shows.
    pub fn written_url(&self) -> &str {
        self.url.as_deref().filter(|url| !is_blank(url)).unwrap_or_default()
    }
}

/// Characters of a URL that are read. One more than the longest valid URL, so that a longer one is
/// refused, and no row needs more memory than this.
pub const MAX_URL_CHARS: usize = MAX_URL_BYTES + 1;
/// Bytes of the longest text that is hashed. No style permits so long a text.
pub const MAX_HASHED_BYTES: usize = 65536;

/// What [`FillText::from_column`] takes for [`FillText::Blank`].
pub const BLANK: &str = "-";

/// A text of a row, as far as decisions need it. The database hashes it, so that a large text never
/// enters this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FillText {
    /// NULL or the empty text.
    Empty,
    /// The [`hash`] of the text.
    Hash(String),
    /// Longer than [`MAX_HASHED_BYTES`], so not machine-written.
    Long,
    /// The empty text, where it is a decision of a user: neither empty nor machine-written.
    Blank,
}

impl FillText {
    /// From the column of a query: NULL for an empty text, the empty string for a long one,
    /// [`BLANK`] for an empty text that stays, else the hash.
    pub fn from_column(column: Option<String>) -> Self {
        match column {
            None => FillText::Empty,
            Some(digest) if digest.is_empty() => FillText::Long,
            Some(digest) if digest == BLANK => FillText::Blank,
            Some(digest) => FillText::Hash(digest),
        }
    }

    /// Of a text.
    pub fn of(text: Option<&str>) -> Self {
        match text.unwrap_or_default() {
            "" => FillText::Empty,
            text if text.len() > MAX_HASHED_BYTES => FillText::Long,
            text => FillText::Hash(hash(text)),
        }
    }

    /// Whether the text is NULL or empty.
    pub fn is_empty(&self) -> bool {
        *self == FillText::Empty
    }

    /// The hash as the ledger has it; empty for a text that is too long for the ledger.
    pub fn ledger_hash(&self) -> String {
        self.digest().unwrap_or_default()
    }

    /// The hash as the ledger has it. A long text has none that the ledger could have.
    pub(crate) fn digest(&self) -> Option<String> {
        match self {
            FillText::Empty => Some(hash("")),
            FillText::Hash(digest) => Some(digest.clone()),
            FillText::Long | FillText::Blank => None,
        }
    }
}

/// Hash of a URL or a text in the ledger: the first half of its SHA-256, in hex.
pub fn hash(text: &str) -> String {
    let mut hex = format!("{:x}", Sha256::digest(text.as_bytes()));
    hex.truncate(32);
    hex
}

/// Indexes of the fills that need a text: empty ones whose text was not withdrawn, machine-written
/// ones of another URL (or of this one, with `recaption`) or of another context, and user-edited
/// ones where the watch overwrites and the ledger does not know this URL. None with a draft for the
/// URL, but with `recaption`. In a row without a URL: the machine-written ones and those with a
/// draft, which are removed.
pub fn needed_fills(
    table: &WatchedTable,
    current: &CurrentRow,
    ledger: &Map<String, Value>,
    recaption: bool,
) -> Vec<usize> {
    let url = current.written_url();
    if url.is_empty() {
        let is_outdated = |fill: &usize| {
            draft_of(table, ledger, *fill).is_some()
                || !current.texts[*fill].is_empty()
                    && is_machine_written(table, current, ledger, *fill)
        };
        return (0..current.texts.len()).filter(is_outdated).collect();
    }
    let url = hash(url);
    let is_needed = |fill: &usize| {
        if !recaption && is_drafted(table, ledger, *fill, &url) {
            return false;
        }
        let withdrawn = is_withdrawn(table, ledger, *fill, &url);
        let empty = current.texts[*fill].is_empty() && !withdrawn;
        let new_url = noted(table, ledger, *fill, "url") != Some(url.as_str());
        empty
            || (!withdrawn
                && is_machine_written(table, current, ledger, *fill)
                && (new_url || recaption || asks_again(table, current, ledger, *fill)))
            || (new_url && table.overwrite && current.texts[*fill] != FillText::Blank)
    };
    (0..current.texts.len()).filter(is_needed).collect()
}

/// What the ledger and `caption.deferred` have for one key.
#[derive(Debug, Clone, Default)]
pub struct RowHistory {
    /// Column to [`crate::ledger::ledger_entry`].
    pub ledger: Map<String, Value>,
    /// Last captioned before the time from which `caption.recaption` requires new captions.
    pub recaption: bool,
    /// It requires them even if neither the picture nor the request has changed.
    pub forced: bool,
    /// Hash of the URL captioned last.
    pub url: String,
    /// HTTP validators of its picture.
    pub validators: Option<KnownPicture>,
    /// SHA-256 of the file of its picture, if all texts are of it.
    pub sha256: Option<String>,
    /// Digest of the model of all texts; empty without one.
    pub model: String,
    /// Charged attempts.
    pub attempts: i32,
}

impl RowHistory {
    /// Indexes of the fills that need a text, and of further ones whose text shows words of the row
    /// that have changed.
    pub fn changed_texts(
        &self,
        table: &WatchedTable,
        current: &CurrentRow,
    ) -> (Vec<usize>, Vec<usize>) {
        let needed = needed_fills(table, current, &self.ledger, self.recaption);
        let rendered = rendered_fills(table, current, &self.ledger, &needed);
        (needed, rendered)
    }

    /// A job for a row whose `fills` need a text.
    pub fn job(
        self,
        row: RowKey,
        page: PageId,
        (url, fills): (String, Vec<usize>),
        (table, current): (&WatchedTable, &CurrentRow),
    ) -> RowJob {
        let validators = self.validators.filter(|_| self.url == hash(&url));
        // A missing text is written even if the picture is unchanged, unless a draft has it.
        let has_text = |fill: &usize| {
            draft_of(table, &self.ledger, *fill).is_some()
                || current.texts.get(*fill).is_some_and(|text| !text.is_empty())
        };
        let is_as_requested = |fill: &usize| {
            let of = &table.fills[*fill];
            match draft_of(table, &self.ledger, *fill) {
                Some(draft) => draft.contains_key("as") && was_requested_so(draft, of),
                None => {
                    noted(table, &self.ledger, *fill, "as") == Some(request_digest(of).as_str())
                        && !asks_again(table, current, &self.ledger, *fill)
                }
            }
        };
        let is_complete = self.recaption
            && !self.forced
            && fills.iter().all(|fill| has_text(fill) && is_as_requested(fill));
        let file = self.sha256.filter(|_| !self.forced && !self.model.is_empty());
        let earlier = file.and_then(|file| {
            let picture = picture_digest(&file, &self.model);
            let captions: Option<Vec<EarlierCaption>> = fills
                .iter()
                .map(|fill| {
                    // Its prompt may have held other words of the row.
                    let context = noted(table, &self.ledger, *fill, "context");
                    let is_same =
                        context.is_none_or(|c| c == context_digest(&current.followed.context));
                    let has_draft = draft_of(table, &self.ledger, *fill).is_some();
                    earlier_caption(table, &self.ledger, *fill, &picture)
                        .filter(|_| is_same && !has_draft && is_as_requested(fill))
                })
                .collect();
            Some(Box::new(EarlierAnswer {
                sha256: file,
                model: self.model.clone(),
                captions: captions?,
            }))
        });
        // Without a text, "unchanged" is no answer to a request to caption again.
        let has_earlier = earlier.is_some() && !self.recaption;
        let known = validators.clone().filter(|_| is_complete || has_earlier);
        let reuse = match (self.forced, self.recaption) {
            (true, _) => AnswerReuse::Nothing,
            (false, true) => AnswerReuse::Picture,
            (false, false) => AnswerReuse::Any,
        };
        RowJob {
            row,
            page: Some(page),
            url,
            resolved: None,
            fills,
            rendered: Vec::new(),
            context: current.followed.context.clone(),
            ledger: self.ledger,
            recaption: self.recaption,
            validators,
            known,
            earlier,
            reuse,
            refused: None,
            attempts: self.attempts,
            trial: EngineTrial::default(),
        }
    }
}
