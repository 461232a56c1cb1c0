//! Answers that several requests share: one of them has the model write a caption, and the others,
//! for equal bytes and an equal request, get the same raw text. So does a later request, from the
//! memo; and a row whose ledger has a caption of these bytes gets that one.
//!
//! The caller has presented the bytes, or a URL from which they were fetched for it. Rules and
//! thresholds are each request's own (`captions`).

use crate::answer_memo::{AnswerMemo, Digest256, PictureRecord};
use crate::captions::{CaptionTask, JobCaptions, threshold};
use crate::earlier::earlier_answer;
use crate::encoded::EncodedPicture;
use crate::job::Job;
use crate::metrics::EngineMetrics;
use crate::provider::values::{AnswerTerms, RawCaption};
use crate::request::{FileIdentity, PictureSource};
use parking_lot::Mutex;
use pg_caption_wire::{AnswerReuse, EngineConfig, Failure, ImageFacts, OutputSpec, StageTimings};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// What makes two answers equal: the file, the model, and all that the model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerKey {
    picture: Digest256,
    request: Digest256,
}

impl AnswerKey {
    /// The key of an output for a file. The rules of the style are no part of it: they apply to
    /// the answer.
    pub fn new(sha256: &str, model: &str, tiles: &str, output: &OutputSpec) -> AnswerKey {
        AnswerKey { picture: picture_digest(sha256, model), request: request_digest(tiles, output) }
    }
}

fn request_digest(tiles: &str, output: &OutputSpec) -> Digest256 {
    let mut style = serde_json::to_value(&output.style).unwrap_or_default();
    if let Some(style) = style.as_object_mut() {
        style.remove("rules");
    }
    let asked = json!([style, output.context, output.max_tokens, tiles]);
    Sha256::digest(asked.to_string().as_bytes()).into()
}

fn picture_digest(sha256: &str, model: &str) -> Digest256 {
    Sha256::digest(format!("{sha256} {model}").as_bytes()).into()
}

/// What an output finds.
pub enum AnswerClaim {
    /// The memo has the answer.
    Known(RawCaption),
    /// Another request has asked for it: it will be passed on.
    Follows,
    /// Its task asks for it, and passes it on.
    Leads(AnswerKey),
    /// Its task asks for it, for itself alone.
    Apart,
}

/// An output that waits for the answer to another request.
type Follower = (Arc<JobCaptions>, usize);

/// The answers of one engine.
pub struct SharedAnswers {
    memo: Mutex<AnswerMemo>,
    /// Answers being made, and the outputs that wait for each.
    pending: Mutex<HashMap<AnswerKey, Vec<Follower>>>,
    /// Takes tasks whose leader has left.
    successors: Sender<CaptionTask>,
    metrics: Arc<EngineMetrics>,
    tiles: String,
}

impl SharedAnswers {
    /// Without answers. The receiver gets tasks that a provider must be asked for, because the
    /// requests that had asked for them have left.
    pub fn new(
        config: &EngineConfig,
        metrics: Arc<EngineMetrics>,
    ) -> (Arc<SharedAnswers>, Receiver<CaptionTask>) {
        let (successors, receiver) = channel();
        let answers = SharedAnswers {
            memo: Mutex::new(AnswerMemo::new(config.memo)),
            pending: Mutex::default(),
            successors,
            metrics,
            tiles: format!("{:?}", config.tiles),
        };
        (Arc::new(answers), receiver)
    }

    /// Bytes of the memo.
    pub fn memo_bytes(&self) -> u64 {
        self.memo.lock().bytes()
    }

    /// An encoded picture is known.
    pub fn note(&self, encoded: &EncodedPicture) {
        let facts = &encoded.facts;
        let record = PictureRecord {
            format: facts.format.clone(),
            width: facts.width,
            height: facts.height,
            bytes: facts.bytes,
            confidence: encoded.confidence,
        };
        let digest = picture_digest(&facts.sha256, &encoded.terms.model.digest);
        self.memo.lock().note(digest, record);
    }

    /// Finds the answer for an output of an encoded picture, or who makes it.
    pub fn claim(&self, captions: &Arc<JobCaptions>, at: usize) -> AnswerClaim {
        let (job, encoded) = (captions.job(), captions.encoded());
        let (sha256, model) = (&encoded.facts.sha256, &encoded.terms.model.digest);
        let key = AnswerKey::new(sha256, model, &self.tiles, &job.outputs[at]);
        let is_new = job.reuse == AnswerReuse::Nothing;
        let mut pending = self.pending.lock();
        if let Some(followers) = pending.get_mut(&key) {
            if is_new {
                return AnswerClaim::Apart;
            }
            followers.push((captions.clone(), at));
            self.metrics.saved.captions.fetch_add(1, Relaxed);
            return AnswerClaim::Follows;
        }
        let known = self.memo.lock().answer(&key.picture, &key.request).filter(|_| !is_new);
        let repeats = encoded.terms.repeats_answers;
        if let Some(raw) = known.filter(|raw| repeats || captions.would_write(at, raw)) {
            self.metrics.saved.count_memo(1);
            return AnswerClaim::Known(raw);
        }
        pending.insert(key, Vec::new());
        AnswerClaim::Leads(key)
    }

    /// The leader has its answer.
    pub fn resolve(&self, key: &AnswerKey, raw: &RawCaption) {
        // Before the followers are taken: who comes in between finds one or the other.
        self.memo.lock().put(&key.picture, key.request, raw);
        for (captions, at) in self.followers(key) {
            captions.take(at, raw.clone());
        }
    }

    /// The leader's answer failed, though its caller still waits: the reason concerns all.
    pub fn fail(&self, key: &AnswerKey, failure: &Failure) {
        for (captions, at) in self.followers(key) {
            captions.put(at, Err(failure.clone()), Default::default());
        }
    }

    /// The leader has left: the first follower that still waits takes its place.
    pub fn release(&self, key: &AnswerKey) {
        let mut followers = self.followers(key);
        followers.retain(|(captions, _)| captions.job().is_open());
        if followers.is_empty() {
            return;
        }
        let (captions, at) = followers.remove(0);
        let mut pending = self.pending.lock();
        let others = pending.entry(*key).or_default();
        others.extend(followers);
        drop(pending);
        // Never within the caller: it may hold a lock of the provider.
        let _ = self.successors.send(CaptionTask::succeed(captions, at, *key));
    }

    fn followers(&self, key: &AnswerKey) -> Vec<Follower> {
        self.pending.lock().remove(key).unwrap_or_default()
    }

    /// Answers a job whose file is known, if nothing must be asked of the model: with the captions
    /// of its ledger, or those of the memo. Returns whether it did.
    pub fn answer_known(
        &self,
        job: &Arc<Job>,
        file: &FileIdentity,
        terms: &Arc<AnswerTerms>,
    ) -> bool {
        self.answer_from_memory(job, file, terms, !terms.repeats_answers)
    }

    /// The same for a file that a URL named a short while ago: only with captions. A failure is
    /// never of a file that was not fetched for the job, so that a retry fetches it.
    pub fn answer_remembered(
        &self,
        job: &Arc<Job>,
        file: &FileIdentity,
        terms: &Arc<AnswerTerms>,
    ) -> bool {
        self.answer_from_memory(job, file, terms, true)
    }

    fn answer_from_memory(
        &self,
        job: &Arc<Job>,
        file: &FileIdentity,
        terms: &Arc<AnswerTerms>,
        must_write: bool,
    ) -> bool {
        if !job.may_share() || job.reuse == AnswerReuse::Nothing || !job.is_open() {
            return false;
        }
        job.set_file(file);
        if let Some(answer) = earlier_answer(job, file, terms) {
            self.metrics.saved.count_ledger(job.outputs.len() as u64);
            job.answer(answer);
            return true;
        }
        let picture = picture_digest(&file.sha256, &terms.model.digest);
        let Some(record) = self.memo.lock().record(&picture) else { return false };
        let mut raws = Vec::new();
        for (at, output) in job.outputs.iter().enumerate() {
            if record.confidence.is_some_and(|c| c < threshold(job, terms, at)) {
                if must_write {
                    return false;
                }
                continue;
            }
            let request = request_digest(&self.tiles, output);
            let Some(raw) = self.memo.lock().answer(&picture, &request) else { return false };
            raws.push((at, raw));
        }
        let encoded = EncodedPicture {
            encoding: Arc::new(()),
            confidence: record.confidence,
            facts: ImageFacts {
                format: record.format,
                width: record.width,
                height: record.height,
                bytes: record.bytes,
                sha256: file.sha256.clone(),
                etag: file.etag.clone(),
                last_modified: file.last_modified.clone(),
            },
            timings: StageTimings::default(),
            pixels_sha256: None,
            at: Instant::now(),
            terms: terms.clone(),
        };
        let captions = JobCaptions::new(job.clone(), Arc::new(encoded));
        if must_write && !raws.iter().all(|(at, raw)| captions.would_write(*at, raw)) {
            return false;
        }
        self.metrics.saved.encodings.fetch_add(1, Relaxed);
        self.metrics.saved.count_memo(raws.len() as u64);
        job.begin();
        for (at, raw) in raws {
            captions.take(at, raw);
        }
        captions.settle();
        true
    }

    /// Answers a job whose picture its host reports as not modified, with the captions of the
    /// ledger. Returns whether it did.
    pub fn answer_unmodified(&self, job: &Arc<Job>, terms: &AnswerTerms) -> bool {
        let (Some(earlier), PictureSource::Url { known, .. }) = (&job.earlier, &job.source) else {
            return false;
        };
        let (etag, last_modified) = known
            .as_ref()
            .map(|known| (known.etag.clone(), known.last_modified.clone()))
            .unwrap_or_default();
        let file = FileIdentity { sha256: earlier.sha256.clone(), etag, last_modified };
        let Some(answer) = earlier_answer(job, &file, terms) else { return false };
        self.metrics.saved.count_ledger(job.outputs.len() as u64);
        job.answer(answer);
        true
    }
}

#[cfg(test)]
mod tests;
