//! What of an answer is written into a row as it is now, and the ledger's entry after the write.

use crate::draft::{draft_from, draft_of, is_rejected_already, is_stale, with_draft};
use crate::follow::{context_digest, rendered_entry, rendered_text, words_digest};
use crate::job::{hash, needed_fills};
use crate::ledger::{
    APPROVED, fallback_entry, is_fallback_text, is_machine_written, ledger_entry, noted,
    picture_digest,
};
use crate::{CurrentRow, FillText, RowMatch, Settlement, WatchFill};
use pg_caption_wire::{CaptionOutcome, CaptionOutput, WrittenCaption};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Changes of one locked row.
#[derive(Debug)]
pub struct RowUpdate<'a> {
    /// Texts to write: fill and text.
    pub texts: Vec<(usize, String)>,
    /// Fills to empty.
    pub emptied: Vec<usize>,
    /// Texts that wait for a review.
    drafts: Vec<NewDraft>,
    /// Fills whose draft is of a picture that the row no longer has.
    dropped: Vec<usize>,
    /// A draft like the rejected one was made: that one stays.
    is_rejected: bool,
    settlement: &'a Settlement<'a>,
    /// Texts that the row has already, character for character: fill and text.
    unchanged: Vec<(usize, String)>,
    /// Digests of the words that the texts of these fills show.
    words: BTreeMap<usize, String>,
    /// After the write, no machine-written text of the row is of an earlier request.
    is_sole: bool,
}

/// A draft for a fill.
#[derive(Debug)]
struct NewDraft {
    fill: usize,
    draft: Value,
    /// The row has a text until the draft is approved.
    keeps_text: bool,
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
    /// Change these columns of the row's entry; everything else stays.
    Amend {
        /// Column to its new entry; the time of writing is added to it.
        outputs: Map<String, Value>,
        /// Columns to remove.
        removed: Vec<String>,
    },
    /// Remove these columns from the row's entry.
    Remove(Vec<String>),
}

/// The ledger's entry of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LedgerEntry {
    /// Hash of the URL.
    pub url: String,
    /// Column to its entry, as [`crate::ledger::ledger_entry`] makes it.
    pub outputs: Map<String, Value>,
    /// The columns whose entries are of this answer; the time of writing is added to them.
    pub written: Vec<String>,
    /// The columns whose drafts are of this answer; the time is added to these.
    pub drafted: Vec<String>,
    /// Digest of the model; empty: a row of fallbacks alone.
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
        let is_there = |(fill, text): &(usize, String)| {
            job.recaption && current.texts.get(*fill) == Some(&FillText::of(Some(text.as_str())))
        };
        let rendered = |(fill, caption): &(usize, &str)| {
            let WatchFill { template, style, .. } = &table.fills[*fill];
            let text = match template {
                Some(template) => template.render(caption, &current.words, &style.rules),
                None => (*caption).to_owned(),
            };
            (*fill, text)
        };
        let fallback = |fill: &usize| {
            let WatchFill { fallback, style, .. } = &table.fills[*fill];
            Some((*fill, fallback.as_ref()?.fallback(&current.words, &style.rules)?))
        };
        let fallbacks: Vec<(usize, String)> =
            settlement.fallbacks.iter().filter_map(fallback).collect();
        let is_fallback = |fill: usize| fallbacks.iter().any(|(with_text, _)| *with_text == fill);
        let again: Vec<(usize, Option<String>)> = settlement
            .rendered
            .iter()
            .filter_map(|fill| Some((*fill, rendered_text(table, current, &job.ledger, *fill)?)))
            .collect();
        let again_fallbacks: Vec<usize> = (again.iter())
            .map(|(fill, _)| *fill)
            .filter(|fill| is_fallback_text(table, &job.ledger, *fill))
            .collect();
        // Without words there is no fallback any longer.
        let is_wordless = |fill: usize| again.contains(&(fill, None));
        let mut emptied: Vec<usize> = (0..table.fills.len())
            .filter(|fill| is_machine(*fill) && !is_fallback(*fill))
            .filter(|fill| outdated.contains(fill) || is_wordless(*fill))
            .collect();
        let (unchanged, new): (Vec<_>, Vec<_>) = texts
            .iter()
            .map(rendered)
            .chain(fallbacks.iter().cloned())
            .filter(|(fill, _)| needed.contains(fill))
            .partition(is_there);
        let stays_there = |(fill, text): &(usize, String)| {
            current.texts.get(*fill) == Some(&FillText::of(Some(text.as_str())))
        };
        let (same, other): (Vec<_>, Vec<_>) =
            again.into_iter().filter_map(|(fill, text)| Some((fill, text?))).partition(stays_there);
        let (unchanged, new) = ([unchanged, same].concat(), [new, other].concat());
        let words = |fill: usize| {
            let WatchFill { template, fallback, .. } = &table.fills[fill];
            let is_fallback = is_fallback(fill) || again_fallbacks.contains(&fill);
            let shown = if is_fallback { fallback } else { template };
            let digest = |column: &str| current.words.get(column).map(|word| hash(word));
            Some((fill, words_digest(shown.as_ref()?, digest)))
        };
        let words = new.iter().chain(&unchanged).filter_map(|(fill, _)| words(*fill)).collect();
        let is_draft = |(fill, _): &(usize, String)| {
            table.review || written(settlement, *fill).is_some_and(|written| written.draft)
        };
        let (drafts, new): (Vec<_>, Vec<_>) = new.into_iter().partition(is_draft);
        let made = drafts.len();
        let mut drafts: Vec<NewDraft> = drafts
            .iter()
            .map(|text| NewDraft {
                fill: text.0,
                draft: draft(settlement, text),
                keeps_text: !current.texts[text.0].is_empty(),
            })
            .filter(|new| !is_rejected_already(draft_of(table, &job.ledger, new.fill), &new.draft))
            .collect();
        let is_rejected = drafts.len() < made;
        let url = hash(&job.url);
        for new in &mut drafts {
            // The text describes a picture that the row no longer has.
            let is_old = noted(table, &job.ledger, new.fill, "url") != Some(url.as_str());
            if new.keeps_text && is_machine(new.fill) && is_old {
                new.keeps_text = false;
                emptied.push(new.fill);
            }
        }
        let has_draft = |fill: usize| drafts.iter().any(|new| new.fill == fill);
        let is_new = |fill: usize| texts.iter().any(|(with_text, _)| *with_text == fill);
        let dropped: Vec<usize> = outdated
            .iter()
            .copied()
            .filter(|fill| is_stale(table, &job.ledger, *fill, &job.url))
            .filter(|fill| !has_draft(*fill) && !is_fallback(*fill) && !is_machine(*fill))
            .collect();
        let is_unchanged = unchanged.is_empty() && !is_rejected && dropped.is_empty();
        if is_unchanged && new.is_empty() && emptied.is_empty() && drafts.is_empty() {
            return None;
        }
        let stays = |fill: usize| {
            let drafted = draft_of(table, &job.ledger, fill).is_some() && !dropped.contains(&fill);
            drafted || !emptied.contains(&fill) && is_machine(fill)
        };
        let is_sole = (0..table.fills.len()).all(|fill| is_new(fill) || !stays(fill));
        Some(RowUpdate {
            texts: new,
            emptied,
            drafts,
            dropped,
            is_rejected,
            settlement,
            unchanged,
            words,
            is_sole,
        })
    }

    /// Whether the row changes; otherwise only its ledger does.
    pub fn changes_row(&self) -> bool {
        !self.texts.is_empty() || !self.emptied.is_empty()
    }

    /// The change of the ledger after the write.
    pub fn ledger(&self, stored: &StoredRow) -> LedgerChange {
        let Settlement { table, job, answer, .. } = self.settlement;
        let column = |fill: usize| table.fills[fill].column.clone();
        let removed = self.emptied.iter().chain(&self.dropped);
        let removed: Vec<String> = removed.map(|fill| column(*fill)).collect();
        let url = stored.url.as_deref().unwrap_or(&job.url);
        let answered = match answer {
            CaptionOutcome::Done { model, image, .. } => Some((model, image)),
            _ => None,
        };
        let entry = |(fill, text): &(usize, String), stored: &FillText, url: &str| {
            let about = (&table.fills[*fill], text.as_str());
            let caption = written(self.settlement, *fill);
            let mut entry = match (caption, answered) {
                _ if self.settlement.rendered.contains(fill) => {
                    rendered_entry(stored, text, job.ledger.get(&column(*fill)))
                }
                (Some(written), Some((model, image))) => {
                    ledger_entry(stored, url, about, (written, model, &image.sha256))
                }
                _ => fallback_entry(stored, url, about),
            };
            if let Some(words) = self.words.get(fill) {
                entry["words"] = words.as_str().into();
            }
            if caption.is_some_and(|caption| caption.with_context) {
                entry["context"] = context_digest(&job.context).into();
            }
            (column(*fill), entry)
        };
        // The next read finds the text as the table's own triggers left it.
        let new = self.texts.iter().zip(&stored.texts);
        let new = new.map(|(text, stored)| entry(text, stored, url));
        let same = self.unchanged.iter();
        let same = same.map(|text| {
            let (column, mut same) = entry(text, &FillText::of(Some(text.1.as_str())), &job.url);
            if noted(table, &job.ledger, text.0, "state") == Some(APPROVED) {
                same["state"] = APPROVED.into();
            }
            (column, same)
        });
        let entries: Map<String, Value> = new.chain(same).collect();
        if entries.is_empty() && self.drafts.is_empty() && !self.is_rejected {
            return LedgerChange::Remove(removed);
        }
        let is_rendered = |(fill, _): &(usize, String)| self.settlement.rendered.contains(fill);
        let has_answer = self.is_rejected
            || self.drafts.iter().any(|new| !self.settlement.rendered.contains(&new.fill));
        if !has_answer && self.texts.iter().chain(&self.unchanged).all(is_rendered) {
            let drafts = self.drafts.iter().map(|NewDraft { fill, draft, .. }| {
                let text = job.ledger.get(&column(*fill)).cloned();
                (column(*fill), with_draft(text, draft.clone()))
            });
            let outputs = entries.into_iter().chain(drafts).collect();
            return LedgerChange::Amend { outputs, removed };
        }
        let written: Vec<String> = entries.keys().cloned().collect();
        let mut outputs = job.ledger.clone();
        outputs.retain(|column, _| !removed.contains(column));
        outputs.extend(entries);
        let mut drafted = Vec::new();
        for NewDraft { fill, draft, keeps_text } in &self.drafts {
            let text = outputs.remove(&column(*fill)).filter(|_| *keeps_text);
            outputs.insert(column(*fill), with_draft(text, draft.clone()));
            drafted.push(column(*fill));
        }
        let entry =
            LedgerEntry { url: hash(url), outputs, written, drafted, ..LedgerEntry::default() };
        let Some((model, image)) = answered else { return LedgerChange::Put(entry) };
        let is_same = job.validators.as_ref().is_some_and(|known| {
            (&known.etag, &known.last_modified, &known.model)
                == (&image.etag, &image.last_modified, &model.digest)
        });
        // The texts that stay are of the same file and model.
        let picture = picture_digest(&image.sha256, &model.digest);
        let is_of_picture = |fill: &WatchFill| {
            let text = entry.outputs.get(&fill.column);
            text.is_none_or(|text| text.get("picture").and_then(Value::as_str) == Some(&*picture))
        };
        let is_of_file = self.is_sole || table.fills.iter().all(is_of_picture);
        // Validators of another URL are unknown, and those of a text that stays may differ.
        let is_known = (is_of_file || is_same) && url == job.url;
        LedgerChange::Put(LedgerEntry {
            model: model.digest.clone(),
            sha256: Some(image.sha256.clone()).filter(|_| is_of_file && url == job.url),
            etag: image.etag.clone().filter(|_| is_known),
            last_modified: image.last_modified.clone().filter(|_| is_known),
            ..entry
        })
    }
}

/// A text of an answer, or a fallback, as a draft.
fn draft(settlement: &Settlement<'_>, (fill, text): &(usize, String)) -> Value {
    let Settlement { table, job, answer, .. } = settlement;
    let about = (&table.fills[*fill], text.as_str());
    let entry = match (written(settlement, *fill), answer) {
        _ if settlement.rendered.contains(fill) => {
            rendered_entry(&FillText::Empty, text, job.ledger.get(&table.fills[*fill].column))
        }
        (Some(written), CaptionOutcome::Done { model, image, .. }) => {
            let answer = (written, model, &*image.sha256);
            ledger_entry(&FillText::Empty, &job.url, about, answer)
        }
        _ => fallback_entry(&FillText::Empty, &job.url, about),
    };
    let image = match answer {
        CaptionOutcome::Done { image, .. } => Some(image.sha256.as_str()),
        _ => None,
    };
    draft_from(entry, image)
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
