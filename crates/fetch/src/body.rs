//! Reads the body of a response within limits: bytes received, bytes after decompression, time, and
//! cancellation.

use crate::error::{FetchError, UrlLocation};
use crate::fault::Limits;
use crate::fetch::{BodyRoom, Reserve, RoomError};
use crate::signature;
use flate2::bufread::GzDecoder;
use flate2::read::{DeflateDecoder, ZlibDecoder};
use pg_caption_wire::{Failure, FailureClass};
use std::io::{self, BufRead, BufReader, Read};
use ureq::Body;
use ureq::http::{HeaderMap, header};

/// Size of one read, bytes.
const CHUNK: usize = 64 * 1024;
/// First allocation for a body that may become that large, bytes. The system provides pages as they
/// are filled.
const FIRST_ALLOCATION: usize = 64 << 20;

/// Most encodings of one body.
const MAX_CODINGS: usize = 3;

/// Memory is reserved in steps of this size, for what has arrived: an announced length holds none.
const RESERVED_STEP: u64 = 256 * 1024;

/// Reads the whole body. Calls `reserve` before the first byte is stored, and as the body grows.
/// Also returns whether bytes followed the announced end.
pub(crate) fn read(
    body: Body,
    headers: &HeaderMap,
    limits: &Limits,
    location: &UrlLocation,
    reserve: &mut Reserve<'_>,
) -> Result<(Vec<u8>, bool), FetchError> {
    let codings = Coding::all(headers);
    let declared = body.content_length();
    if let Some(bytes) = declared.filter(|d| *d > limits.bytes) {
        return Err(FetchError::TooLarge {
            location: location.clone(),
            limit: limits.bytes,
            declared: Some(bytes),
        });
    }
    // The size of a compressed body is known at its end; a small budget may be below the limit.
    let most = declared
        .filter(|_| codings.iter().all(|coding| matches!(coding, Coding::Other(_))))
        .unwrap_or(limits.bytes.min(limits.room));
    crate::attempt::watch_rate(limits.rate_window, limits.window_bytes);
    let mut room = GrowingRoom { granted: 0, most, location, reserve };
    room.grow(0)?;
    let mut ended = false;
    let wire = Bounded { inner: body.into_reader(), left: limits.bytes, ended: &mut ended };
    crate::attempt::take_surplus();
    let bytes = decoded(wire, codings, limits, location)
        .and_then(|from| collect(from, room, limits, location));
    crate::attempt::stop_rate();
    let announced = declared.is_some() || headers.contains_key(header::TRANSFER_ENCODING);
    let bytes = bytes.map_err(|error| match error {
        // The announced body is complete: another attempt would receive the same bytes.
        FetchError::Reset { location, .. } if ended && announced => {
            FetchError::Truncated { location }
        }
        error => error,
    })?;
    // Bytes on a connection may belong to the body unless that was read to its end.
    Ok((bytes, ended && crate::attempt::take_surplus()))
}

/// The memory of a body, which grows with what has arrived.
struct GrowingRoom<'a, 'b> {
    granted: u64,
    most: u64,
    location: &'a UrlLocation,
    reserve: &'a mut Reserve<'b>,
}

impl GrowingRoom<'_, '_> {
    /// Makes room for `bytes`, all together, and for one step in advance.
    fn grow(&mut self, bytes: u64) -> Result<(), FetchError> {
        if bytes <= self.granted && self.granted > 0 {
            return Ok(());
        }
        let needed = bytes.max(self.granted + RESERVED_STEP).min(self.most);
        let asked = std::time::Instant::now();
        let room = BodyRoom { needed, most: self.most };
        (self.reserve)(&self.location.host, room).map_err(|error| match error {
            RoomError::Refused(failure) => FetchError::Memory(failure),
            RoomError::Displaced => FetchError::Displaced { location: self.location.clone() },
        })?;
        self.granted = needed;
        // Waiting for memory does not count as the host's time.
        crate::attempt::extend(asked.elapsed());
        Ok(())
    }
}

/// One encoding of a body according to its headers.
enum Coding {
    Gzip,
    Deflate,
    /// Another or an invalid coding, by name.
    Other(String),
}

impl Coding {
    /// The codings in the order in which they were applied: those of the content, then those of
    /// the transfer. The client has removed `chunked`.
    fn all(headers: &HeaderMap) -> Vec<Coding> {
        let mut codings = Vec::new();
        for header in [header::CONTENT_ENCODING, header::TRANSFER_ENCODING] {
            for value in headers.get_all(&header) {
                let names = value.to_str().unwrap_or("?").split(',');
                codings
                    .extend(names.filter_map(|name| Coding::of(&name.trim().to_ascii_lowercase())));
            }
        }
        codings
    }

    fn of(name: &str) -> Option<Coding> {
        match name {
            // Values that do not encode a body: character sets, S3's upload format.
            "" | "identity" | "none" | "binary" | "utf-8" | "utf8" | "aws-chunked" | "chunked" => {
                None
            }
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            other => Some(Coding::Other(other.to_owned())),
        }
    }
}

/// The body without its codings. Hosts announce arbitrary ones, even invalid ones ("8bit"), for
/// pictures without them: what begins a picture is not decoded further.
fn decoded<'a>(
    wire: impl Read + 'a,
    codings: Vec<Coding>,
    limits: &Limits,
    location: &UrlLocation,
) -> Result<Box<dyn Read + 'a>, FetchError> {
    let bad = |reason| FetchError::BadEncoding { location: location.clone(), reason };
    if codings.len() > MAX_CODINGS {
        return Err(bad(format!("more than {MAX_CODINGS} encodings")));
    }
    let mut from: Box<dyn Read + 'a> = Box::new(wire);
    for coding in codings.into_iter().rev() {
        let mut head = Vec::new();
        from.by_ref()
            .take(signature::LENGTH)
            .read_to_end(&mut head)
            .map_err(|e| limits.read(e, location))?;
        let (plain, zlib) = (signature::begins_a_picture(&head), begins_zlib(&head));
        // The first bytes of gzip (RFC 1952, 2.3.1); the shortest stream of deflate has two.
        let magic = [0x1f, 0x8b];
        let may_be_gzip = magic.starts_with(&head) || head.starts_with(&magic);
        let is_short = head.len() < 2;
        let rest = io::Cursor::new(head).chain(from);
        from = match coding {
            _ if plain => return Ok(Box::new(rest)),
            Coding::Gzip if !may_be_gzip => return Err(bad("it is not gzip".into())),
            Coding::Deflate if is_short => return Err(bad("it is not deflate".into())),
            Coding::Gzip => Box::new(GzipMembers::new(rest)),
            Coding::Deflate if zlib => Box::new(ZlibDecoder::new(rest)),
            Coding::Deflate => Box::new(DeflateDecoder::new(rest)),
            Coding::Other(name) => {
                let name = name.escape_default().take(40).collect::<String>();
                return Err(bad(format!("content encoding \"{name}\"")));
            }
        };
    }
    Ok(from)
}

/// Whether bytes begin with the header of zlib (RFC 1950, 2.2). `deflate` means zlib, but some
/// hosts send the bare stream, as browsers accept it.
fn begins_zlib(head: &[u8]) -> bool {
    matches!(head, [method, flags, ..]
        if method & 0x0f == 8
            && method >> 4 <= 7
            && (u16::from(*method) * 256 + u16::from(*flags)) % 31 == 0)
}

/// Reads all of `from`; more bytes than the room may become are an error.
fn collect(
    mut from: impl Read,
    mut room: GrowingRoom<'_, '_>,
    limits: &Limits,
    location: &UrlLocation,
) -> Result<Vec<u8>, FetchError> {
    let most = room.most;
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = match from.read(&mut chunk) {
            Ok(0) => {
                // Unused pages cost nothing while it grew, but the bytes are stored for a while.
                bytes.shrink_to_fit();
                return Ok(bytes);
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(limits.read(e, location)),
        };
        if let Some(over) = limits.over(location) {
            return Err(over);
        }
        if (bytes.len() + n) as u64 > most {
            return Err(match most < limits.bytes {
                true => FetchError::Memory(Box::new(no_room(most))),
                false => FetchError::TooLarge {
                    location: location.clone(),
                    limit: limits.bytes,
                    declared: None,
                },
            });
        }
        room.grow((bytes.len() + n) as u64)?;
        if bytes.capacity() < bytes.len() + n {
            // Never more than the largest size, and for most bodies in one step, because growing
            // holds two copies for a moment.
            let capacity = (bytes.capacity() * 2)
                .max(FIRST_ALLOCATION)
                .min(most as usize)
                .max(bytes.len() + n);
            bytes
                .try_reserve_exact(capacity - bytes.len())
                .map_err(|e| FetchError::Memory(Box::new(no_memory(&e.to_string()))))?;
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
}

/// The body exceeds the memory for files.
fn no_room(most: u64) -> Failure {
    Failure::new(
        FailureClass::Reject,
        "too_much_memory",
        "the image needs more memory than the engine may use for files",
    )
    .detail(format!("Its size was not announced, and it is larger than {most} bytes."))
    .hint("Raise \"pg_caption.memory\".")
}

/// The machine has less memory than the budget assumes.
fn no_memory(reason: &str) -> Failure {
    Failure::new(FailureClass::Engine, "out_of_memory", "out of memory for the image")
        .detail(format!("The cause was: {reason}."))
        .hint("Lower \"pg_caption.memory\" or \"pg_caption.max_image_size\".")
}

/// A gzip body, member by member (RFC 1952, 2.2). Bytes after the last member, usually zeros, are
/// ignored, as gzip itself and browsers do.
struct GzipMembers<R: Read> {
    member: Option<GzDecoder<BufReader<R>>>,
}

impl<R: Read> GzipMembers<R> {
    fn new(wire: R) -> Self {
        GzipMembers { member: Some(GzDecoder::new(BufReader::new(wire))) }
    }
}

impl<R: Read> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let mut wire =
                self.member.take().map(GzDecoder::into_inner).expect("the loop found a member");
            // The first byte of a member's magic number.
            if wire.fill_buf()?.first() == Some(&0x1f) {
                self.member = Some(GzDecoder::new(wire));
            }
        }
        Ok(0)
    }
}

/// Fails with [`io::ErrorKind::FileTooLarge`] after more than `left` bytes.
struct Bounded<'a, R> {
    inner: R,
    left: u64,
    /// Set when the body was read to its end.
    ended: &'a mut bool,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        *self.ended |= n == 0 && !buffer.is_empty();
        crate::attempt::received(n as u64);
        self.left = self.left.checked_sub(n as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}
