//! The decode threads: bytes become a picture, and the picture the model's tensor.

use super::{Ahead, File, Pipeline, ToDecode, ms, no_room};
use crate::budget::Reservation;
use crate::failures;
use crate::fair_queue::Verdict;
use crate::inbox::{Inbox, Prepared};
use crate::job::{Answer, Source, Stage};
use crate::metrics::{self, thread_cpu};
use crate::picture::{Work, digest};
use pg_caption_captioner::{InputPreparer, PictureOptions, PixelValues, catch_panic};
use pg_caption_pixels as pixels;
use pg_caption_wire::ImageFacts;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// A picture ready for the model.
struct Tensor {
    facts: ImageFacts,
    pixels: PixelValues,
    pixels_sha256: Option<String>,
    held: Reservation,
}

impl Pipeline {
    pub(super) fn decode_loop(self: &Arc<Self>, preparer: &InputPreparer, inbox: &Inbox) {
        loop {
            let ToDecode { mut work, bytes, held, etag, last_modified, ahead } = self.next_decode();
            let Some(ahead) = ahead else { continue };
            let file = File { bytes, held, etag, last_modified };
            // The work stays out here, so that a panic is answered as what it is.
            let decoded = catch_panic(|| self.decode(&mut work, file, preparer));
            match decoded.unwrap_or_else(|_| Err(Answer::Failed(failures::crashed("decode")))) {
                Ok(Tensor { facts, pixels, pixels_sha256, held }) => {
                    work.picture.at(Stage::Model);
                    inbox.push(Prepared { work, facts, pixels, pixels_sha256, ahead, held });
                }
                Err(answer) => {
                    drop(ahead);
                    work.end(answer);
                }
            }
        }
    }

    fn next_decode(self: &Arc<Self>) -> ToDecode {
        let mut board = self.board();
        loop {
            let most_urgent =
                (0..board.fetched.len()).min_by_key(|i| board.fetched[*i].work.picture.due());
            if let Some(at) = most_urgent {
                return board.fetched.swap_remove(at);
            }
            if board.ahead < board.most_ahead {
                let taken = board.bytes.take(|item| {
                    if item.work.picture.wanted() { Verdict::Take } else { Verdict::Drop }
                });
                if let Some(next) = taken {
                    board.ahead += 1;
                    if !board.bytes.is_empty() {
                        self.to_decode.notify_one();
                    }
                    return ToDecode { ahead: Some(Ahead(self.clone())), ..next };
                }
            }
            board = self.to_decode.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn decode(
        &self,
        work: &mut Work,
        file: File,
        preparer: &InputPreparer,
    ) -> Result<Tensor, Answer> {
        let File { bytes, held, etag, last_modified } = file;
        let picture = work.picture.clone();
        if !picture.wanted() {
            return Err(Answer::Failed(failures::lost()));
        }
        if let Some(possessed) = crate::test_hook::DECODER.get() {
            possessed(&bytes);
        }
        let (cpu, began) = (thread_cpu(), Instant::now());
        let failed = |e: pixels::PictureError| Answer::Failed(e.failure());
        let deadline = picture.deadline();
        let left = || picture.cancelled.load(std::sync::atomic::Ordering::Acquire);
        let exact = picture.any(|job| job.extras.exact);
        let options = pixels::DecodeOptions {
            limits: pixels::DecodeLimits {
                max_pixels: self.max_pixels,
                deadline: Some(deadline),
                memory: Some(self.decoding.total()),
            },
            target: (!exact).then(|| preparer.target()),
            exact,
        };
        let header = pixels::probe(&bytes).map_err(failed)?;
        // What is refused from its header does not wait for room first.
        header.check(&options).map_err(failed)?;
        let needed = header
            .memory_for(&options)
            .saturating_add(pixels::working_memory(header.upright_size(), preparer.target()));
        let room = self.decoding.reserve(needed.min(self.decoding.total()), deadline, left);
        let room = room.map_err(|e| Answer::Failed(no_room(e, needed)))?;
        let waited = began.elapsed();
        let decoded = pixels::decode(&bytes, &options).map_err(failed)?;
        if decoded.blank.is_some() && !exact {
            return Err(Answer::Failed(failures::blank()));
        }
        let sha256 = match &picture.source {
            Source::Bytes { sha256: Some(known) } => known.clone(),
            _ => digest(&bytes),
        };
        let facts = ImageFacts {
            format: decoded.format.to_string(),
            width: decoded.width,
            height: decoded.height,
            bytes: bytes.len() as u64,
            sha256,
            etag,
            last_modified,
        };
        drop((bytes, held));
        self.meters.spent(metrics::Stage::Decode, thread_cpu().saturating_sub(cpu));
        work.timings.decode = ms(began.elapsed().saturating_sub(waited));

        let options =
            PictureOptions { views: picture.views(|job| job.views(preparer, self.tiles)) };
        let most = preparer.memory_for((decoded.rgb.width, decoded.rgb.height), &options);
        let held = self.tensors.reserve(most.min(self.tensors.total()), deadline, left);
        let mut held = held.map_err(|e| Answer::Failed(no_room(e, most)))?;
        let (cpu, began) = (thread_cpu(), Instant::now());
        let tensor = preparer.picture(&decoded.rgb, &options);
        drop((decoded, room));
        let tensor = tensor.map_err(|e| Answer::Failed(failures::model_error(e.to_string())))?;
        held.shrink(tensor.bytes as u64);
        let pixels_sha256 = picture.any(|job| job.extras.pixels_sha256).then(|| tensor.sha256());
        self.meters.spent(metrics::Stage::Preprocess, thread_cpu().saturating_sub(cpu));
        work.timings.preprocess = ms(began.elapsed());
        Ok(Tensor { facts, pixels: tensor, pixels_sha256, held })
    }
}
