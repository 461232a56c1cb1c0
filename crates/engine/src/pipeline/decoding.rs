//! The decode threads: a file becomes a picture, and the provider prepares the picture.

use super::{PictureFile, PicturePipeline, ToDecode};
use crate::answer::JobAnswer;
use crate::budget::MemoryReservation;
use crate::catch_panic::catch_panic;
use crate::failures;
use crate::fair_queue::QueueDecision;
use crate::job::JobStage;
use crate::lookahead::LookaheadPlace;
use crate::metrics::{CpuStage, ms, thread_cpu};
use crate::picture::{Picture, PictureWork, sha256_hex};
use crate::provider::Provider;
use crate::provider::values::{AnswerTerms, PictureOptions, PreparedPicture, ViewSet};
use crate::provider::work::ProviderWork;
use crate::request::{FileIdentity, PictureSource};
use pg_caption_pixels::{self as pixels, DecodeLimits, DecodeOptions, RgbPicture};
use pg_caption_wire::{Failure, ImageFacts};
use std::sync::Arc;
use std::time::Instant;

/// A picture and the memory it holds.
struct Decoded {
    rgb: RgbPicture,
    facts: ImageFacts,
    memory: MemoryReservation,
}

/// A picture that the provider has prepared.
struct Prepared {
    data: Box<dyn PreparedPicture>,
    facts: ImageFacts,
    pixels_sha256: Option<String>,
    memory: MemoryReservation,
}

impl PicturePipeline {
    pub(super) fn decode_loop(self: &Arc<Self>, provider: &dyn Provider) {
        let Some(terms) = self.terms.get() else { return };
        loop {
            let ToDecode { mut work, file, place } = self.next_decode();
            let Some(place) = place else { continue };
            // The work stays outside, so that a panic is answered as what it is.
            let prepared = catch_panic(|| self.decode_and_prepare(&mut work, file, provider));
            match prepared.unwrap_or_else(|_| Err(failures::crashed("decode"))) {
                Ok(None) => {}
                Ok(Some(prepared)) => submit(provider, work, prepared, place, terms),
                Err(failure) => {
                    drop(place);
                    work.end(JobAnswer::Failed(failure));
                }
            }
        }
    }

    fn next_decode(self: &Arc<Self>) -> ToDecode {
        let mut queues = self.queues.lock();
        loop {
            let most_urgent =
                (0..queues.fetched.len()).min_by_key(|i| queues.fetched[*i].work.picture.due());
            if let Some(at) = most_urgent {
                return queues.fetched.swap_remove(at);
            }
            if queues.ahead < queues.most_ahead {
                let taken = queues.uploads.take(|item| match item.work.picture.is_wanted() {
                    true => QueueDecision::Take,
                    false => QueueDecision::Drop,
                });
                if let Some(next) = taken {
                    queues.ahead += 1;
                    if !queues.uploads.is_empty() {
                        self.to_decode.notify_one();
                    }
                    return ToDecode { place: Some(LookaheadPlace::new(self.clone())), ..next };
                }
            }
            self.to_decode.wait(&mut queues);
        }
    }

    fn decode_and_prepare(
        &self,
        work: &mut PictureWork,
        file: PictureFile,
        provider: &dyn Provider,
    ) -> Result<Option<Prepared>, Failure> {
        if !work.picture.is_wanted() {
            return Err(failures::lost());
        }
        let identity = identity(&work.picture, &file);
        if let PictureSource::Url { url, .. } = &work.picture.source {
            self.urls.put(url, &identity, file.fresh_for, Instant::now());
        }
        if !self.identify(work, &identity, provider) {
            return Ok(None);
        }
        let picture = work.picture.clone();
        work.running = self.running.enter(&picture);
        if work.running.is_none() {
            return Err(failures::lost());
        }
        {
            let _step = self.metrics.steps.begin(Instant::now());
            self.hook.run(&file.bytes);
        }
        let scale = (provider.target(), provider.reduces_all());
        let decoded = self.decode(work, &picture, (file, identity), scale)?;
        self.prepare(work, &picture, decoded, provider).map(Some)
    }

    fn decode(
        &self,
        work: &mut PictureWork,
        picture: &Picture,
        (file, identity): (PictureFile, FileIdentity),
        (target, reduce_all): ((u32, u32), bool),
    ) -> Result<Decoded, Failure> {
        let PictureFile { bytes, memory, .. } = file;
        let (cpu, began) = (thread_cpu(), Instant::now());
        let deadline = picture.deadline();
        let exact = picture.any(|job| job.extras.exact);
        let options = DecodeOptions {
            limits: DecodeLimits {
                max_pixels: self.config.max_image_pixels,
                deadline: Some(deadline),
                memory: Some(self.decoding.total()),
            },
            target: (!exact).then_some(target),
            reduce_all,
            exact,
        };
        // A picture whose header is refused does not wait for memory first.
        let header = {
            let _step = self.metrics.steps.begin(began);
            pixels::probe_within(&bytes, &options)
                .map_err(|e| with_url_hint(e.failure(), picture))?
        };
        let needed = header
            .memory_for(&options)
            .saturating_add(pixels::working_memory(header.upright_size(), target));
        let reserved = self
            .decoding
            .reserve(needed.min(self.decoding.total()), deadline, || picture.is_cancelled());
        let room = reserved.map_err(|e| failures::no_memory(e, needed))?;
        let waited = began.elapsed();
        let decoded = {
            let _step = self.metrics.steps.begin(Instant::now());
            pixels::decode(&bytes, &options).map_err(|e| e.failure())?
        };
        if decoded.blank.is_some() && !exact {
            return Err(failures::blank());
        }
        let facts = ImageFacts {
            format: decoded.format.to_string(),
            width: decoded.width,
            height: decoded.height,
            bytes: bytes.len() as u64,
            sha256: identity.sha256,
            etag: identity.etag,
            last_modified: identity.last_modified,
        };
        drop((bytes, memory));
        self.metrics.add_cpu(CpuStage::Decode, thread_cpu().saturating_sub(cpu));
        work.timings.decode = ms(began.elapsed().saturating_sub(waited));
        Ok(Decoded { rgb: decoded.rgb, facts, memory: room })
    }

    fn prepare(
        &self,
        work: &mut PictureWork,
        picture: &Picture,
        decoded: Decoded,
        provider: &dyn Provider,
    ) -> Result<Prepared, Failure> {
        let views = picture.combine(|job| provider.views(&job.outputs), ViewSet::union);
        let options = PictureOptions { views: views.unwrap_or_default() };
        let Decoded { rgb, facts, memory: room } = decoded;
        let most = provider.memory_for((rgb.width, rgb.height), &options);
        let mut memory = self
            .prepared
            .reserve(most.min(self.prepared.total()), picture.deadline(), || picture.is_cancelled())
            .map_err(|e| failures::no_memory(e, most))?;
        let (cpu, began) = (thread_cpu(), Instant::now());
        let data = {
            let _step = self.metrics.steps.begin(began);
            provider.prepare(&rgb, &options)
        };
        drop((rgb, room));
        let data = data?;
        memory.shrink(data.bytes());
        let pixels_sha256 = picture.any(|job| job.extras.pixels_sha256).then(|| data.sha256());
        self.metrics.add_cpu(CpuStage::Preprocess, thread_cpu().saturating_sub(cpu));
        work.timings.preprocess = ms(began.elapsed());
        Ok(Prepared { data, facts, pixels_sha256, memory })
    }
}

/// Which file it is.
fn identity(picture: &Picture, file: &PictureFile) -> FileIdentity {
    let sha256 = match &picture.source {
        PictureSource::Bytes { sha256: Some(known) } => known.clone(),
        _ => sha256_hex(&file.bytes),
    };
    let (etag, last_modified) = (file.etag.clone(), file.last_modified.clone());
    FileIdentity { sha256, etag, last_modified }
}

/// A file that is no picture, with what is odd about the URL that it came from.
fn with_url_hint(failure: Failure, picture: &Picture) -> Failure {
    // Jobs with equal bytes at another URL wait for it, too: the hint is not theirs to see.
    if picture.any(|job| job.source != picture.source) {
        return failure;
    }
    match &picture.source {
        PictureSource::Url { url, .. } if matches!(&*failure.code, "not_an_image" | "empty") => {
            let hint = pg_caption_fetch::url_hint(url);
            Failure { hint: hint.or(failure.hint), ..failure }
        }
        _ => failure,
    }
}

fn submit(
    provider: &dyn Provider,
    work: PictureWork,
    prepared: Prepared,
    place: LookaheadPlace,
    terms: &Arc<AnswerTerms>,
) {
    let Prepared { data, facts, pixels_sha256, memory } = prepared;
    work.picture.set_stage(JobStage::Model);
    let terms = terms.clone();
    provider.submit(data, ProviderWork { work, facts, pixels_sha256, terms, place, memory });
}
