//! Which jobs share a picture that is on its way, and how a job joins one. Called by
//! [`Engine::submit`].

use super::Engine;
use crate::job::Job;
use crate::picture::{JoinOutcome, Picture};
use crate::provider::Provider;
use crate::provider::values::ViewSet;
use crate::request::PictureSource;
use pg_caption_wire::{AnswerReuse, ClientRole};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whose requests for one URL are one fetch: those of all workers, or of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShareScope {
    Workers,
    Session(u64),
}

/// What requests for one picture must have in common, so that it is prepared for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SharedViews {
    /// The views of a provider that is ready.
    Ready(ViewSet),
    /// While the provider loads, its views are unknown: equal outputs need equal ones. As JSON.
    Loading(String),
}

/// What makes requests for a URL one fetch.
pub type ShareScopeKey = (ShareScope, PictureSource, SharedViews);

impl Engine {
    /// Joins a picture of an earlier job. Returns false if the job needs a new picture.
    pub(super) fn join(&self, job: &Arc<Job>, picture: &Arc<Picture>) -> bool {
        match picture.join(job) {
            JoinOutcome::Waiting => {}
            JoinOutcome::Encoded(encoded) => {
                job.begin();
                if !self.pipeline.caption_encoded(job, encoded, picture) {
                    return false;
                }
            }
            JoinOutcome::Ended(answer) => {
                job.answer(*answer);
            }
            JoinOutcome::Known(file) => {
                if !self.pipeline.answer_known(job, &file) {
                    return false;
                }
            }
            JoinOutcome::Cancelled => return false,
        }
        let saved = &self.metrics.saved;
        if matches!(job.source, PictureSource::Url { .. }) {
            saved.fetches.fetch_add(1, Ordering::Relaxed);
        }
        saved.encodings.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Lets a job share what is known of its URL, or the picture that others with the same key have
    /// asked for. Returns whether it did.
    pub(super) fn shares(
        &self,
        job: &Arc<Job>,
        key: &ShareScopeKey,
        provider: Option<&dyn Provider>,
    ) -> bool {
        if let (Some(provider), PictureSource::Url { url, .. }) = (provider, &job.source)
            && job.role == ClientRole::Worker
            && job.reuse == AnswerReuse::Any
            // A row that had a caption wants to know which picture its URL has now.
            && job.earlier.is_none()
            && self.pipeline.answer_remembered(job, url, provider)
        {
            return true;
        }
        let Some(picture) = self.in_flight.find(key) else { return false };
        // The file that a fetch in progress brings may be older than the request for a new one.
        let is_new = job.reuse == AnswerReuse::Any || !picture.has_begun();
        is_new && self.join(job, &picture)
    }
}

/// Which requests for the same URL a job may share a fetch with; `None`: with none. Files that came
/// with requests are compared when they are decoded.
pub(super) fn scope(job: &Job, provider: Option<&dyn Provider>) -> Option<ShareScopeKey> {
    if !job.may_share() || !matches!(job.source, PictureSource::Url { .. }) {
        return None;
    }
    let scope = match job.role {
        ClientRole::Worker => ShareScope::Workers,
        ClientRole::Call => ShareScope::Session(job.connection),
    };
    let views = match provider {
        Some(provider) => SharedViews::Ready(provider.views(&job.outputs)),
        None => SharedViews::Loading(serde_json::to_string(&job.outputs).ok()?),
    };
    Some((scope, job.source.clone(), views))
}
