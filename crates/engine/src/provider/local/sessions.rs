//! The captioner's sessions as the scheduler drives them. A panic in a call is an error of that
//! call.

use super::scheduler::ScheduledModel;
use crate::catch_panic::catch_panic;
use pg_caption_captioner::{
    CaptionBatch, CaptionSequence, Captioner, FinishedCaption, GenerationSettings, ModelError,
    PictureFeatures, PixelValues, TokenPrompt,
};
use std::sync::Arc;

/// What generation of one caption starts from.
#[derive(Clone)]
pub struct CaptionStart {
    /// The picture.
    pub features: Arc<PictureFeatures>,
    /// The prompt.
    pub prompt: TokenPrompt,
    /// Ceiling for generated tokens.
    pub max_new_tokens: u32,
    /// Beams, penalties …
    pub generation: Arc<GenerationSettings>,
}

impl CaptionStart {
    /// The sequence of this start.
    pub fn sequence(&self, key: u64) -> CaptionSequence {
        let CaptionStart { features, prompt, max_new_tokens, generation } = self.clone();
        CaptionSequence { key, features, prompt, max_new_tokens, generation }
    }
}

/// The sessions of the loaded model.
pub struct LocalSessions(pub Captioner);

fn guarded<T>(call: impl FnOnce() -> Result<T, ModelError>) -> Result<T, String> {
    match catch_panic(call) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => Err(format!("its code panicked: {panic}")),
    }
}

impl ScheduledModel for LocalSessions {
    type Pixels = PixelValues;
    type Features = PictureFeatures;
    type Start = CaptionStart;
    type Batch = CaptionBatch;

    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, String> {
        guarded(|| self.0.encode_refs(pictures))
    }

    fn begin(
        &mut self,
        captions: &[(u64, &CaptionStart)],
    ) -> Result<(CaptionBatch, Vec<FinishedCaption>), String> {
        guarded(|| self.0.begin(captions.iter().map(|(key, start)| start.sequence(*key)).collect()))
    }

    fn step(&mut self, batch: &mut CaptionBatch) -> Result<Vec<FinishedCaption>, String> {
        guarded(|| self.0.step(batch))
    }

    fn cancel(batch: &mut CaptionBatch, keys: &[u64]) {
        batch.cancel(keys);
    }

    fn bytes(batch: &CaptionBatch) -> usize {
        batch.bytes()
    }
}
