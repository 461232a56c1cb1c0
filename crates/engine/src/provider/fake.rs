//! A provider without a model, for tests of the seam. Like a remote one it answers on threads of
//! its own, in any order, and keeps no token ids.

use super::values::{PictureEncoding, PictureOptions, PreparedPicture, RawCaption, ViewSet};
use super::work::ProviderWork;
use super::{Provider, ProviderStart};
use crate::captions::CaptionTask;
use pg_caption_pixels::{RgbPicture, encode_png};
use pg_caption_wire::{Failure, FinishReason, ModelStatus, OutputSpec};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Answers one output.
pub type FakeAnswer = dyn Fn(&OutputSpec) -> Result<RawCaption, Failure> + Send + Sync;

/// The provider. It sends no answer for styles named `dropped`.
pub struct FakeProvider {
    answer: Arc<FakeAnswer>,
    /// Pictures prepared so far.
    pub prepared: Arc<AtomicUsize>,
}

/// The picture as a compressed file.
struct FakePicture(Vec<u8>);

impl PreparedPicture for FakePicture {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn sha256(&self) -> String {
        crate::picture::sha256_hex(&self.0)
    }
}

impl FakeProvider {
    /// A provider that is not started.
    pub fn idle(
        answer: impl Fn(&OutputSpec) -> Result<RawCaption, Failure> + Send + Sync + 'static,
    ) -> Arc<dyn Provider> {
        Arc::new(FakeProvider { answer: Arc::new(answer), prepared: Arc::default() })
    }

    /// Starts a provider that is ready immediately. Returns the number of prepared pictures as
    /// well.
    pub fn start(
        answer: impl Fn(&OutputSpec) -> Result<RawCaption, Failure> + Send + Sync + 'static,
    ) -> (ProviderStart, Arc<AtomicUsize>) {
        let prepared = Arc::<AtomicUsize>::default();
        let provider = FakeProvider { answer: Arc::new(answer), prepared: prepared.clone() };
        let start: ProviderStart = Box::new(|_, _, host| host.ready(Arc::new(provider)));
        (start, prepared)
    }
}

/// A raw caption.
pub fn raw(text: &str, confidence: Option<f32>) -> RawCaption {
    RawCaption {
        text: text.into(),
        finish: FinishReason::Stop,
        confidence,
        tokens: 7,
        ids: Vec::new(),
        prompt_ids: Vec::new(),
    }
}

impl Provider for FakeProvider {
    fn status(&self) -> ModelStatus {
        ModelStatus {
            name: "fake".into(),
            digest: "http://models.example fake".into(),
            family: "remote".into(),
            bytes: 0,
            min_confidence: Some(0.5),
            local: None,
            remote: None,
        }
    }

    fn lookahead(&self) -> usize {
        2
    }

    fn target(&self) -> (u32, u32) {
        (64, 64)
    }

    fn views(&self, _outputs: &[OutputSpec]) -> ViewSet {
        ViewSet::from_bits(1)
    }

    fn memory_for(&self, (width, height): (u32, u32), _options: &PictureOptions) -> u64 {
        4 * u64::from(width) * u64::from(height) + 1024
    }

    fn prepare(
        &self,
        picture: &RgbPicture,
        _options: &PictureOptions,
    ) -> Result<Box<dyn PreparedPicture>, Failure> {
        self.prepared.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FakePicture(encode_png(picture))))
    }

    fn submit(&self, prepared: Box<dyn PreparedPicture>, work: ProviderWork) {
        let prepared: Box<dyn Any> = prepared;
        let picture: Box<FakePicture> = prepared.downcast().expect("a picture of this provider");
        let encoding: PictureEncoding = Arc::new(picture.0);
        for task in work.encoded(encoding, None, Duration::ZERO) {
            self.caption(task);
        }
    }

    fn caption(&self, mut task: CaptionTask) {
        let answer = self.answer.clone();
        thread::spawn(move || {
            let file = task.encoding().downcast_ref::<Vec<u8>>().expect("a file");
            assert!(file.starts_with(b"\x89PNG"));
            for at in task.missing() {
                let output = &task.job().outputs[at];
                if output.style.name == "dropped" {
                    return;
                }
                let answer = answer(output);
                task.finish(at, answer, Duration::from_millis(1));
            }
            task.answer();
        });
    }
}
