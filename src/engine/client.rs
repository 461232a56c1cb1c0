//! A connection to the engine that never blocks: connect, read and write are non-blocking, waits
//! are latch waits.
//!
//! Called by `engine::requests`, `lookahead`, `api` and the worker. Never waits without serving
//! interrupts.

use crate::pg::latch::{WaitInterest, wait};
use crate::pg::report;
use crate::shared::{self, EngineDoubt};
use pg_caption_wire::frame::{self, FrameReader};
use pg_caption_wire::{
    CaptionRequest, ClientMessage, ClientRole, EngineStatus, Failure, FailureClass, PROTOCOL,
    ServerMessage, TOO_MANY_CONNECTIONS,
};
use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The launcher's socket, relative to the data directory, which is the working directory of every
/// server process. Base backups skip the folder.
pub const SOCKET: &str = "pg_stat_tmp/pg_caption.sock";
/// Pause between attempts to connect while no process listens or the backlog is full. No event
/// announces a change.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Pause between attempts to connect while all places are taken. Sessions that wait must not keep
/// the engine busy with hellos.
const PLACE_PAUSE: Duration = Duration::from_millis(250);
/// How long an engine that owes an answer may be silent, before the launcher is asked to check it.
const SILENCE: Duration = Duration::from_secs(5);
/// How long [`EngineClient::connect_now`] waits for the engine's hello, which is sent immediately.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long [`status`] waits for an engine that does not answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that may wait to be written while further requests are added.
const MAX_PENDING: usize = 256 * 1024;
/// Bytes read from the socket at a time.
const READ_SIZE: usize = 16 * 1024;

/// Why a connection cannot be used further.
#[derive(Debug)]
pub enum ConnectionLoss {
    /// The engine closed it or died: connect again and repeat the requests.
    Closed,
    /// The engine refuses this client for good.
    Refused(Failure),
}

/// A connection after the exchange of hellos.
pub struct EngineClient {
    stream: UnixStream,
    reader: FrameReader,
    /// Encoded messages, of which the first `written` bytes are sent.
    outgoing: Vec<u8>,
    written: usize,
    /// Requests that the engine accepts before it has answered one.
    window: usize,
    unanswered: usize,
    next_id: u64,
    /// The engine accepts no more requests on this connection.
    is_closing: bool,
    /// The hellos were exchanged.
    is_open: bool,
    /// Since when the engine has been silent, while it owes an answer.
    silent_since: Cell<Instant>,
}

impl EngineClient {
    /// Connects and exchanges hellos. Waits until `deadline` for a launcher, for an engine that is
    /// starting, and for a free place.
    ///
    /// # Errors
    /// A failure of class `Engine`: no engine or place in time, or another protocol version.
    pub fn connect(role: ClientRole, deadline: Instant) -> Result<EngineClient, Failure> {
        let mut refusal = None;
        loop {
            let pause = match Self::try_connect(role, deadline) {
                Ok(Some(client)) => return Ok(client),
                Ok(None) => CONNECT_PAUSE,
                Err(full) if full.code == TOO_MANY_CONNECTIONS => {
                    refusal = Some(full);
                    PLACE_PAUSE
                }
                // The engine may be too busy for its last hello.
                Err(failure) => return Err(refusal.unwrap_or(failure)),
            };
            if Instant::now() >= deadline {
                return Err(refusal.unwrap_or_else(engine_absent));
            }
            wait(None, Some(pause));
        }
    }

    /// Connects and exchanges hellos; `None`: no engine serves at the moment.
    pub fn connect_now(role: ClientRole) -> Option<EngineClient> {
        Self::try_connect(role, Instant::now() + HELLO_TIMEOUT).ok().flatten()
    }

    /// One attempt; `None`: no engine serves at the moment.
    fn try_connect(role: ClientRole, deadline: Instant) -> Result<Option<EngineClient>, Failure> {
        let stream = match connect_without_blocking() {
            Ok(stream) => stream,
            Err(error) => {
                // The launcher listens for its whole life: its socket was removed.
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                    shared::doubt(EngineDoubt::Socket);
                }
                return Ok(None);
            }
        };
        let mut client = EngineClient {
            stream,
            // The engine sends no bodies.
            reader: FrameReader::with_max_body(0),
            outgoing: Vec::new(),
            written: 0,
            window: 1,
            unanswered: 0,
            next_id: 1,
            is_closing: false,
            is_open: false,
            silent_since: Cell::new(Instant::now()),
        };
        let release = env!("CARGO_PKG_VERSION").into();
        client.enqueue(&ClientMessage::Hello { version: PROTOCOL, release, role }, &[])?;
        let answer = match client.receive(deadline) {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                // Hellos are answered immediately. A worker tries for a second only.
                shared::doubt(EngineDoubt::Silent);
                return Err(engine_absent());
            }
            Err(ConnectionLoss::Closed) => return Ok(None),
            Err(ConnectionLoss::Refused(failure)) => return Err(failure),
        };
        match answer {
            ServerMessage::Hello { version, window, .. } if version == PROTOCOL => {
                client.window = window.max(1) as usize;
                client.is_open = true;
                Ok(Some(client))
            }
            ServerMessage::Hello { version, release, .. } => Err(Failure::version_mismatch(
                (env!("CARGO_PKG_VERSION"), PROTOCOL),
                (&release, version),
            )),
            ServerMessage::Refused(failure) => Err(failure),
            ServerMessage::GoAway => Ok(None),
            _ => Err(Failure::protocol("the engine answered out of turn")),
        }
    }

    /// Whether one more request fits into the window.
    pub fn has_room(&self) -> bool {
        !self.is_closing && self.unanswered < self.window
    }

    /// Whether so much waits to be written that requests must wait, too: one picture at most is in
    /// memory twice.
    pub fn is_backed_up(&self) -> bool {
        self.outgoing.len() - self.written > MAX_PENDING
    }

    /// Whether the engine accepts no more requests here and owes no answer.
    pub fn is_spent(&self) -> bool {
        self.is_closing && self.unanswered == 0
    }

    /// Whether the engine owes an answer.
    pub fn owes_answers(&self) -> bool {
        self.unanswered > 0
    }

    /// Whether the engine announced that it closes this connection: requests that it did not answer
    /// are not the reason.
    pub fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Reads what arrived while the connection was kept. Returns whether it is still usable.
    pub fn is_usable(&mut self) -> bool {
        while let Ok(message) = self.poll() {
            if message.is_none() {
                return !self.is_spent();
            }
        }
        false
    }

    /// Queues a request for sending; the returned id replaces the request's own.
    ///
    /// # Errors
    /// A failure of class `Reject`: the request exceeds the size of a frame. Nothing was sent, and
    /// the connection stays usable.
    pub fn submit(&mut self, mut request: CaptionRequest, body: &[u8]) -> Result<u64, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        request.id = id;
        self.enqueue(&ClientMessage::Request(request), body)?;
        if self.unanswered == 0 {
            self.silent_since.set(Instant::now());
        }
        self.unanswered += 1;
        Ok(id)
    }

    /// Queues a request for the engine's status.
    pub fn request_status(&mut self) {
        // A message without text of a user never exceeds the size of a frame.
        self.enqueue(&ClientMessage::Status, &[]).ok();
    }

    fn enqueue(&mut self, message: &ClientMessage, body: &[u8]) -> Result<(), Failure> {
        let head = frame::encode_head(message, body.len()).map_err(|error| {
            let message = format!("the request cannot be sent: {error}");
            Failure::new(FailureClass::Reject, "too_large", message)
                .hint("Use a shorter URL or context, or a smaller picture.")
        })?;
        // What is sent is forgotten first: a picture may follow before the last one is sent whole.
        self.outgoing.drain(..self.written);
        self.written = 0;
        if self.outgoing.try_reserve_exact(head.len() + body.len()).is_err() {
            report::out_of_memory(head.len() + body.len());
        }
        self.outgoing.extend_from_slice(&head);
        self.outgoing.extend_from_slice(body);
        Ok(())
    }

    /// Writes and reads as much as possible without waiting; returns the next message, if one has
    /// arrived.
    ///
    /// # Errors
    /// The connection cannot be used further.
    pub fn poll(&mut self) -> Result<Option<ServerMessage>, ConnectionLoss> {
        self.flush()?;
        if let Some(message) = self.next_message()? {
            return Ok(Some(message));
        }
        let mut buffer = [0u8; READ_SIZE];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ConnectionLoss::Closed),
                Ok(read) => {
                    self.silent_since.set(Instant::now());
                    self.reader.feed(&buffer[..read]);
                    if let Some(message) = self.next_message()? {
                        return Ok(Some(message));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(ConnectionLoss::Closed),
            }
        }
    }

    fn flush(&mut self) -> Result<(), ConnectionLoss> {
        while self.written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(0) => return Err(ConnectionLoss::Closed),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The engine may have sent a reason before it closed: that is still to be read.
                Err(_) => break,
            }
        }
        self.written = 0;
        match self.outgoing.capacity() > MAX_PENDING {
            true => self.outgoing = Vec::new(),
            false => self.outgoing.clear(),
        }
        Ok(())
    }

    fn next_message(&mut self) -> Result<Option<ServerMessage>, ConnectionLoss> {
        let message = match self.reader.next_frame::<ServerMessage>() {
            Ok(Some((message, _))) => message,
            Ok(None) => return Ok(None),
            Err(error) => {
                let message = format!("the engine's answer cannot be read: {error}");
                return Err(ConnectionLoss::Refused(Failure::protocol(message)));
            }
        };
        match &message {
            ServerMessage::Reply(_) => self.unanswered = self.unanswered.saturating_sub(1),
            ServerMessage::GoAway => self.is_closing = true,
            _ => {}
        }
        Ok(Some(message))
    }

    /// The next message; `None`: none arrived until `deadline`.
    fn receive(&mut self, deadline: Instant) -> Result<Option<ServerMessage>, ConnectionLoss> {
        loop {
            if let Some(message) = self.poll()? {
                return Ok(Some(message));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(Some(left));
        }
    }

    /// Waits until the socket is readable (or writable, if output is pending), the latch is set, or
    /// the timeout has passed.
    ///
    /// If the engine owes an answer and is silent for long, the launcher checks whether it lives.
    pub fn wait(&self, timeout: Option<Duration>) {
        let write = !self.outgoing.is_empty();
        let interest = Some(WaitInterest { fd: self.stream.as_raw_fd(), write });
        if self.is_open && self.unanswered == 0 {
            return wait(interest, timeout);
        }
        let left = SILENCE.saturating_sub(self.silent_since.get().elapsed());
        wait(interest, Some(timeout.map_or(left, |timeout| timeout.min(left))));
        if self.silent_since.get().elapsed() >= SILENCE {
            shared::doubt(EngineDoubt::Silent);
            self.silent_since.set(Instant::now());
        }
    }
}

/// The engine's status.
///
/// # Errors
/// A failure of class `Engine` if the engine does not answer within [`STATUS_TIMEOUT`].
pub fn status() -> Result<EngineStatus, Failure> {
    let deadline = Instant::now() + STATUS_TIMEOUT;
    let mut client = EngineClient::connect(ClientRole::Call, deadline)?;
    client.request_status();
    loop {
        match client.receive(deadline) {
            Ok(Some(ServerMessage::Status(status))) => return Ok(*status),
            Ok(Some(_)) => {}
            Ok(None) => return Err(engine_absent()),
            Err(ConnectionLoss::Refused(failure)) => return Err(failure),
            Err(ConnectionLoss::Closed) => {
                client = EngineClient::connect(ClientRole::Call, deadline)?;
                client.request_status();
            }
        }
    }
}

fn engine_absent() -> Failure {
    let mut failure = Failure::new(
        FailureClass::Engine,
        "engine_absent",
        "the caption engine did not answer in time",
    )
    .hint(
        "See the server log for why it does not start, and SELECT * FROM caption.engine_status().",
    );
    failure.detail = shared::engine_failure();
    failure
}

/// A connected stream. A blocking connect would hang, without serving interrupts, while the backlog
/// is full.
///
/// # Errors
/// No process listens, or the backlog is full.
fn connect_without_blocking() -> io::Result<UnixStream> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system calls on a descriptor that no other code uses until it is wrapped. The
    // address is a zeroed sockaddr_un with a NUL-terminated path that fits (see the assertion).
    unsafe {
        let fd = libc::socket(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let stream = UnixStream::from_raw_fd(fd);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        const { assert!(SOCKET.len() < 100) };
        for (to, from) in address.sun_path.iter_mut().zip(SOCKET.bytes()) {
            *to = from as libc::c_char;
        }
        let connected = libc::connect(
            fd,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        );
        if connected == 0 { Ok(stream) } else { Err(io::Error::last_os_error()) }
    }
}
