//! The sessions of a model and the batches that run on them. Used by one thread.

use crate::ModelError;
use crate::batch::RunningBatch;
use crate::family::FamilySessions;
use crate::features::PictureFeatures;
use crate::picture::PixelValues;
use crate::sequence::{CaptionSequence, FinishedCaption};
use ort::value::DynValue;

/// A batch of captions that are generated together.
pub struct CaptionBatch {
    running: RunningBatch<DynValue>,
}

impl CaptionBatch {
    /// Whether no caption is running.
    pub fn is_empty(&self) -> bool {
        self.running.len() == 0
    }

    /// Drops captions whose client disconnected; takes effect before the next step.
    pub fn cancel(&mut self, keys: &[u64]) {
        self.running.cancel(keys);
    }

    /// Bytes held by the cache. Features are counted by [`PictureFeatures::bytes`].
    pub fn bytes(&self) -> usize {
        self.running.bytes()
    }
}

/// The sessions of a model. Used by one thread.
pub struct Captioner {
    sessions: FamilySessions,
}

impl Captioner {
    pub(crate) fn new(sessions: FamilySessions) -> Captioner {
        Captioner { sessions }
    }

    /// Encodes pictures of one bucket in one call; returns features in the order of the pictures.
    pub fn encode(&mut self, pictures: &[PixelValues]) -> Result<Vec<PictureFeatures>, ModelError> {
        self.encode_refs(&pictures.iter().collect::<Vec<_>>())
    }

    /// As [`Captioner::encode`], for pictures that are not adjacent in memory.
    pub fn encode_refs(
        &mut self,
        pictures: &[&PixelValues],
    ) -> Result<Vec<PictureFeatures>, ModelError> {
        match pictures {
            [] => Ok(Vec::new()),
            [first, rest @ ..] if rest.iter().any(|p| p.bucket != first.bucket) => {
                Err(ModelError::Batch("pictures of different shapes in one encoder call".into()))
            }
            _ => self.sessions.encode(pictures),
        }
    }

    /// Runs the prefill of sequences with equal features bucket, prompt bucket and generation
    /// settings. Returns the captions that end with it.
    pub fn begin(
        &mut self,
        sequences: Vec<CaptionSequence>,
    ) -> Result<(CaptionBatch, Vec<FinishedCaption>), ModelError> {
        let (running, finished) = RunningBatch::begin(&mut *self.sessions, &sequences)?;
        Ok((CaptionBatch { running }, finished))
    }

    /// Runs one decode step of every caption in the batch; finished and cancelled rows leave. After
    /// an error the batch can only be dropped; other batches are unaffected.
    pub fn step(&mut self, batch: &mut CaptionBatch) -> Result<Vec<FinishedCaption>, ModelError> {
        batch.running.step(&mut *self.sessions)
    }
}
