//! The stages before the model: fetch threads and decode threads, and the line in front of them. They run ahead of the model by a
//! bounded number of pictures, so that it never waits while there is work, and memory stays bounded.

use crate::budget::{Pool, Refused, Reservation};
use crate::failures;
use crate::inbox::{Inbox, Prepared};
use crate::job::{Answer, Source, Stage};
use crate::meters::{self, Meters, thread_cpu};
use crate::picture::{Work, digest};
use crate::turns::{Turns, Verdict};
use pg_caption_captioner::{PictureOptions, Pixels, Preparer};
use pg_caption_fetch::{Admission, Fetched, Fetcher, Get, Permit};
use pg_caption_pixels as pixels;
use pg_caption_wire::{Class, EngineConfig, Failure, ImageFacts};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often an idle fetch thread looks whether a host has become free through a redirect's end, of which nobody tells it.
const LOOK: Duration = Duration::from_millis(100);

/// A URL in line.
struct ToFetch {
    work: Work,
    host: String,
}

/// Bytes to decode.
struct ToDecode {
    work: Work,
    bytes: Vec<u8>,
    held: Option<Reservation>,
    etag: Option<String>,
    last_modified: Option<String>,
    /// Taken when it was fetched; bytes that came with the request have none before their turn.
    ahead: Option<Ahead>,
}

/// An encoded picture.
struct File {
    bytes: Vec<u8>,
    held: Option<Reservation>,
    etag: Option<String>,
    last_modified: Option<String>,
}

/// A picture ready for the model.
struct Tensor {
    facts: ImageFacts,
    pixels: Pixels,
    pixels_sha256: Option<String>,
    held: Reservation,
}

/// What a fetch thread does next.
enum FetchNext {
    Fetch(Work, Permit),
    Cooling(Work, String, Instant),
}

#[derive(Default)]
struct Board {
    urls: Turns<ToFetch>,
    bytes: Turns<ToDecode>,
    fetched: Vec<ToDecode>,
    /// Pictures taken out of line whose tensors the model has not taken yet.
    ahead: usize,
    most_ahead: usize,
}

/// The stages before the model.
pub struct Pipeline {
    board: Mutex<Board>,
    to_fetch: Condvar,
    to_decode: Condvar,
    fetcher: Result<Fetcher, Failure>,
    files: Arc<Pool>,
    decoding: Arc<Pool>,
    tensors: Arc<Pool>,
    meters: Arc<Meters>,
    max_pixels: u64,
    fetch_threads: usize,
    decode_threads: usize,
}

/// A place among the pictures that run ahead of the model; given back when the model has taken the tensor.
pub struct Ahead(Arc<Pipeline>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.board().ahead -= 1;
        self.0.to_fetch.notify_one();
        self.0.to_decode.notify_one();
    }
}

impl Pipeline {
    /// Without threads yet. A setting the fetcher refuses is answered to every URL; bytes still work.
    pub fn new(config: &EngineConfig, meters: Arc<Meters>) -> Arc<Pipeline> {
        // A quarter for files, half for decoding, an eighth for tensors; the model thread has the rest for features and caches.
        let part = |share: u64| Pool::new(config.memory.max(1 << 26) / share);
        let fetcher = Fetcher::new(pg_caption_fetch::Settings::from(config)).map_err(|e| e.failure());
        if let Err(failure) = &fetcher {
            crate::log::line(format_args!("warning: no URL can be fetched: {}", failure.message));
        }
        Arc::new(Pipeline {
            board: Mutex::default(),
            to_fetch: Condvar::new(),
            to_decode: Condvar::new(),
            fetcher,
            files: part(4),
            decoding: part(2),
            tensors: part(8),
            meters,
            max_pixels: config.max_image_pixels,
            fetch_threads: config.fetch_concurrency.clamp(1, 1024) as usize,
            decode_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
        })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a file's bytes.
    pub fn files(&self) -> &Arc<Pool> {
        &self.files
    }

    /// Cooldowns and requests in flight, by host.
    pub fn hosts(&self) -> Vec<pg_caption_wire::HostStatus> {
        self.fetcher.as_ref().map(Fetcher::hosts).unwrap_or_default()
    }

    /// Puts a picture in line.
    pub fn push(&self, work: Work, bytes: Option<(Vec<u8>, Option<Reservation>)>) {
        let (connection, role) = (work.picture.connection, work.picture.role);
        if let Some((bytes, held)) = bytes {
            let item = ToDecode { work, bytes, held, etag: None, last_modified: None, ahead: None };
            self.board().bytes.push(connection, role, item);
            self.to_decode.notify_one();
            return;
        }
        let Source::Url { url, .. } = &work.picture.source else { return };
        match (&self.fetcher, pg_caption_fetch::host_key(url)) {
            (Err(failure), _) => work.end(Answer::Failed(failure.clone())),
            (_, Err(e)) => work.end(Answer::Failed(e.failure())),
            (Ok(_), Ok(host)) => {
                self.board().urls.push(connection, role, ToFetch { work, host });
                self.to_fetch.notify_one();
            }
        }
    }

    /// The model is ready: `batch` pictures fit into its calls. Starts the threads.
    ///
    /// # Errors
    /// No threads.
    pub fn open(self: &Arc<Self>, batch: usize, preparer: &Arc<Preparer>, inbox: &Arc<Inbox>) -> std::io::Result<()> {
        self.board().most_ahead = self.fetch_threads + self.decode_threads + 2 * batch;
        for _ in 0..self.decode_threads {
            let (this, preparer, inbox) = (self.clone(), preparer.clone(), inbox.clone());
            crate::serve::spawn("decode", move || this.decode_loop(&preparer, &inbox))?;
        }
        for _ in 0..if self.fetcher.is_ok() { self.fetch_threads } else { 0 } {
            let this = self.clone();
            crate::serve::spawn("fetch", move || this.fetch_loop())?;
        }
        Ok(())
    }

    /// There will be no model: answers everything in line.
    pub fn close(&self, failure: &Failure) {
        let (urls, bytes) = {
            let mut board = self.board();
            (board.urls.drain(), board.bytes.drain())
        };
        urls.into_iter().map(|u| u.work).chain(bytes.into_iter().map(|b| b.work)).for_each(|work| work.end(Answer::Failed(failure.clone())));
    }

    // ---- fetch threads

    fn fetch_loop(self: &Arc<Self>) {
        let Ok(fetcher) = &self.fetcher else { return };
        loop {
            let (next, ahead) = self.next_fetch(fetcher);
            match next {
                FetchNext::Cooling(work, host, until) => {
                    let wait = until.saturating_duration_since(Instant::now()).as_millis() as u64;
                    drop(ahead);
                    work.end(Answer::Failed(failures::host_cooling(&host, wait)));
                }
                FetchNext::Fetch(mut work, permit) => {
                    let fetched = catch_unwind(AssertUnwindSafe(|| self.fetch(fetcher, &mut work, permit)));
                    match fetched.unwrap_or_else(|_| Err(Answer::Failed(failures::crashed("fetch")))) {
                        Ok(File { bytes, held, etag, last_modified }) => {
                            let item = ToDecode { work, bytes, held, etag, last_modified, ahead: Some(ahead) };
                            self.board().fetched.push(item);
                            self.to_decode.notify_one();
                        }
                        Err(answer) => {
                            drop(ahead);
                            work.end(answer);
                        }
                    }
                }
            }
        }
    }

    fn next_fetch(self: &Arc<Self>, fetcher: &Fetcher) -> (FetchNext, Ahead) {
        let mut board = self.board();
        loop {
            if board.ahead < board.most_ahead && !board.urls.is_empty() {
                let mut busy: HashSet<String> = HashSet::new();
                let mut admission = None;
                let taken = board.urls.take(|item| {
                    if !item.work.picture.wanted() {
                        return Verdict::Drop;
                    }
                    if busy.contains(&item.host) {
                        item.work.picture.waits_for_host(&item.host);
                        return Verdict::Skip;
                    }
                    match fetcher.admit(&item.host) {
                        Admission::Busy => {
                            item.work.picture.waits_for_host(&item.host);
                            busy.insert(item.host.clone());
                            Verdict::Skip
                        }
                        other => {
                            admission = Some(other);
                            Verdict::Take
                        }
                    }
                });
                if let (Some(ToFetch { work, host }), Some(admission)) = (taken, admission) {
                    board.ahead += 1;
                    if !board.urls.is_empty() {
                        self.to_fetch.notify_one();
                    }
                    drop(board);
                    let next = match admission {
                        Admission::Go(permit) => FetchNext::Fetch(work, permit),
                        Admission::Cooling { until } => FetchNext::Cooling(work, host, until),
                        Admission::Busy => unreachable!("skipped"),
                    };
                    return (next, Ahead(self.clone()));
                }
            }
            board = if board.urls.is_empty() || board.ahead >= board.most_ahead {
                self.to_fetch.wait(board).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.to_fetch.wait_timeout(board, LOOK).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    fn fetch(&self, fetcher: &Fetcher, work: &mut Work, permit: Permit) -> Result<File, Answer> {
        let (cpu, began) = (thread_cpu(), Instant::now());
        let picture = work.picture.clone();
        let Source::Url { url, etag, last_modified } = &picture.source else { return Err(Answer::Failed(failures::lost())) };
        picture.at(Stage::Fetching);
        let deadline = picture.deadline();
        let get = Get { url, etag: etag.as_deref(), last_modified: last_modified.as_deref(), deadline, cancelled: &picture.cancelled };
        let mut held = None;
        let left = || picture.cancelled.load(std::sync::atomic::Ordering::Acquire);
        let fetched = fetcher.fetch_admitted(permit, &get, &mut |bytes| {
            held = Some(self.files.reserve(bytes, deadline, left).map_err(|e| no_room(e, bytes))?);
            Ok(())
        });
        self.meters.spent(meters::Stage::Fetch, thread_cpu().saturating_sub(cpu));
        work.timings.fetch = ms(began.elapsed());
        match fetched {
            Ok(Fetched::Body { bytes, etag, last_modified, .. }) => {
                if let Some(held) = &mut held {
                    held.shrink(bytes.len() as u64);
                }
                picture.at(Stage::Decoding);
                Ok(File { bytes, held, etag, last_modified })
            }
            Ok(Fetched::NotModified) => Err(Answer::Unchanged),
            Err(e) => Err(Answer::Failed(e.failure())),
        }
    }

    // ---- decode threads

    fn decode_loop(self: &Arc<Self>, preparer: &Preparer, inbox: &Inbox) {
        loop {
            let ToDecode { mut work, bytes, held, etag, last_modified, ahead } = self.next_decode();
            let Some(ahead) = ahead else { continue };
            let file = File { bytes, held, etag, last_modified };
            // The work stays out here, so that a panic is answered as what it is.
            let decoded = catch_unwind(AssertUnwindSafe(|| self.decode(&mut work, file, preparer)));
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
            let most_urgent = (0..board.fetched.len()).min_by_key(|i| board.fetched[*i].work.picture.due());
            if let Some(at) = most_urgent {
                return board.fetched.swap_remove(at);
            }
            if board.ahead < board.most_ahead {
                let taken = board.bytes.take(|item| if item.work.picture.wanted() { Verdict::Take } else { Verdict::Drop });
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

    fn decode(&self, work: &mut Work, file: File, preparer: &Preparer) -> Result<Tensor, Answer> {
        let File { bytes, held, etag, last_modified } = file;
        let picture = work.picture.clone();
        if !picture.wanted() {
            return Err(Answer::Failed(failures::lost()));
        }
        let (cpu, began) = (thread_cpu(), Instant::now());
        let failed = |e: pixels::Error| Answer::Failed(e.failure());
        let deadline = picture.deadline();
        let left = || picture.cancelled.load(std::sync::atomic::Ordering::Acquire);
        let exact = picture.any(|job| job.extras.exact);
        let options = pixels::DecodeOptions {
            limits: pixels::Limits { max_pixels: self.max_pixels, deadline: Some(deadline), memory: Some(self.decoding.total()) },
            target: (!exact).then(|| preparer.target()),
            exact,
        };
        let needed = pixels::probe(&bytes).map_err(failed)?.memory_for(&options);
        // What exceeds the whole pool is refused by the decoder itself, with the numbers.
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
        self.meters.spent(meters::Stage::Decode, thread_cpu().saturating_sub(cpu));
        work.timings.decode = ms(began.elapsed().saturating_sub(waited));

        let (cpu, began) = (thread_cpu(), Instant::now());
        let tensor = preparer.picture(&decoded.rgb, &PictureOptions::default());
        drop((decoded, room));
        let tensor = tensor.map_err(|e| Answer::Failed(failures::model_error(e.to_string())))?;
        let pixels_sha256 = picture.any(|job| job.extras.pixels_sha256).then(|| tensor.sha256());
        self.meters.spent(meters::Stage::Preprocess, thread_cpu().saturating_sub(cpu));
        work.timings.preprocess = ms(began.elapsed());
        let size = (tensor.bytes as u64).min(self.tensors.total());
        let held = self.tensors.reserve(size, deadline, left).map_err(|e| Answer::Failed(no_room(e, size)))?;
        Ok(Tensor { facts, pixels: tensor, pixels_sha256, held })
    }
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The failure for bytes there was no room for.
pub fn no_room(refused: Refused, bytes: u64) -> Failure {
    match refused {
        Refused::TooMuch { total } => Failure::new(Class::Reject, "too_much_memory", "the picture needs more memory than there is for one stage")
            .detail(format!("it needs {bytes} bytes, there are {total}"))
            .hint("See \"pg_caption.memory\"."),
        Refused::Late | Refused::Left => Failure::new(Class::Retry, "timeout", "the image was not captioned in time")
            .detail("still waiting for memory")
            .hint("See \"pg_caption.memory\"."),
    }
}
