//! The captions that a row's ledger has, as the answer to its request: without a model run.

use crate::answer::{GeneratedCaption, JobAnswer};
use crate::captions::threshold;
use crate::job::Job;
use crate::metrics::ms;
use crate::provider::values::AnswerTerms;
use crate::request::FileIdentity;
use crate::wording;
use pg_caption_models::WithoutConfidence;
use pg_caption_wire::{EarlierCaption, FinishReason, ImageFacts, OutputSpec, StageTimings};
use std::time::Instant;

/// The captions that the ledger has for a job, if they are of this file and this model, and satisfy
/// the thresholds.
pub fn earlier_answer(job: &Job, file: &FileIdentity, terms: &AnswerTerms) -> Option<JobAnswer> {
    let earlier = job.earlier.as_ref()?;
    let is_of_both = (&earlier.sha256, &earlier.model) == (&file.sha256, &terms.model.digest);
    if !is_of_both || earlier.captions.len() != job.outputs.len() {
        return None;
    }
    let suffices = |(at, caption): (usize, &EarlierCaption)| match caption.confidence {
        Some(confidence) => confidence >= threshold(job, terms, at),
        None => terms.without_confidence == WithoutConfidence::Write,
    };
    if !earlier.captions.iter().enumerate().all(suffices) {
        return None;
    }
    // The rules of the database may have changed since.
    let checked = |(at, caption): (usize, &EarlierCaption)| {
        let (text, style) = (caption.caption.clone(), &job.outputs[at].style);
        wording::checked(text, style, &job.rules, terms.block_obscenity).ok()
    };
    let texts: Vec<String> =
        earlier.captions.iter().enumerate().map(checked).collect::<Option<_>>()?;
    let written = |((caption, text), output): ((&EarlierCaption, String), &OutputSpec)| {
        Ok(GeneratedCaption {
            caption: Ok(text),
            text_raw: caption.caption.clone(),
            tokens: 0,
            ids: Vec::new(),
            prompt_ids: Vec::new(),
            finish: FinishReason::Stop,
            confidence: caption.confidence,
            draft: false,
            with_context: terms.reads_context && output.context.is_some(),
            model: caption.model.clone(),
        })
    };
    let total = ms(Instant::now().saturating_duration_since(job.arrived));
    Some(JobAnswer::Done {
        image: ImageFacts {
            format: String::new(),
            width: 0,
            height: 0,
            bytes: 0,
            sha256: file.sha256.clone(),
            etag: file.etag.clone(),
            last_modified: file.last_modified.clone(),
        },
        outputs: earlier.captions.iter().zip(texts).zip(&job.outputs).map(written).collect(),
        model: terms.model.clone(),
        timings: StageTimings { wait: total, total, ..StageTimings::default() },
        pixels_sha256: None,
    })
}
