//! Reads frames from a client's socket, blocking. Head and body are read separately: memory for a
//! body is reserved before it is read, and a body beyond the limit is never stored.

use pg_caption_wire::{ClientMessage, frame};
use std::io::{self, Read};

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    /// The client left, or the socket failed.
    #[error("the client left")]
    Left,
    /// The bytes are not a frame of the protocol.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
}

impl From<io::Error> for InboundError {
    fn from(_: io::Error) -> Self {
        InboundError::Left
    }
}

/// The next message, and the length of the body that follows: the caller must [`body`] or [`skip`]
/// it.
///
/// # Errors
/// [`InboundError::Left`] at the end of the stream, [`InboundError::Frame`] for invalid bytes.
pub fn head(from: &mut impl Read) -> Result<(ClientMessage, u64), InboundError> {
    let mut prefix = [0; frame::PREFIX];
    from.read_exact(&mut prefix)?;
    let (head, body) = frame::lengths(prefix)?;
    let mut bytes = vec![0; head];
    from.read_exact(&mut bytes)?;
    Ok((frame::decode_head(&bytes)?, body as u64))
}

/// The body.
///
/// # Errors
/// [`InboundError::Left`] if it ends early.
pub fn body(from: &mut impl Read, length: u64) -> Result<Vec<u8>, InboundError> {
    // Allocated in one step: growing would hold two copies in between. The kernel provides pages as
    // they are filled, so an announced length alone costs no memory.
    let mut bytes = Vec::with_capacity(length as usize);
    from.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length { Err(InboundError::Left) } else { Ok(bytes) }
}

/// Reads the body and discards it.
///
/// # Errors
/// [`InboundError::Left`] if it ends early.
pub fn skip(from: &mut impl Read, length: u64) -> Result<(), InboundError> {
    if io::copy(&mut from.take(length), &mut io::sink())? < length {
        Err(InboundError::Left)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_of(id: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = frame::encode_head(&ClientMessage::Cancel { id }, body.len()).unwrap();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn the_frame_after_a_skipped_body_is_read() {
        let bytes = [frame_of(1, &[7; 100]), frame_of(2, &[8; 10])].concat();
        let mut from = &bytes[..];
        assert_eq!(head(&mut from).unwrap(), (ClientMessage::Cancel { id: 1 }, 100));
        skip(&mut from, 100).unwrap();
        assert_eq!(head(&mut from).unwrap(), (ClientMessage::Cancel { id: 2 }, 10));
        assert_eq!(body(&mut from, 10).unwrap(), [8; 10]);
        assert!(matches!(head(&mut from), Err(InboundError::Left)));
    }

    #[test]
    fn an_incomplete_frame_means_the_client_left() {
        let bytes = frame_of(1, &[7; 100]);
        for cut in [1, 9] {
            assert!(matches!(head(&mut &bytes[..cut]), Err(InboundError::Left)));
        }
        for end in [body(&mut &bytes[..40], 100).map(drop), skip(&mut &bytes[..40], 100)] {
            assert!(matches!(end, Err(InboundError::Left)));
        }
    }
}
