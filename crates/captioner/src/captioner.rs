//! The sessions of a model, and the batches that run on them. Lives on one thread.

use crate::batch::Running;
use crate::family::Sessions;
use crate::picture::PixelValues;
use crate::{GenerationSettings, ModelError, TokenPrompt};
use ort::value::DynValue;
use std::any::Any;
use std::sync::Arc;

/// What the encoder made of one picture; shared by all its captions.
pub struct PictureFeatures {
    /// Only equal buckets may share a decoder batch (shape).
    pub bucket: u64,
    /// Bytes held.
    pub bytes: usize,
    /// The encoder's own calibrated confidence that it knows what is shown (optional graph output
    /// `confidence`), 0..=1.
    pub confidence: Option<f32>,
    /// The family's own.
    state: Box<dyn Any + Send + Sync>,
}

/// What a family may keep of a picture.
pub(crate) trait State: Any + Send + Sync {
    /// Only equal buckets may share a decoder batch.
    fn bucket(&self) -> u64;
    /// Bytes held.
    fn bytes(&self) -> usize;
}

impl State for crate::tensor::HostTensor {
    fn bucket(&self) -> u64 {
        self.shape
            .iter()
            .fold(17u64, |hash, n| hash.wrapping_mul(1_000_003).wrapping_add(*n as u64))
    }

    fn bytes(&self) -> usize {
        crate::tensor::HostTensor::bytes(self)
    }
}

impl PictureFeatures {
    pub(crate) fn new(state: impl State, confidence: Option<f32>) -> PictureFeatures {
        PictureFeatures {
            bucket: state.bucket(),
            bytes: state.bytes(),
            confidence,
            state: Box::new(state),
        }
    }

    pub(crate) fn state<S: State>(&self) -> Result<&S, ModelError> {
        self.state
            .downcast_ref()
            .ok_or_else(|| ModelError::Batch("features of another family".into()))
    }
}

/// One caption to generate.
pub struct CaptionSequence {
    /// Chosen by the caller, returned in [`FinishedCaption`]; unique within a batch.
    pub key: u64,
    /// The picture.
    pub features: Arc<PictureFeatures>,
    /// What generation starts from.
    pub prompt: TokenPrompt,
    /// Ceiling on new tokens: the smaller of this and the folder's own holds.
    pub max_new_tokens: u32,
    /// Beams, n-gram ban, penalties …: only equal generations share a batch.
    pub generation: Arc<GenerationSettings>,
}

/// A caption that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedCaption {
    /// Of the sequence.
    pub key: u64,
    /// New ids, the end token included when it was produced.
    pub ids: Vec<i64>,
    /// Why (a forced final end token counts as Length).
    pub finish: pg_caption_wire::FinishReason,
    /// Geometric mean probability of the tokens the model chose itself, 0..=1.
    pub confidence: f32,
}

/// Captions being generated together.
pub struct CaptionBatch {
    running: Running<DynValue>,
}

impl CaptionBatch {
    /// Captions still running.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// None left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys still running.
    pub fn keys(&self) -> Vec<u64> {
        self.running.keys()
    }

    /// Drops captions whose caller left; takes effect before the next step.
    pub fn cancel(&mut self, keys: &[u64]) {
        self.running.cancel(keys);
    }

    /// Cache bytes held now (features are counted by their own `bytes`).
    pub fn bytes(&self) -> usize {
        self.running.bytes()
    }
}

/// The sessions of a model. Lives on one thread.
pub struct Captioner {
    sessions: Sessions,
}

impl Captioner {
    pub(crate) fn new(sessions: Sessions) -> Captioner {
        Captioner { sessions }
    }

    /// One encoder call over pictures of one bucket; features in the pictures' order.
    pub fn encode(&mut self, pictures: &[PixelValues]) -> Result<Vec<PictureFeatures>, ModelError> {
        self.encode_refs(&pictures.iter().collect::<Vec<_>>())
    }

    /// As [`Captioner::encode`], for pictures that lie apart.
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

    /// Prefill: sequences of equal features bucket, prompt bucket and generation. Some may finish
    /// at once.
    pub fn begin(
        &mut self,
        sequences: Vec<CaptionSequence>,
    ) -> Result<(CaptionBatch, Vec<FinishedCaption>), ModelError> {
        let (running, finished) = Running::begin(&mut *self.sessions, &sequences)?;
        Ok((CaptionBatch { running }, finished))
    }

    /// One decode step of everything in the batch; finished and cancelled rows leave. After an
    /// error the batch is good for nothing but being dropped; other batches are not touched.
    pub fn step(&mut self, batch: &mut CaptionBatch) -> Result<Vec<FinishedCaption>, ModelError> {
        batch.running.step(&mut *self.sessions)
    }
}
