//! One client: a thread that reads its messages and one that writes the answers. Made by the
//! acceptor.
//!
//! The reader never waits for an answer, so a cancel is always read. The stages never wait for the
//! writer, so a client that does not read harms only itself.

use super::inbound::{self, InboundError};
use super::outlet::ClientOutlet;
use crate::answer::JobAnswer;
use crate::budget::ReserveError;
use crate::engine::Engine;
use crate::failures;
use crate::file_memory::FileClaim;
use crate::job::Job;
use crate::picture::sha256_hex;
use crate::request::{JobExtras, JobSpec, PictureSource};
use crate::shared_pictures::SharedPictures;
use crate::threads::spawn;
use parking_lot::{Mutex, MutexGuard};
use pg_caption_wire::{
    CaptionOutcome, CaptionOutput, CaptionReply, CaptionRequest, ClientMessage, ClientRole,
    Failure, ImageSource, OutputSpec, PROTOCOL, ServerMessage, WrittenCaption, frame,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Unanswered requests that a client may have on one connection.
pub const WINDOW: u32 = 64;
/// Frames that may wait for a client to read them: three for each request of its window (it runs,
/// not alone, its reply), and other messages.
const UNREAD: usize = 3 * WINDOW as usize + 16;
/// Time limit for a client's hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for memory for one body, whatever the request's time limit: the clock must not
/// overflow.
const LONGEST_BODY_WAIT: Duration = Duration::from_secs(3600);

type Stream = BufReader<UnixStream>;
type Body = (Vec<u8>, Option<FileClaim>);

/// The release of this program.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A client, as seen by its reader, the acceptor and the answers of its jobs.
pub struct ClientConnection {
    id: u64,
    stream: UnixStream,
    outlet: Arc<ClientOutlet>,
    frames: SyncSender<Vec<u8>>,
    open: Mutex<HashMap<u64, Arc<Job>>>,
    pictures: Arc<SharedPictures>,
    /// When its last message or answer was handled; `None` while a message is being handled.
    idle: Mutex<Option<Instant>>,
}

impl ClientConnection {
    /// Starts the two threads. `admit` judges the client after its hello. `closed` is called once,
    /// when the connection has ended and its jobs are cancelled.
    pub fn start(
        stream: UnixStream,
        id: u64,
        engine: Arc<Engine>,
        admit: impl FnOnce(ClientRole) -> Result<(), Failure> + Send + 'static,
        closed: impl FnOnce() + Send + 'static,
    ) -> io::Result<Arc<ClientConnection>> {
        let (frames, queued) = sync_channel(UNREAD);
        let reading = stream.try_clone()?;
        let outlet = Arc::new(ClientOutlet::new(stream.try_clone()?));
        let connection = Arc::new(ClientConnection {
            id,
            stream,
            outlet: outlet.clone(),
            frames,
            open: Mutex::default(),
            pictures: Arc::default(),
            idle: Mutex::default(),
        });
        spawn("writer", move || write(&outlet, &queued))?;
        let this = connection.clone();
        let started = spawn("reader", move || {
            this.read(reading, &engine, admit);
            this.end();
            closed();
        });
        if started.is_err() {
            connection.end();
        }
        started.map(|()| connection)
    }

    /// Queues a message. A client that has stopped reading is disconnected.
    pub fn send(&self, message: &ServerMessage) {
        let queued =
            frame::encode_head(message, 0).is_ok_and(|bytes| self.frames.try_send(bytes).is_ok());
        if !queued {
            self.disconnect();
        }
    }

    /// Informs the client that a request's picture runs. Past the queue if possible: the process
    /// may die of the picture before the writer has its turn.
    fn report_running(&self, id: u64, alone: bool) {
        let message = ServerMessage::Running { id, alone };
        let frame = frame::encode_head(&message, 0);
        if !frame.is_ok_and(|frame| self.outlet.try_write(&frame)) {
            self.send(&message);
        }
    }

    fn disconnect(&self) {
        // Wakes the reader, which ends the connection.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<u64, Arc<Job>>> {
        self.open.lock()
    }

    /// The client has left: cancels its jobs.
    fn end(&self) {
        let jobs: Vec<_> = self.jobs().drain().collect();
        jobs.iter().for_each(|(_, job)| job.cancel());
        self.pictures.clear();
        // An empty frame makes the writer stop after the queued frames.
        let _ = self.frames.try_send(Vec::new());
    }

    /// Since when it has no request in flight and sends none.
    pub fn idle_since(&self) -> Option<Instant> {
        let idle = *self.idle.lock();
        idle.filter(|_| self.jobs().is_empty())
    }

    /// Closes it after a GoAway. A request that crosses this is lost unseen; the client sends it
    /// again.
    pub fn close_idle(&self) {
        self.send(&ServerMessage::GoAway);
        // The reader ends, and the writer after the queued frames.
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    fn read(
        self: &Arc<Self>,
        stream: UnixStream,
        engine: &Arc<Engine>,
        admit: impl FnOnce(ClientRole) -> Result<(), Failure>,
    ) {
        let _ = stream.set_read_timeout(Some(HELLO_TIMEOUT));
        let mut stream = BufReader::with_capacity(1 << 16, stream);
        let Some(role) = self.greet(&mut stream, admit) else { return };
        let _ = stream.get_ref().set_read_timeout(None);
        loop {
            *self.idle.lock() = Some(Instant::now());
            match self.message(engine, role, &mut stream) {
                Ok(()) => {}
                Err(ConnectionEnd::Left) => return,
                Err(ConnectionEnd::Refused(failure)) => {
                    return self.send(&ServerMessage::Refused(failure));
                }
            }
        }
    }

    fn message(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        role: ClientRole,
        stream: &mut Stream,
    ) -> Result<(), ConnectionEnd> {
        let (message, length) = inbound::head(stream)?;
        *self.idle.lock() = None;
        if let ClientMessage::Request(request) = message {
            return self.request(engine, role, request, length, stream);
        }
        inbound::skip(stream, length)?;
        match message {
            ClientMessage::Cancel { id } => {
                let job = self.jobs().remove(&id);
                if let Some(job) = job {
                    job.cancel();
                }
            }
            ClientMessage::Status => self.send(&ServerMessage::Status(Box::new(engine.status()))),
            ClientMessage::Hello { .. } | ClientMessage::Request(_) => {
                return Err(ConnectionEnd::Refused(failures::protocol("a second hello")));
            }
        }
        Ok(())
    }

    /// Exchanges hellos. Returns the client's role, or `None` if the client was refused.
    fn greet(
        &self,
        stream: &mut Stream,
        admit: impl FnOnce(ClientRole) -> Result<(), Failure>,
    ) -> Option<ClientRole> {
        let refusal = match inbound::head(stream) {
            Ok((ClientMessage::Hello { version: PROTOCOL, role, .. }, 0)) => match admit(role) {
                Ok(()) => {
                    self.send(&ServerMessage::Hello {
                        version: PROTOCOL,
                        release: RELEASE.into(),
                        window: WINDOW,
                    });
                    return Some(role);
                }
                Err(failure) => failure,
            },
            Ok((ClientMessage::Hello { version, release, .. }, _)) => {
                Failure::version_mismatch((&release, version), (RELEASE, PROTOCOL))
            }
            Ok(_) => failures::protocol("the first message must be a hello"),
            Err(InboundError::Left) => return None,
            Err(InboundError::Frame(e)) => failures::protocol(&e.to_string()),
        };
        self.send(&ServerMessage::Refused(refusal));
        None
    }

    fn request(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        role: ClientRole,
        request: CaptionRequest,
        length: u64,
        stream: &mut Stream,
    ) -> Result<(), ConnectionEnd> {
        let id = request.id;
        {
            let jobs = self.jobs();
            if jobs.contains_key(&id) {
                return Err(ConnectionEnd::Refused(failures::protocol(&format!(
                    "request {id} is already in flight"
                ))));
            }
            if jobs.len() >= WINDOW as usize {
                return Err(ConnectionEnd::Refused(failures::protocol(&format!(
                    "more than {WINDOW} requests in flight"
                ))));
            }
        }
        let timeout = Duration::from_millis(request.remaining_ms);
        let (rules, unusable) = match engine.rules().compiled(request.rules) {
            Ok(rules) => (rules, None),
            Err(error) => (Arc::default(), Some(failures::bad_rules(&error.to_string()))),
        };
        let arrived = Instant::now();
        let (source, bytes) = match request.image {
            ImageSource::Url { url, known, shown } => {
                inbound::skip(stream, length)?;
                (PictureSource::Url { url, known, shown }, Ok(None))
            }
            ImageSource::Bytes => {
                let bytes =
                    self.body(engine, length, arrived + timeout.min(LONGEST_BODY_WAIT), stream)?;
                let sha256 = match (&bytes, request.share) {
                    (Ok((bytes, _)), Some(_)) => Some(sha256_hex(bytes)),
                    _ => None,
                };
                (PictureSource::Bytes { sha256 }, bytes.map(Some))
            }
        };
        let spec = JobSpec {
            connection: self.id,
            role,
            timeout,
            from_turn: request.from_turn,
            source,
            outputs: request
                .outputs
                .into_iter()
                .map(|output| OutputSpec {
                    context: output.context.filter(|context| !context.is_empty()),
                    ..output
                })
                .collect(),
            min_confidence: request.min_confidence,
            rules,
            extras: JobExtras::default(),
            earlier: request.earlier,
            reuse: request.reuse,
        };
        let (client, watcher) = (Arc::downgrade(self), Arc::downgrade(self));
        let (counted, answering) = (engine.metrics().count_in(), engine.clone());
        let job = Job::new(spec, arrived, move |answer| {
            counted.answered();
            answering.note_answer(&answer);
            if let Some(client) = client.upgrade() {
                client.jobs().remove(&id);
                client.answered();
                client.send(&ServerMessage::Reply(CaptionReply { id, outcome: outcome(answer) }));
            }
        });
        let job = Arc::new(job.reporting(request.isolated, move |alone| {
            if let Some(client) = watcher.upgrade() {
                client.report_running(id, alone);
            }
        }));
        self.jobs().insert(id, job.clone());
        let bytes = match unusable {
            Some(failure) => Err(failure),
            None => bytes,
        };
        match bytes {
            Err(failure) => {
                job.answer(JobAnswer::Failed(failure));
            }
            Ok(bytes) => {
                engine.submit(&job, bytes, request.share.map(|share| (share, &self.pictures)))
            }
        }
        Ok(())
    }

    /// The picture in a request's body, once there is memory for it; or why it is refused. While
    /// this waits, the client's next messages wait in the socket: a full engine slows its clients
    /// down.
    fn body(
        &self,
        engine: &Engine,
        length: u64,
        deadline: Instant,
        stream: &mut Stream,
    ) -> Result<Result<Body, Failure>, ConnectionEnd> {
        let limit = engine.config().max_image_size;
        let refusal = if length > limit {
            Failure::too_large(length, limit)
        } else {
            let files = engine.pipeline().files();
            match files.reserve(self.id, length, deadline, || self.has_left()) {
                Ok(held) => return Ok(Ok((inbound::body(stream, length)?, Some(held)))),
                Err(ReserveError::Cancelled) => return Err(ConnectionEnd::Left),
                Err(error) => failures::no_memory(error, length),
            }
        };
        inbound::skip(stream, length)?;
        Ok(Err(refusal))
    }

    /// An answer counts as use, unless a message is being handled anyway.
    fn answered(&self) {
        self.idle.lock().iter_mut().for_each(|since| *since = Instant::now());
    }

    fn has_left(&self) -> bool {
        let mut watched = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
            && watched[0].revents().intersects(gone)
    }
}

/// Why a connection ends.
enum ConnectionEnd {
    Left,
    Refused(Failure),
}

impl From<InboundError> for ConnectionEnd {
    fn from(error: InboundError) -> Self {
        match error {
            InboundError::Left => ConnectionEnd::Left,
            InboundError::Frame(e) => ConnectionEnd::Refused(failures::protocol(&e.to_string())),
        }
    }
}

fn write(outlet: &ClientOutlet, frames: &Receiver<Vec<u8>>) {
    for frame in frames {
        if frame.is_empty() || outlet.write(&frame).is_err() {
            break;
        }
    }
    outlet.shutdown();
}

/// The wire's form of an answer.
fn outcome(answer: JobAnswer) -> CaptionOutcome {
    match answer {
        JobAnswer::Unchanged => CaptionOutcome::Unchanged,
        JobAnswer::Failed(failure) => CaptionOutcome::Failed(failure),
        JobAnswer::Done { image, outputs, model, timings, .. } => {
            let outputs = outputs.into_iter().map(|output| match output {
                Err(failure) => CaptionOutput::Failed(failure),
                Ok(captioned) => match captioned.caption {
                    Err(failure) => CaptionOutput::Failed(failure),
                    Ok(caption) => CaptionOutput::Written(WrittenCaption {
                        caption,
                        finish: captioned.finish,
                        tokens: captioned.tokens,
                        confidence: captioned.confidence,
                        draft: captioned.draft,
                        with_context: captioned.with_context,
                        model: captioned.model,
                    }),
                },
            });
            CaptionOutcome::Done { image, outputs: outputs.collect(), model, timings }
        }
    }
}
