//! The stages before the model: fetch threads and decode threads, and the line in front of them.
//! They run ahead of the model by a bounded number of pictures, so that it never waits while there
//! is work, and memory stays bounded.

mod decoding;
mod fetching;
mod shares;

use crate::budget::{Pool, Refused, Reservation};
use crate::fair_queue::Turns;
use crate::inbox::Inbox;
use crate::job::{Answer, Source};
use crate::metrics::Meters;
use crate::names::{self, Names};
use crate::picture::Work;
use pg_caption_captioner::InputPreparer;
use pg_caption_fetch::{Fetcher, RedirectedFetch};
use pg_caption_wire::{EngineConfig, Failure, FailureClass, HostCooldown, HostStatus, TileMode};
use shares::Shares;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A URL in line.
struct ToFetch {
    work: Work,
    /// The host to be asked next.
    host: String,
    /// Where a redirect has led so far.
    journey: Option<Box<RedirectedFetch>>,
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
    tiles: TileMode,
    /// Digest of the model, once it is ready.
    model: OnceLock<String>,
    files: Arc<Pool>,
    /// What each host holds of them while it sends.
    shares: Shares,
    decoding: Arc<Pool>,
    tensors: Arc<Pool>,
    meters: Arc<Meters>,
    names: Names,
    /// Called when names can no longer be looked up, and gone then.
    outdated: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    max_pixels: u64,
    fetch_threads: usize,
    decode_threads: usize,
}

/// A place among the pictures that run ahead of the model; given back when the model has taken the
/// tensor.
pub struct Ahead(Arc<Pipeline>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.board().ahead -= 1;
        self.0.to_fetch.notify_one();
        self.0.to_decode.notify_one();
    }
}

impl Pipeline {
    /// Without threads yet. A setting the fetcher refuses is answered to every URL; bytes still
    /// work.
    pub fn new(config: &EngineConfig, meters: Arc<Meters>) -> Arc<Pipeline> {
        // A quarter for files, half for decoding, an eighth for tensors; the model thread has the
        // rest for features and caches.
        let part = |share: u64| Pool::new(config.memory.max(1 << 26) / share);
        let files = part(4);
        let settings = pg_caption_fetch::FetchSettings {
            room: files.total(),
            ..pg_caption_fetch::FetchSettings::from(config)
        };
        let fetcher = Fetcher::new(settings).map_err(|e| e.failure());
        if let Err(failure) = &fetcher {
            crate::log::line(format_args!("warning: no URL can be fetched: {}", failure.message));
        }
        Arc::new(Pipeline {
            board: Mutex::default(),
            to_fetch: Condvar::new(),
            to_decode: Condvar::new(),
            fetcher,
            model: OnceLock::new(),
            shares: Shares::new(files.total()),
            files,
            decoding: part(2),
            tensors: part(8),
            meters,
            names: Names::new(names::FILES),
            outdated: Mutex::default(),
            max_pixels: config.max_image_pixels,
            tiles: config.tiles,
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

    /// Cooldowns, requests in flight and last answers, by host.
    pub fn hosts(&self) -> Vec<HostStatus> {
        self.fetcher.as_ref().map(Fetcher::hosts).unwrap_or_default()
    }

    /// Whom to tell that another process could look names up and this one cannot any more (see
    /// [`crate::names`]).
    pub fn when_outdated(&self, tell: impl FnOnce() + Send + 'static) {
        *self.outdated.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tell));
    }

    /// Looks whether names can still be looked up; costs a few system calls.
    fn look_at_names(&self) {
        let mut outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        if outdated.is_some()
            && self.names.are_closed()
            && let Some(tell) = outdated.take()
        {
            tell();
        }
    }

    /// Hosts that asked for patience, for the next engine.
    pub fn cooldowns(&self) -> Vec<HostCooldown> {
        self.fetcher.as_ref().map(Fetcher::cooldowns).unwrap_or_default()
    }

    /// What the engine before this one knew of them.
    pub fn restore(&self, cooldowns: &[HostCooldown]) {
        if let Ok(fetcher) = &self.fetcher {
            fetcher.restore(cooldowns);
        }
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
                self.board().urls.push(connection, role, ToFetch { work, host, journey: None });
                self.to_fetch.notify_one();
            }
        }
    }

    /// The model is ready: `batch` pictures fit into its calls. Starts the threads.
    ///
    /// # Errors
    /// No threads.
    pub fn open(
        self: &Arc<Self>,
        batch: usize,
        preparer: &Arc<InputPreparer>,
        inbox: &Arc<Inbox>,
    ) -> std::io::Result<()> {
        self.model.get_or_init(|| preparer.status().digest.clone());
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
        urls.into_iter()
            .map(|u| u.work)
            .chain(bytes.into_iter().map(|b| b.work))
            .for_each(|work| work.end(Answer::Failed(failure.clone())));
    }
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The failure for bytes there was no room for.
pub fn no_room(refused: Refused, bytes: u64) -> Failure {
    match refused {
        Refused::TooMuch { total } => Failure::new(
            FailureClass::Reject,
            "too_much_memory",
            "the picture needs more memory than there is for one stage",
        )
        .detail(format!("it needs {bytes} bytes, there are {total}"))
        .hint("See \"pg_caption.memory\"."),
        Refused::Late | Refused::Left => {
            Failure::timeout(None, "waiting for memory").hint("Raise \"pg_caption.memory\".")
        }
    }
}
