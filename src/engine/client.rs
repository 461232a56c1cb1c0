//! A connection to the engine that never blocks: connect, write and read are non-blocking, waits
//! are latch waits.

use crate::pg::latch::{Interest, wait};
use pg_caption_wire::frame::{self, FrameReader};
use pg_caption_wire::{
    CaptionRequest, ClientMessage, ClientRole, EngineStatus, Failure, FailureClass, PROTOCOL,
    ServerMessage,
};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Where the launcher listens, relative to the data directory, which is every server process's
/// working directory. Base backups skip the folder.
pub const SOCKET: &str = "pg_stat_tmp/pg_caption.sock";
/// Pause before connecting again where nobody listens yet or the backlog is full; there is no event
/// to wait for.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Why a connection is of no further use.
#[derive(Debug)]
pub enum Lost {
    /// The engine went away, or asked us to: connect again and send again.
    Gone,
    /// The engine refuses this client for good.
    Refused(Failure),
}

/// A connection after its hello.
pub struct Client {
    stream: UnixStream,
    reader: FrameReader,
    out: Vec<u8>,
    written: usize,
    window: usize,
    unanswered: usize,
    next_id: u64,
    going_away: bool,
}

impl Client {
    /// Connects and exchanges hellos, waiting for a launcher or engine that is starting until
    /// `deadline`.
    ///
    /// # Errors
    /// A failure of class `Engine`: nobody there in time, or another protocol version.
    pub fn connect(role: ClientRole, deadline: Instant) -> Result<Client, Failure> {
        loop {
            match Self::try_connect(role, deadline) {
                Ok(Some(client)) => return Ok(client),
                Ok(None) if Instant::now() < deadline => {
                    wait(None, Some(CONNECT_PAUSE));
                }
                Ok(None) => return Err(absent()),
                Err(failure) => return Err(failure),
            }
        }
    }

    fn try_connect(role: ClientRole, deadline: Instant) -> Result<Option<Client>, Failure> {
        let Some(stream) = connect_without_blocking() else { return Ok(None) };
        let mut client = Client {
            stream,
            reader: FrameReader::default(),
            out: Vec::new(),
            written: 0,
            window: 1,
            unanswered: 0,
            next_id: 1,
            going_away: false,
        };
        client.enqueue(
            &ClientMessage::Hello {
                version: PROTOCOL,
                release: env!("CARGO_PKG_VERSION").into(),
                role,
            },
            &[],
        )?;
        loop {
            match client.poll() {
                Ok(Some(ServerMessage::Hello { version, window, .. })) if version == PROTOCOL => {
                    client.window = window.max(1) as usize;
                    return Ok(Some(client));
                }
                Ok(Some(ServerMessage::Hello { version, release, .. })) => {
                    return Err(Failure::version_mismatch(
                        (env!("CARGO_PKG_VERSION"), PROTOCOL),
                        (&release, version),
                    ));
                }
                Ok(Some(ServerMessage::Refused(failure))) | Err(Lost::Refused(failure)) => {
                    return Err(failure);
                }
                Ok(Some(ServerMessage::GoAway)) | Err(Lost::Gone) => return Ok(None),
                Ok(Some(_)) => {
                    return Err(Failure::new(
                        FailureClass::Engine,
                        "protocol",
                        "the engine answered out of turn",
                    ));
                }
                Ok(None) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(absent());
                    }
                    client.wait(Some(left));
                }
            }
        }
    }

    /// Whether one more request fits into the window.
    pub fn has_room(&self) -> bool {
        !self.going_away && self.unanswered < self.window
    }

    /// Whether the engine asked for no more requests here and owes no answer.
    pub fn is_spent(&self) -> bool {
        self.going_away && self.unanswered == 0
    }

    /// Queues a request for sending; its id is replaced by the one returned.
    ///
    /// # Errors
    /// A failure of class `Reject`: the request is longer than a frame may be. Nothing was sent,
    /// the connection goes on.
    pub fn submit(&mut self, mut request: CaptionRequest, body: &[u8]) -> Result<u64, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        request.id = id;
        self.enqueue(&ClientMessage::Request(request), body)?;
        self.unanswered += 1;
        Ok(id)
    }

    /// Queues a question for the engine's status.
    pub fn ask_status(&mut self) {
        // A message without any text of a user's is never too long.
        self.enqueue(&ClientMessage::Status, &[]).ok();
    }

    fn enqueue(&mut self, message: &ClientMessage, body: &[u8]) -> Result<(), Failure> {
        let head = frame::encode_head(message, body.len()).map_err(|error| {
            Failure::new(
                FailureClass::Reject,
                "too_large",
                format!("the request cannot be sent: {error}"),
            )
        })?;
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(body);
        Ok(())
    }

    /// Writes and reads what is possible without waiting; the next message, if one has arrived.
    pub fn poll(&mut self) -> Result<Option<ServerMessage>, Lost> {
        self.flush()?;
        if let Some(message) = self.take()? {
            return Ok(Some(message));
        }
        let mut buffer = [0u8; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Lost::Gone),
                Ok(read) => {
                    self.reader.feed(&buffer[..read]);
                    if let Some(message) = self.take()? {
                        return Ok(Some(message));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Lost::Gone),
            }
        }
    }

    fn flush(&mut self) -> Result<(), Lost> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(Lost::Gone),
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The engine may have said why before it closed: what it sent is still to be read.
                Err(_) => break,
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    fn take(&mut self) -> Result<Option<ServerMessage>, Lost> {
        let message = match self.reader.next_frame::<ServerMessage>() {
            Ok(Some((message, _))) => message,
            Ok(None) => return Ok(None),
            Err(error) => {
                return Err(Lost::Refused(Failure::new(
                    FailureClass::Engine,
                    "protocol",
                    format!("the engine's answer cannot be read: {error}"),
                )));
            }
        };
        match &message {
            ServerMessage::Reply(_) => self.unanswered = self.unanswered.saturating_sub(1),
            ServerMessage::GoAway => self.going_away = true,
            _ => {}
        }
        Ok(Some(message))
    }

    /// Waits until something can be read (or written, where output is pending), the latch is set,
    /// or the time has passed.
    pub fn wait(&self, timeout: Option<Duration>) {
        wait(Some(Interest { fd: self.stream.as_raw_fd(), write: !self.out.is_empty() }), timeout);
    }
}

/// Asks the engine for its status.
///
/// # Errors
/// A failure of class `Engine` if it does not answer by `deadline`.
pub fn status(deadline: Instant) -> Result<EngineStatus, Failure> {
    let mut client = Client::connect(ClientRole::Call, deadline)?;
    client.ask_status();
    loop {
        match client.poll() {
            Ok(Some(ServerMessage::Status(status))) => return Ok(*status),
            Ok(Some(_)) => {}
            Ok(None) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(absent());
                }
                client.wait(Some(left));
            }
            Err(Lost::Refused(failure)) => return Err(failure),
            Err(Lost::Gone) => client = Client::connect(ClientRole::Call, deadline)?,
        }
    }
}

fn absent() -> Failure {
    let mut failure = Failure::new(
        FailureClass::Engine,
        "engine_absent",
        "the caption engine did not answer in time",
    )
    .hint(
        "See the server log for why it does not start, and SELECT * FROM caption.engine_status().",
    );
    if let Some(why) = crate::shared::engine_failure() {
        failure = failure.detail(why);
    }
    failure
}

/// A connected stream, or `None` where nobody listens or the backlog is full. A blocking connect
/// would hang there, deaf to cancels.
fn connect_without_blocking() -> Option<UnixStream> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system calls on a descriptor that nobody else knows until it is wrapped; the
    // address is a zeroed sockaddr_un with a path that fits and is NUL-terminated (checked by the
    // assertion).
    unsafe {
        let fd = libc::socket(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        );
        if fd < 0 {
            return None;
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
        (connected == 0).then_some(stream)
    }
}
