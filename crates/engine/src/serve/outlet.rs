//! The sending half of a client's connection: whole frames, in turn from the writer thread and from
//! threads that must not wait.
//!
//! What the kernel has taken reaches the client even if this process dies in the next moment; what
//! is queued does not.

use parking_lot::Mutex;
use rustix::net::{SendFlags, send};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// The stream, and the rest of a frame that did not fit.
pub struct ClientOutlet(Mutex<(UnixStream, Vec<u8>)>);

impl ClientOutlet {
    /// Sends on this stream.
    pub fn new(stream: UnixStream) -> Self {
        ClientOutlet(Mutex::new((stream, Vec::new())))
    }

    /// Writes a frame; waits for a client that does not read.
    ///
    /// # Errors
    /// The client has left.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        let (stream, rest) = &mut *self.0.lock();
        stream.write_all(rest)?;
        rest.clear();
        stream.write_all(frame)
    }

    /// Writes a frame if that is possible without waiting. Returns whether it was written.
    pub fn try_write(&self, frame: &[u8]) -> bool {
        let Some(mut locked) = self.0.try_lock() else { return false };
        let (stream, rest) = &mut *locked;
        if !rest.is_empty() {
            return false;
        }
        match send(&*stream, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => {
                rest.extend_from_slice(&frame[sent..]);
                true
            }
            Err(_) => false,
        }
    }

    /// Ends the connection.
    pub fn shutdown(&self) {
        let _ = self.0.lock().0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn frames_stay_whole_and_nothing_waits() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let outlet = ClientOutlet::new(ours);
        let frames = (0..100_000u32).map(|number| number.to_le_bytes());
        let written = frames.take_while(|frame| outlet.try_write(frame)).count();
        assert!(written > 16, "a client may read late");
        assert!(written < 100_000, "a client that does not read delays no stage");
        let mut bytes = vec![0; written * 4];
        theirs.read_exact(&mut bytes).unwrap();
        outlet.write(&[7; 4]).unwrap();
        let mut last = [0; 4];
        theirs.read_exact(&mut last).unwrap();
        assert_eq!(last, [7; 4]);
        assert!(bytes.chunks(4).eq((0..written as u32).map(u32::to_le_bytes)));
    }
}
