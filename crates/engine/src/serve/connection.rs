//! One client: a thread that reads its messages and one that writes the answers. Made by the
//! acceptor.
//!
//! The reader never waits for an answer and the stages never wait for the writer, so that a cancel
//! always gets through and a client that does not read harms only itself.

use super::{inbound, spawn};
use crate::budget::{Refused, Reservation};
use crate::engine::Engine;
use crate::failures;
use crate::job::{Answer, Extras, Job, Order, Source, Want};
use crate::pipeline::no_room;
use crate::share::Shares;
use pg_caption_wire::{
    CaptionOutcome, CaptionOutput, CaptionReply, CaptionRequest, ClientMessage, ClientRole,
    Failure, ImageSource, PROTOCOL, ServerMessage, WrittenCaption, frame,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests a client may have unanswered on one connection.
pub const WINDOW: u32 = 64;
/// Frames that may wait for a client to read them: its window, and what is said besides replies.
const UNREAD: usize = WINDOW as usize + 16;
/// A peer says who it is within this time.
const HELLO: Duration = Duration::from_secs(10);

/// Longest wait for room for one body, whatever the caller's patience: the clock must not overflow.
const LONGEST_BODY: Duration = Duration::from_secs(3600);

type Stream = BufReader<UnixStream>;
type Body = (Vec<u8>, Option<Reservation>);

/// This program's release.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A client, as the reader, the acceptor and the answers of its jobs see it.
pub struct Connection {
    id: u64,
    stream: UnixStream,
    frames: SyncSender<Vec<u8>>,
    open: Mutex<HashMap<u64, Arc<Job>>>,
    shares: Arc<Shares>,
}

impl Connection {
    /// Starts the two threads. `closed` is called once, when the connection has ended and its jobs
    /// are cancelled.
    pub fn start(
        stream: UnixStream,
        id: u64,
        engine: Arc<Engine>,
        closed: impl FnOnce() + Send + 'static,
    ) -> io::Result<Arc<Connection>> {
        let (frames, queued) = sync_channel(UNREAD);
        let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
        let connection = Arc::new(Connection {
            id,
            stream,
            frames,
            open: Mutex::default(),
            shares: Arc::default(),
        });
        spawn("writer", move || write(&writing, &queued))?;
        let this = connection.clone();
        let started = spawn("reader", move || {
            this.read(reading, &engine);
            this.end();
            closed();
        });
        if started.is_err() {
            connection.end();
        }
        started.map(|()| connection)
    }

    /// Queues a message. A client that has stopped reading is cut off.
    pub fn send(&self, message: &ServerMessage) {
        let queued =
            frame::encode_head(message, 0).is_ok_and(|bytes| self.frames.try_send(bytes).is_ok());
        if !queued {
            self.hang_up();
        }
    }

    fn hang_up(&self) {
        // Wakes the reader, which ends the connection.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Job>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client has left and takes its work with it.
    fn end(&self) {
        let jobs: Vec<_> = self.jobs().drain().collect();
        jobs.iter().for_each(|(_, job)| job.cancel());
        self.shares.clear();
        // An empty frame tells the writer to stop after what is queued; the shutdown below frees
        // one that is stuck.
        let _ = self.frames.try_send(Vec::new());
    }

    fn read(self: &Arc<Self>, stream: UnixStream, engine: &Arc<Engine>) {
        let _ = stream.set_read_timeout(Some(HELLO));
        let mut stream = BufReader::with_capacity(1 << 16, stream);
        let Some(role) = self.greet(&mut stream) else { return };
        let _ = stream.get_ref().set_read_timeout(None);
        loop {
            match self.message(engine, role, &mut stream) {
                Ok(()) => {}
                Err(End::Left) => return,
                Err(End::Refused(failure)) => return self.send(&ServerMessage::Refused(failure)),
            }
        }
    }

    fn message(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        role: ClientRole,
        stream: &mut Stream,
    ) -> Result<(), End> {
        let (message, length) = inbound::head(stream)?;
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
                return Err(End::Refused(failures::protocol("a second hello")));
            }
        }
        Ok(())
    }

    /// Exchanges hellos; `None` if the client is not to be served.
    fn greet(&self, stream: &mut Stream) -> Option<ClientRole> {
        let refusal = match inbound::head(stream) {
            Ok((ClientMessage::Hello { version: PROTOCOL, role, .. }, 0)) => {
                self.send(&ServerMessage::Hello {
                    version: PROTOCOL,
                    release: RELEASE.into(),
                    window: WINDOW,
                });
                return Some(role);
            }
            Ok((ClientMessage::Hello { version, release, .. }, _)) => {
                Failure::version_mismatch((&release, version), (RELEASE, PROTOCOL))
            }
            Ok(_) => failures::protocol("the first message must be a hello"),
            Err(inbound::Error::Left) => return None,
            Err(inbound::Error::Frame(e)) => failures::protocol(e.to_string()),
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
    ) -> Result<(), End> {
        let id = request.id;
        {
            let jobs = self.jobs();
            if jobs.contains_key(&id) {
                return Err(End::Refused(failures::protocol(format!(
                    "request {id} is already in flight"
                ))));
            }
            if jobs.len() >= WINDOW as usize {
                return Err(End::Refused(failures::protocol(format!(
                    "more than {WINDOW} requests in flight"
                ))));
            }
        }
        let patience = Duration::from_millis(request.remaining_ms);
        let arrived = Instant::now();
        let (source, bytes) = match request.image {
            ImageSource::Url { url, known } => {
                inbound::skip(stream, length)?;
                (Source::Url { url, known }, Ok(None))
            }
            ImageSource::Bytes => {
                let bytes =
                    self.body(engine, length, arrived + patience.min(LONGEST_BODY), stream)?;
                let sha256 = match (&bytes, request.share) {
                    (Ok((bytes, _)), Some(_)) => Some(crate::picture::digest(bytes)),
                    _ => None,
                };
                (Source::Bytes { sha256 }, bytes.map(Some))
            }
        };
        let order = Order {
            connection: self.id,
            role,
            patience,
            source,
            wants: request
                .outputs
                .into_iter()
                .map(|o| Want {
                    style: o.style,
                    max_tokens: o.max_tokens,
                    context: o.context.filter(|c| !c.trim().is_empty()),
                })
                .collect(),
            min_confidence: request.min_confidence,
            extras: Extras::default(),
        };
        let client = Arc::downgrade(self);
        let counted = engine.count_in();
        let job = Arc::new(Job::new(order, arrived, move |answer| {
            counted.answered();
            if let Some(client) = client.upgrade() {
                client.jobs().remove(&id);
                client.send(&ServerMessage::Reply(CaptionReply { id, outcome: outcome(answer) }));
            }
        }));
        self.jobs().insert(id, job.clone());
        match bytes {
            Err(failure) => {
                job.answer(Answer::Failed(failure));
            }
            Ok(bytes) => {
                engine.submit(&job, bytes, request.share.map(|share| (share, &self.shares)))
            }
        }
        Ok(())
    }

    /// The picture in a request's body, once there is room for it; or why it is not taken. While
    /// this waits the client's next messages wait in the socket: that is how a full engine slows
    /// its clients down.
    fn body(
        &self,
        engine: &Engine,
        length: u64,
        deadline: Instant,
        stream: &mut Stream,
    ) -> Result<Result<Body, Failure>, End> {
        let limit = engine.config().max_image_size;
        let refusal = if length > limit {
            failures::too_large(length, limit)
        } else {
            match engine.pipeline().files().reserve(length, deadline, || self.has_left()) {
                Ok(held) => return Ok(Ok((inbound::body(stream, length)?, Some(held)))),
                Err(Refused::Left) => return Err(End::Left),
                Err(refused) => no_room(refused, length),
            }
        };
        inbound::skip(stream, length)?;
        Ok(Err(refusal))
    }

    fn has_left(&self) -> bool {
        let mut watched = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
            && watched[0].revents().intersects(gone)
    }
}

/// Why a connection ends.
enum End {
    Left,
    Refused(Failure),
}

impl From<inbound::Error> for End {
    fn from(error: inbound::Error) -> Self {
        match error {
            inbound::Error::Left => End::Left,
            inbound::Error::Frame(e) => End::Refused(failures::protocol(e.to_string())),
        }
    }
}

fn write(mut stream: &UnixStream, frames: &Receiver<Vec<u8>>) {
    for frame in frames {
        if frame.is_empty() || stream.write_all(&frame).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// The wire's form of an answer.
fn outcome(answer: Answer) -> CaptionOutcome {
    match answer {
        Answer::Unchanged => CaptionOutcome::Unchanged,
        Answer::Failed(failure) => CaptionOutcome::Failed(failure),
        Answer::Done { image, outputs, model, timings, .. } => {
            let outputs = outputs.into_iter().map(|output| match output {
                Err(failure) => CaptionOutput::Failed(failure),
                Ok(captioned) => match captioned.caption {
                    Err(failure) => CaptionOutput::Failed(failure),
                    Ok(caption) => CaptionOutput::Written(WrittenCaption {
                        caption,
                        finish: captioned.finish,
                        tokens: captioned.ids.len() as u32,
                        confidence: captioned.confidence,
                    }),
                },
            });
            CaptionOutcome::Done { image, outputs: outputs.collect(), model, timings }
        }
    }
}
