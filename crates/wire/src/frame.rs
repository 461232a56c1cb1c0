//! Framing: `[head length: u32 LE][body length: u32 LE][head: JSON][body: raw bytes]`.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes before the head.
pub const PREFIX: usize = 8;
/// Largest head accepted, bytes. Heads hold a URL, style definitions or captions: kilobytes.
pub const MAX_HEAD: usize = 1 << 20;
/// Largest body accepted, bytes (a `bytea` cannot exceed 1 GB).
pub const MAX_BODY: usize = 1 << 30;

/// A frame that cannot be read. The connection must be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A length beyond [`MAX_HEAD`] or [`MAX_BODY`].
    #[error("frame of {head} head bytes and {body} body bytes exceeds the limit")]
    TooLong {
        /// Announced head length.
        head: usize,
        /// Announced body length.
        body: usize,
    },
    /// The head is not the expected message.
    #[error("malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// The lengths in a frame's prefix: head, body.
///
/// # Errors
/// [`FrameError::TooLong`] for lengths beyond the limits.
pub fn lengths(prefix: [u8; PREFIX]) -> Result<(usize, usize), FrameError> {
    let number = |at: usize| {
        u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]) as usize
    };
    let (head, body) = (number(0), number(4));
    if head > MAX_HEAD || body > MAX_BODY {
        return Err(FrameError::TooLong { head, body });
    }
    Ok((head, body))
}

/// Prefix and head of a message. The caller sends the body of `body` bytes after it.
///
/// ```
/// use pg_caption_wire::ClientMessage;
/// use pg_caption_wire::frame::{FrameReader, encode_head};
///
/// let mut bytes = encode_head(&ClientMessage::Status, 2).unwrap();
/// bytes.extend([7, 8]);
/// let mut reader = FrameReader::default();
/// reader.feed(&bytes);
/// let frame = reader.next_frame::<ClientMessage>().unwrap();
/// assert_eq!(frame, Some((ClientMessage::Status, vec![7, 8])));
/// ```
///
/// # Errors
/// [`FrameError::TooLong`] if either part exceeds the limits.
pub fn encode_head<M: Serialize>(message: &M, body: usize) -> Result<Vec<u8>, FrameError> {
    let head = serde_json::to_vec(message)?;
    if head.len() > MAX_HEAD || body > MAX_BODY {
        return Err(FrameError::TooLong { head: head.len(), body });
    }
    let mut out = Vec::with_capacity(PREFIX + head.len());
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&(body as u32).to_le_bytes());
    out.extend_from_slice(&head);
    Ok(out)
}

/// Decodes a head.
///
/// # Errors
/// [`FrameError::Malformed`] if it is not JSON of that shape.
pub fn decode_head<M: DeserializeOwned>(head: &[u8]) -> Result<M, FrameError> {
    Ok(serde_json::from_slice(head)?)
}

/// Buffers bytes as they arrive and returns whole frames.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    max_body: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader::with_max_body(MAX_BODY)
    }
}

impl FrameReader {
    /// A reader of frames whose bodies have at most `max_body` bytes.
    pub fn with_max_body(max_body: usize) -> Self {
        FrameReader { buffer: Vec::new(), start: 0, max_body }
    }

    /// Adds bytes read from the peer.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// As [`lengths`] and [`decode_head`]; the connection must then be closed.
    pub fn next_frame<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Vec<u8>)>, FrameError> {
        let received = &self.buffer[self.start..];
        let Some(prefix) = received.first_chunk::<PREFIX>() else { return Ok(None) };
        let (head, body) = lengths(*prefix)?;
        if body > self.max_body {
            return Err(FrameError::TooLong { head, body });
        }
        let total = PREFIX + head + body;
        if received.len() < total {
            return Ok(None);
        }
        let message = decode_head(&received[PREFIX..PREFIX + head])?;
        let body = received[PREFIX + head..total].to_vec();
        self.start += total;
        if self.start >= 1 << 16 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        Ok(Some((message, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientMessage, ClientRole};

    #[test]
    fn frames_survive_any_fragmentation() {
        let messages = [
            (
                ClientMessage::Hello { version: 1, release: "x".into(), role: ClientRole::Call },
                vec![],
            ),
            (ClientMessage::Cancel { id: 7 }, vec![1u8, 2, 3]),
            (ClientMessage::Status, vec![0u8; 100_000]),
        ];
        let mut bytes = Vec::new();
        for (message, body) in &messages {
            bytes.extend(encode_head(message, body.len()).unwrap());
            bytes.extend_from_slice(body);
        }
        for step in [1, 3, 7, 4096, bytes.len()] {
            let (mut reader, mut seen) = (FrameReader::default(), Vec::new());
            for piece in bytes.chunks(step) {
                reader.feed(piece);
                while let Some(frame) = reader.next_frame::<ClientMessage>().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, messages);
        }
    }

    #[test]
    fn absurd_lengths_are_refused_unallocated() {
        let mut reader = FrameReader::default();
        reader.feed(&[0xff; PREFIX]);
        assert!(matches!(reader.next_frame::<ClientMessage>(), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn a_body_beyond_the_reader_s_limit_is_refused() {
        let frame = encode_head(&ClientMessage::Status, 8).unwrap();
        for (max_body, refused) in [(8, false), (7, true), (0, true)] {
            let mut reader = FrameReader::with_max_body(max_body);
            reader.feed(&frame);
            let read = reader.next_frame::<ClientMessage>();
            assert_eq!(matches!(read, Err(FrameError::TooLong { .. })), refused, "{max_body}");
        }
    }

    #[test]
    fn a_malformed_head_is_an_error() {
        let mut reader = FrameReader::default();
        reader.feed(&[2, 0, 0, 0, 0, 0, 0, 0, b'{', b']']);
        assert!(matches!(reader.next_frame::<ClientMessage>(), Err(FrameError::Malformed(_))));
    }
}
