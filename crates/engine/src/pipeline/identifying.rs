//! Between fetch and decoder: which file it is, and whether it must be decoded at all. Its jobs may
//! be answered by what is known of it, or join the picture of another URL with the same bytes.

use super::PicturePipeline;
use crate::captions::CaptionTask;
use crate::encoded::EncodedPicture;
use crate::job::Job;
use crate::picture::{JoinOutcome, Picture, PictureWork};
use crate::provider::Provider;
use crate::provider::values::ViewSet;
use crate::request::FileIdentity;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What makes pictures of all callers one: digest of the file, and the views of its captions.
pub type ContentKey = (String, ViewSet);

/// The key of a picture's file.
fn content_key(picture: &Picture, file: &FileIdentity, provider: &dyn Provider) -> ContentKey {
    let views = picture.combine(|job| provider.views(&job.outputs), ViewSet::union);
    (file.sha256.clone(), views.unwrap_or_default())
}

impl PicturePipeline {
    /// Whether the picture must be decoded; otherwise its jobs are answered, or wait elsewhere.
    pub(super) fn identify(
        &self,
        work: &mut PictureWork,
        file: &FileIdentity,
        provider: &dyn Provider,
    ) -> bool {
        let picture = work.picture.clone();
        let Some(terms) = self.terms.get() else { return true };
        let jobs = picture.identify(file);
        if jobs.iter().any(|job| !job.may_share()) {
            return true;
        }
        let known = jobs.iter().filter(|job| self.answers.answer_known(job, file, terms)).count();
        if known > 0 && picture.end_known(file) {
            return false;
        }
        let key = content_key(&picture, file, provider);
        let Some(leader) = self.contents.find_or_lead(key, &picture) else { return true };
        if Arc::ptr_eq(&leader, &picture) {
            return true;
        }
        let mut others = Vec::new();
        for job in picture.move_to(&leader, file) {
            if !self.join(&job, &leader) {
                others.push(job);
            }
        }
        let Some((first, rest)) = others.split_first() else { return false };
        // The other picture ended meanwhile.
        work.picture = Picture::new(first);
        rest.iter().for_each(|job| drop(work.picture.join(job)));
        work.picture.identify(file);
        true
    }

    /// A job joins the picture of other ones with the same bytes. Returns whether it did.
    fn join(&self, job: &Arc<Job>, leader: &Arc<Picture>) -> bool {
        let has_joined = match leader.join(job) {
            JoinOutcome::Waiting => true,
            JoinOutcome::Encoded(encoded) => self.caption_encoded(job, encoded, leader),
            JoinOutcome::Ended(_) | JoinOutcome::Known(_) | JoinOutcome::Cancelled => false,
        };
        if has_joined {
            self.metrics.saved.encodings.fetch_add(1, Relaxed);
        }
        has_joined
    }

    /// Has a picture that was encoded for others captioned for a further job. Returns false if its
    /// provider is gone.
    pub fn caption_encoded(
        &self,
        job: &Arc<Job>,
        encoded: Arc<EncodedPicture>,
        picture: &Arc<Picture>,
    ) -> bool {
        let Some(provider) = encoded.terms.provider() else { return false };
        let running = self.running.enter_now(job);
        let task = CaptionTask::begin(job.clone(), encoded, Some(running), Some(picture.clone()));
        task.into_iter().for_each(|task| provider.caption(task));
        true
    }

    /// Answers a job by what is known of its file. Returns whether it did.
    pub fn answer_known(&self, job: &Arc<Job>, file: &FileIdentity) -> bool {
        self.terms.get().is_some_and(|terms| self.answers.answer_known(job, file, terms))
    }

    /// A row of a worker whose URL named this file a short while ago. Returns whether the job is
    /// answered, or waits for a picture with these bytes.
    pub fn answer_remembered(&self, job: &Arc<Job>, url: &str, provider: &dyn Provider) -> bool {
        let Some(terms) = self.terms.get() else { return false };
        let Some(file) = self.urls.get(url, Instant::now()) else { return false };
        let key = (file.sha256.clone(), provider.views(&job.outputs));
        let is_found = self.answers.answer_remembered(job, &file, terms) || {
            job.set_file(&file);
            self.contents.find(&key).is_some_and(|leader| {
                job.begin();
                self.join(job, &leader)
            })
        };
        if is_found {
            self.metrics.saved.fetches.fetch_add(1, Relaxed);
        } else {
            job.forget_file();
        }
        is_found
    }
}
