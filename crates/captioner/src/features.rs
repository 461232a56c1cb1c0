//! The encoder's result for one picture.

use crate::ModelError;
use crate::tensor::HostTensor;
use std::any::Any;

/// The encoder's features of one picture; shared by all its captions.
pub struct PictureFeatures {
    /// Only features of equal buckets may share a decoder batch.
    pub bucket: u64,
    /// Bytes held.
    pub bytes: usize,
    /// The encoder's own calibrated confidence in its features (optional graph output
    /// `confidence`), 0..=1.
    pub confidence: Option<f32>,
    /// State of the family.
    state: Box<dyn Any + Send + Sync>,
}

/// The state that a family keeps for a picture.
pub(crate) trait FeatureState: Any + Send + Sync {
    /// Only equal buckets may share a decoder batch.
    fn bucket(&self) -> u64;
    /// Bytes held.
    fn bytes(&self) -> usize;
}

impl FeatureState for HostTensor {
    fn bucket(&self) -> u64 {
        self.shape
            .iter()
            .fold(17u64, |hash, n| hash.wrapping_mul(1_000_003).wrapping_add(*n as u64))
    }

    fn bytes(&self) -> usize {
        HostTensor::bytes(self)
    }
}

impl PictureFeatures {
    pub(crate) fn new(state: impl FeatureState, confidence: Option<f32>) -> PictureFeatures {
        PictureFeatures {
            bucket: state.bucket(),
            bytes: state.bytes(),
            confidence,
            state: Box::new(state),
        }
    }

    pub(crate) fn state<S: FeatureState>(&self) -> Result<&S, ModelError> {
        self.state
            .downcast_ref()
            .ok_or_else(|| ModelError::Batch("features of another family".into()))
    }
}
