//! What of an answer is written into a row as it is now, and the ledger's entry after the write.

use crate::job::{hash, needed_fills};
use crate::ledger::{is_machine_written, ledger_entry};
use crate::{CurrentRow, FillText, RowMatch, Settlement};
use pg_caption_wire::{CaptionOutcome, CaptionOutput, WrittenCaption};
use serde_json::{Map, Value};

/// Changes of one locked row.
#[derive(Debug)]
pub struct RowUpdate<'a> {
    /// Texts to write: fill and text.
    pub texts: Vec<(usize, &'a str)>,
    /// Fills to empty.
    pub emptied: Vec<usize>,
    settlement: &'a Settlement<'a>,
    /// Texts that the row has already, character for character: fill and text.
    unchanged: Vec<(usize, &'a str)>,
    /// After the write, no machine-written text of the row is of an earlier request.
    is_sole: bool,
}

/// What the row contains after the write. The table's own triggers may have changed texts and URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredRow {
    /// In the order of [`RowUpdate::texts`].
    pub texts: Vec<FillText>,
    /// The URL; `None`: the one that was captioned.
    pub url: Option<String>,
}

/// What changes in `caption.ledger`.
#[derive(Debug, Clone, PartialEq)]
pub enum LedgerChange {
    /// Insert the row's entry, or replace it.
    Put(LedgerEntry),
    /// Remove these columns from the row's entry.
    Remove(Vec<String>),
}

/// The ledger's entry of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// Hash of the URL.
    pub url: String,
    /// Column to its entry, as [`crate::ledger::ledger_entry`] makes it.
    pub outputs: Map<String, Value>,
    /// The columns whose entries are of this answer; the time of writing is added to them.
    pub written: Vec<String>,
    /// Digest of the model.
    pub model: String,
    /// SHA-256 of the picture's file, if all texts of the row are of it.
    pub sha256: Option<String>,
    /// HTTP validator of the picture.
    pub etag: Option<String>,
    /// HTTP validator of the picture.
    pub last_modified: Option<String>,
}

impl<'a> RowUpdate<'a> {
    /// What to write into a locked row; `None`: nothing, the row was changed meanwhile. Only into
    /// fills that are still empty or machine-written, and only if the URL is still the captioned
    /// one.
    pub(crate) fn new(settlement: &'a Settlement<'a>, current: &CurrentRow) -> Option<Self> {
        let Settlement { table, job, texts, outdated, .. } = settlement;
        if current.written_url() != job.url {
            // The trigger has queued the new URL.
            return None;
        }
        if current.matches != RowMatch::Matching {
            return None;
        }
        let needed = needed_fills(table, current, &job.ledger, job.recaption);
        let is_machine = |fill: usize| is_machine_written(table, current, &job.ledger, fill);
        // A new caption may equal the old one: that needs no new version of the row.
        let is_there = |(fill, text): &(usize, &str)| {
            job.recaption && current.texts.get(*fill) == Some(&FillText::of(Some(*text)))
        };
        let (unchanged, new): (Vec<_>, Vec<_>) =
            texts.iter().copied().filter(|(fill, _)| needed.contains(fill)).partition(is_there);
        let emptied: Vec<usize> =
            outdated.iter().copied().filter(|fill| is_machine(*fill)).collect();
        if unchanged.is_empty() && new.is_empty() && emptied.is_empty() {
            return None;
        }
        let is_new = |fill: usize| texts.iter().any(|(with_text, _)| *with_text == fill);
        let stays = |fill: usize| !emptied.contains(&fill) && is_machine(fill);
        let is_sole = (0..table.fills.len()).all(|fill| is_new(fill) || !stays(fill));
        Some(RowUpdate { texts: new, emptied, settlement, unchanged, is_sole })
    }

    /// Whether the row changes; otherwise only its ledger does.
    pub fn changes_row(&self) -> bool {
        !self.texts.is_empty() || !self.emptied.is_empty()
    }

    /// The change of the ledger after the write.
    pub fn ledger(&self, stored: &StoredRow) -> LedgerChange {
        let Settlement { table, job, answer, .. } = self.settlement;
        let column = |fill: usize| table.fills[fill].column.clone();
        let emptied: Vec<String> = self.emptied.iter().map(|fill| column(*fill)).collect();
        let url = stored.url.as_deref().unwrap_or(&job.url);
        let CaptionOutcome::Done { model, image, .. } = answer else {
            return LedgerChange::Remove(emptied);
        };
        let entry = |fill: usize, text: &FillText, url: &str| {
            let written = written(self.settlement, fill)?;
            let about = &table.fills[fill];
            Some((column(fill), ledger_entry(text, url, about, (written, model))))
        };
        // The next read finds the text as the table's own triggers left it.
        let new = self.texts.iter().zip(&stored.texts);
        let new = new.filter_map(|((fill, _), text)| entry(*fill, text, url));
        let same = self.unchanged.iter();
        let same =
            same.filter_map(|(fill, text)| entry(*fill, &FillText::of(Some(*text)), &job.url));
        let entries: Map<String, Value> = new.chain(same).collect();
        let written: Vec<String> = entries.keys().cloned().collect();
        if entries.is_empty() {
            return LedgerChange::Remove(emptied);
        }
        let is_same = job.validators.as_ref().is_some_and(|known| {
            (&known.etag, &known.last_modified, &known.model)
                == (&image.etag, &image.last_modified, &model.digest)
        });
        // Validators of another URL are unknown, and those of a text that stays may differ.
        let is_known = (self.is_sole || is_same) && url == job.url;
        let mut outputs = job.ledger.clone();
        outputs.retain(|column, _| !emptied.contains(column));
        outputs.extend(entries);
        LedgerChange::Put(LedgerEntry {
            url: hash(url),
            outputs,
            written,
            model: model.digest.clone(),
            sha256: Some(image.sha256.clone()).filter(|_| self.is_sole && url == job.url),
            etag: image.etag.clone().filter(|_| is_known),
            last_modified: image.last_modified.clone().filter(|_| is_known),
        })
    }
}

/// The caption of an answer for a fill.
fn written<'a>(settlement: &Settlement<'a>, fill: usize) -> Option<&'a WrittenCaption> {
    let CaptionOutcome::Done { outputs, .. } = settlement.answer else { return None };
    let at = settlement.job.fills.iter().position(|requested| *requested == fill)?;
    match outputs.get(at)? {
        CaptionOutput::Written(written) => Some(written),
        CaptionOutput::Failed(_) => None,
    }
}
