//! Reads frames from a client's socket, blocking, without ever holding more than one body and never one beyond the limit.

use pg_caption_wire::{ClientMessage, frame};
use std::io::{self, Read};

/// A message, and its body.
pub struct Inbound {
    /// The head.
    pub message: ClientMessage,
    /// The body; empty if it was longer than the limit.
    pub body: Vec<u8>,
    /// Length of a body that was read and thrown away because it was longer than the limit.
    pub oversized: Option<u64>,
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client left, or the socket broke.
    #[error("the client left")]
    Left,
    /// Not the protocol.
    #[error(transparent)]
    Frame(#[from] frame::Error),
}

impl From<io::Error> for Error {
    fn from(_: io::Error) -> Self {
        Error::Left
    }
}

/// The next frame. Bodies beyond `limit` bytes are skipped, not stored.
///
/// # Errors
/// [`Error::Left`] at the end of the stream, [`Error::Frame`] for bytes that are no frame.
pub fn read(from: &mut impl Read, limit: u64) -> Result<Inbound, Error> {
    let mut prefix = [0; frame::PREFIX];
    from.read_exact(&mut prefix)?;
    let (head, body) = frame::lengths(prefix)?;
    let mut bytes = vec![0; head];
    from.read_exact(&mut bytes)?;
    let message = frame::decode_head(&bytes)?;
    if body as u64 > limit {
        let skipped = io::copy(&mut from.take(body as u64), &mut io::sink())?;
        if skipped < body as u64 {
            return Err(Error::Left);
        }
        return Ok(Inbound { message, body: Vec::new(), oversized: Some(body as u64) });
    }
    // Grows as bytes arrive: an announced length alone reserves nothing.
    let mut bytes = Vec::new();
    if from.take(body as u64).read_to_end(&mut bytes)? < body {
        return Err(Error::Left);
    }
    Ok(Inbound { message, body: bytes, oversized: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(body: &[u8]) -> Vec<u8> {
        let mut bytes = frame::encode_head(&ClientMessage::Cancel { id: 1 }, body.len()).unwrap();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_body_beyond_the_limit_is_skipped_and_the_next_frame_is_read() {
        let bytes = [frame_of(&[7; 100]), frame_of(&[8; 10])].concat();
        let mut from = &bytes[..];
        let first = read(&mut from, 50).unwrap();
        assert_eq!((first.body.len(), first.oversized), (0, Some(100)));
        let second = read(&mut from, 50).unwrap();
        assert_eq!((second.body, second.oversized), (vec![8; 10], None));
        assert!(matches!(read(&mut from, 50), Err(Error::Left)));
    }

    #[test]
    fn a_client_that_leaves_in_the_middle_has_left() {
        let bytes = frame_of(&[7; 100]);
        for cut in [1, 9, bytes.len() - 1] {
            assert!(matches!(read(&mut &bytes[..cut], 1000), Err(Error::Left)));
            assert!(matches!(read(&mut &bytes[..cut], 10), Err(Error::Left)));
        }
    }
}
