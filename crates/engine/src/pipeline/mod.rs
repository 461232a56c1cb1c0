//! The stages before the provider: fetch threads and decode threads, and the queues in front of
//! them.
//!
//! They work ahead of the provider by a bounded number of pictures, so that it never waits while
//! there is work, and memory stays bounded.

mod decoding;
mod fetching;
mod identifying;

use crate::answer::JobAnswer;
use crate::budget::MemoryPool;
use crate::fair_queue::FairQueue;
use crate::file_memory::{FileClaim, FileMemory};
use crate::lookahead::{LookaheadPlace, PlaceOwner};
use crate::metrics::EngineMetrics;
use crate::picture::PictureWork;
use crate::pictures_in_flight::PicturesInFlight;
use crate::provider::Provider;
use crate::provider::values::AnswerTerms;
use crate::request::PictureSource;
use crate::resolver_files::{self, ResolverFiles};
use crate::running::RunningPictures;
use crate::shared_answers::SharedAnswers;
use crate::test_hook::DecodeHook;
use crate::threads::spawn;
use crate::url_memo::UrlMemo;
use identifying::ContentKey;
use parking_lot::{Condvar, Mutex};
use pg_caption_fetch::{
    FairShares, FetchClient, FetchError, FetchSettings, Fetcher, RedirectedFetch, RequestHeaders,
};
use pg_caption_wire::{EngineConfig, Failure, HostCooldown, HostStatus};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Parts of the memory setting: a quarter for files, half for decoding, an eighth for prepared
/// pictures. The provider has the rest.
const FILES_SHARE: u64 = 4;
const DECODING_SHARE: u64 = 2;
const PREPARED_SHARE: u64 = 8;

/// A queued URL.
struct ToFetch {
    work: PictureWork,
    /// The host of the next fetch.
    host: String,
    /// After a redirect to another host.
    redirected: Option<Box<RedirectedFetch>>,
    /// Its memory, if it starts again because other files needed it.
    claim: Option<FileClaim>,
}

/// A file in memory.
struct PictureFile {
    bytes: Vec<u8>,
    memory: Option<FileClaim>,
    etag: Option<String>,
    last_modified: Option<String>,
    /// How long it may be taken for the one at its URL.
    fresh_for: Duration,
}

/// A queued file.
struct ToDecode {
    work: PictureWork,
    file: PictureFile,
    /// Taken when the file was fetched; files that came with a request have none until they leave
    /// the queue.
    place: Option<LookaheadPlace>,
}

/// A fetch that uses a thread.
struct RunningFetch {
    client: FetchClient,
    since: Instant,
    /// Set to send it back to the queue.
    displaced: Arc<AtomicBool>,
}

struct PipelineQueues {
    urls: FairQueue<ToFetch>,
    /// Who uses the fetch threads.
    threads: FairShares,
    running: Vec<RunningFetch>,
    /// Files that came with requests.
    uploads: FairQueue<ToDecode>,
    fetched: Vec<ToDecode>,
    /// Pictures that left a queue and which the provider has not accepted yet.
    ahead: usize,
    most_ahead: usize,
}

/// The stages before the provider.
pub struct PicturePipeline {
    queues: Mutex<PipelineQueues>,
    to_fetch: Condvar,
    to_decode: Condvar,
    fetcher: Result<Fetcher, Failure>,
    /// Model and threshold of answers, once the provider is ready.
    terms: OnceLock<Arc<AnswerTerms>>,
    files: Arc<FileMemory>,
    decoding: Arc<MemoryPool>,
    prepared: Arc<MemoryPool>,
    running: Arc<RunningPictures>,
    /// Pictures from the decoder on, by what they contain.
    contents: PicturesInFlight<ContentKey>,
    answers: Arc<SharedAnswers>,
    urls: UrlMemo,
    metrics: Arc<EngineMetrics>,
    resolver_files: ResolverFiles,
    /// Called once when the resolver's files can no longer be read.
    outdated: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    hook: DecodeHook,
    config: EngineConfig,
    fetch_threads: usize,
    decode_threads: usize,
}

impl PlaceOwner for PicturePipeline {
    fn give_back(&self) {
        self.queues.lock().ahead -= 1;
        self.to_fetch.notify_one();
        self.to_decode.notify_one();
    }
}

impl PicturePipeline {
    /// Without threads yet. If the fetcher refuses a setting, every URL fails with the reason;
    /// uploads still work.
    pub fn new(
        config: &EngineConfig,
        headers: Result<RequestHeaders, FetchError>,
        (metrics, answers): (Arc<EngineMetrics>, Arc<SharedAnswers>),
        hook: DecodeHook,
    ) -> Arc<PicturePipeline> {
        let memory = config.memory.max(1 << 26);
        let pool = |share: u64| MemoryPool::new(memory / share);
        let files = FileMemory::new(
            memory / FILES_SHARE,
            config.max_image_size,
            Duration::from_millis(config.fetch_timeout_ms),
        );
        let fetch_threads = config.fetch_concurrency.clamp(1, 1024) as usize;
        let fetcher = headers.and_then(|headers| {
            let (headers, room) = (Arc::new(headers), files.total());
            Fetcher::new(FetchSettings { headers, room, ..FetchSettings::from(config) })
        });
        let fetcher = fetcher.map_err(|e| e.failure());
        if let Err(failure) = &fetcher {
            crate::log::line(format_args!("warning: no URL can be fetched: {}", failure.message));
        }
        Arc::new(PicturePipeline {
            queues: Mutex::new(PipelineQueues {
                urls: FairQueue::default(),
                threads: FairShares::new(fetch_threads),
                running: Vec::new(),
                uploads: FairQueue::default(),
                fetched: Vec::new(),
                ahead: 0,
                most_ahead: 0,
            }),
            to_fetch: Condvar::new(),
            to_decode: Condvar::new(),
            fetcher,
            terms: OnceLock::new(),
            files,
            decoding: pool(DECODING_SHARE),
            prepared: pool(PREPARED_SHARE),
            running: Arc::default(),
            contents: PicturesInFlight::default(),
            answers,
            urls: UrlMemo::new(config.memo > 0),
            metrics,
            resolver_files: ResolverFiles::new(resolver_files::FILES),
            outdated: Mutex::default(),
            hook,
            config: config.clone(),
            fetch_threads,
            decode_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
        })
    }

    /// The memory for files.
    pub fn files(&self) -> &Arc<FileMemory> {
        &self.files
    }

    /// The answers that requests share.
    pub fn answers(&self) -> &Arc<SharedAnswers> {
        &self.answers
    }

    /// The pictures in decoder or model.
    pub fn running(&self) -> &Arc<RunningPictures> {
        &self.running
    }

    /// Cooldowns, requests in flight and last answers, by host.
    pub fn hosts(&self) -> Vec<HostStatus> {
        self.fetcher.as_ref().map(Fetcher::hosts).unwrap_or_default()
    }

    /// Sets what is called when another process could resolve names and this one no longer can (see
    /// [`crate::resolver_files`]).
    pub fn when_outdated(&self, report: impl FnOnce() + Send + 'static) {
        *self.outdated.lock() = Some(Box::new(report));
    }

    /// Checks whether names can still be resolved. Costs a few system calls.
    fn check_resolver_files(&self) {
        let mut outdated = self.outdated.lock();
        if outdated.is_some()
            && self.resolver_files.are_replaced()
            && let Some(report) = outdated.take()
        {
            report();
        }
    }

    /// Hosts with a cooldown, for the next engine.
    pub fn cooldowns(&self) -> Vec<HostCooldown> {
        self.fetcher.as_ref().map(Fetcher::cooldowns).unwrap_or_default()
    }

    /// Adopts the cooldowns of the previous engine.
    pub fn restore(&self, cooldowns: &[HostCooldown]) {
        if let Ok(fetcher) = &self.fetcher {
            fetcher.restore(cooldowns);
        }
    }

    /// Queues a picture. `upload`: its file, if it came with the request.
    pub fn push(&self, work: PictureWork, upload: Option<(Vec<u8>, Option<FileClaim>)>) {
        let (connection, role) = (work.picture.connection, work.picture.role);
        if let Some((bytes, memory)) = upload {
            let file = PictureFile {
                bytes,
                memory,
                etag: None,
                last_modified: None,
                fresh_for: Duration::ZERO,
            };
            let item = ToDecode { work, file, place: None };
            self.queues.lock().uploads.push(connection, role, item);
            self.to_decode.notify_one();
            return;
        }
        let PictureSource::Url { url, shown, .. } = &work.picture.source else { return };
        match (&self.fetcher, pg_caption_fetch::host_key(url)) {
            (Err(failure), _) => work.end(JobAnswer::Failed(failure.clone())),
            (_, Err(e)) => {
                let failure = e.showing(shown.as_deref()).failure();
                work.end(JobAnswer::Failed(failure));
            }
            (Ok(_), Ok(host)) => {
                let item = ToFetch { work, host, redirected: None, claim: None };
                self.queues.lock().urls.push(connection, role, item);
                self.to_fetch.notify_one();
            }
        }
    }

    /// The provider is ready: starts the threads.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn open(self: &Arc<Self>, provider: &Arc<dyn Provider>) -> io::Result<()> {
        let terms = AnswerTerms::new(provider, &self.config, Some(self.answers.clone()));
        self.terms.get_or_init(|| Arc::new(terms));
        let most_ahead = self.fetch_threads + self.decode_threads + provider.lookahead();
        self.files.share_first(most_ahead);
        self.queues.lock().most_ahead = most_ahead;
        for _ in 0..self.decode_threads {
            let (this, provider) = (self.clone(), provider.clone());
            spawn("decode", move || this.decode_loop(&*provider))?;
        }
        // One more than places: it finds a place for a client that has none.
        for _ in 0..if self.fetcher.is_ok() { self.fetch_threads + 1 } else { 0 } {
            let this = self.clone();
            spawn("fetch", move || this.fetch_loop())?;
        }
        Ok(())
    }

    /// There will be no provider: fails everything in the queues.
    pub fn close(&self, failure: &Failure) {
        let (urls, uploads) = {
            let mut queues = self.queues.lock();
            (queues.urls.drain(), queues.uploads.drain())
        };
        urls.into_iter()
            .map(|item| item.work)
            .chain(uploads.into_iter().map(|item| item.work))
            .for_each(|work| work.end(JobAnswer::Failed(failure.clone())));
    }
}
