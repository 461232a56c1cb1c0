//! The body of an answer, read with a bound on every side: bytes on the wire, bytes after
//! inflating, time, the caller.

use crate::error::{FetchError, UrlLocation};
use crate::fault::Limits;
use crate::fetch::Reserve;
use crate::signature;
use flate2::bufread::GzDecoder;
use pg_caption_wire::{Failure, FailureClass};
use std::io::{self, BufRead, BufReader, Read};
use ureq::Body;
use ureq::http::{HeaderMap, header};

/// Read at once, bytes.
const CHUNK: usize = 64 * 1024;
/// Allocated for a body at once if it may become that large, bytes. The system gives pages as they
/// are filled.
const AT_ONCE: usize = 64 << 20;

/// Reads the whole body. `reserve` is asked once, before the first byte is kept, for as much as can
/// possibly be kept. Also says whether bytes came behind the end that the server had announced.
pub(crate) fn read(
    body: Body,
    headers: &HeaderMap,
    limits: &Limits,
    place: &UrlLocation,
    reserve: &mut Reserve<'_>,
) -> Result<(Vec<u8>, bool), FetchError> {
    let coding = Coding::of(headers);
    let declared = body.content_length();
    if let Some(bytes) = declared.filter(|d| *d > limits.bytes) {
        return Err(FetchError::TooLarge {
            place: place.clone(),
            limit: limits.bytes,
            declared: Some(bytes),
        });
    }
    // what a compressed body becomes is known when it is over; a small budget leaves less room than
    // the limit for it
    let most = declared
        .filter(|_| !matches!(coding, Coding::Gzip))
        .unwrap_or(limits.bytes.min(limits.room));
    let asked = std::time::Instant::now();
    reserve(&place.host, most).map_err(FetchError::Memory)?;
    // the server is not to blame for the time spent waiting for memory
    crate::attempt::extend(asked.elapsed());
    let mut ended = false;
    let mut wire = Bounded { inner: body.into_reader(), left: limits.bytes, ended: &mut ended };
    crate::attempt::take_surplus();
    let mut head = Vec::new();
    if !matches!(coding, Coding::Plain) {
        wire.by_ref()
            .take(signature::LENGTH)
            .read_to_end(&mut head)
            .map_err(|e| limits.read(e, place))?;
    }
    let plain = signature::begins_a_picture(&head);
    let wire = io::Cursor::new(head).chain(wire);
    let bytes = match coding {
        Coding::Gzip if !plain => collect(Members::new(wire), most, limits, place),
        Coding::Other(name) if !plain => {
            let reason = format!(
                "content encoding \"{}\"",
                name.escape_default().take(40).collect::<String>()
            );
            return Err(FetchError::BadEncoding { place: place.clone(), reason });
        }
        // pictures are served under every coding there is, and under words that are none ("8bit"),
        // with nothing done to them
        _ => collect(wire, most, limits, place),
    };
    let announced = declared.is_some() || headers.contains_key(header::TRANSFER_ENCODING);
    let bytes = bytes.map_err(|error| match error {
        // all that the server had announced came: the next time it sends no more
        FetchError::Reset { place, .. } if ended && announced => FetchError::Truncated { place },
        error => error,
    })?;
    // what lies on a connection whose body was not read to its end may be of the body
    Ok((bytes, ended && crate::attempt::take_surplus()))
}

/// How a body is encoded, as far as its headers say.
enum Coding {
    Plain,
    Gzip,
    /// None that was asked for, or no coding at all; its name.
    Other(String),
}

impl Coding {
    fn of(headers: &HeaderMap) -> Coding {
        let mut coding = Coding::Plain;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for name in
                value.to_str().unwrap_or("?").split(',').map(|c| c.trim().to_ascii_lowercase())
            {
                match (name.as_str(), &coding) {
                    // Some say what is no coding of a body: a character set, S3's way of uploading.
                    ("" | "identity" | "none" | "binary" | "utf-8" | "utf8" | "aws-chunked", _) => {
                    }
                    ("gzip" | "x-gzip", Coding::Plain) => coding = Coding::Gzip,
                    (other, _) => return Coding::Other(other.to_owned()),
                }
            }
        }
        coding
    }
}

/// Everything `from` yields, at most `most` bytes; one more is too large.
fn collect(
    mut from: impl Read,
    most: u64,
    limits: &Limits,
    place: &UrlLocation,
) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = match from.read(&mut chunk) {
            Ok(0) => {
                // untouched pages cost nothing while it grew, but the bytes are kept for a while
                bytes.shrink_to_fit();
                return Ok(bytes);
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(limits.read(e, place)),
        };
        if let Some(over) = limits.over(place) {
            return Err(over);
        }
        if (bytes.len() + n) as u64 > most {
            return Err(match most < limits.bytes {
                true => FetchError::Memory(Box::new(no_room(most))),
                false => FetchError::TooLarge {
                    place: place.clone(),
                    limit: limits.bytes,
                    declared: None,
                },
            });
        }
        if bytes.capacity() < bytes.len() + n {
            // never beyond what was reserved, and for all but giants at once: growing in steps
            // would hold two copies in between
            let capacity =
                (bytes.capacity() * 2).max(AT_ONCE).min(most as usize).max(bytes.len() + n);
            bytes
                .try_reserve_exact(capacity - bytes.len())
                .map_err(|e| FetchError::Memory(Box::new(no_memory(&e.to_string()))))?;
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
}

/// The body is longer than all the room there is for files.
fn no_room(most: u64) -> Failure {
    Failure::new(
        FailureClass::Reject,
        "too_much_memory",
        "the image needs more memory than the engine may use for files",
    )
    .detail(format!("Its size was not announced, and it is larger than {most} bytes."))
    .hint("Raise \"pg_caption.memory\".")
}

/// The machine has less memory than the budget says.
fn no_memory(reason: &str) -> Failure {
    Failure::new(FailureClass::Engine, "out_of_memory", "the engine got no memory for the image")
        .detail(reason)
        .hint("Lower \"pg_caption.memory\" or \"pg_caption.max_image_size\".")
}

/// A gzip body, member by member (RFC 1952, 2.2). What follows the last one, zeros as a rule, is
/// none of it, as with gzip itself and browsers.
struct Members<R: Read> {
    member: Option<GzDecoder<BufReader<R>>>,
}

impl<R: Read> Members<R> {
    fn new(wire: R) -> Self {
        Members { member: Some(GzDecoder::new(BufReader::new(wire))) }
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let mut wire = self.member.take().map(GzDecoder::into_inner).expect("it was there");
            // The first byte of a member's magic number.
            if wire.fill_buf()?.first() == Some(&0x1f) {
                self.member = Some(GzDecoder::new(wire));
            }
        }
        Ok(0)
    }
}

/// Fails with [`io::ErrorKind::FileTooLarge`] when more than `left` bytes come.
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
        self.left = self.left.checked_sub(n as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}
