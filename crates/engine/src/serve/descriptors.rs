//! The descriptors that the launcher passes: the listening socket and the status pipe. Used once,
//! at the start of `serve`.
//!
//! Both are taken without unsafe code. The socket comes through the socket-activation environment
//! (`LISTEN_FDS=1`, set by the launcher); without it, the descriptor is duplicated from this
//! process itself. The pipe is opened again through `/proc`.

use parking_lot::Mutex;
use pg_caption_wire::{EngineReport, LISTEN_FD, STATUS_FD};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixListener;

/// The listening socket on descriptor 3, non-blocking. (Other processes that hold the socket share
/// the flag; a successor needs it too.)
///
/// # Errors
/// The descriptor is not a listening Unix socket.
pub fn listener() -> io::Result<UnixListener> {
    let listener = match listenfd::ListenFd::from_env().take_unix_listener(0)? {
        Some(listener) => listener,
        None => {
            let this = pidfd_open(getpid(), PidfdFlags::empty())?;
            UnixListener::from(pidfd_getfd(this, LISTEN_FD, PidfdGetfdFlags::empty())?)
        }
    };
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The status pipe on descriptor 4. Without one (started by hand) reports are discarded.
pub struct StatusPipe(Mutex<Option<File>>);

impl StatusPipe {
    /// Opens it. Must happen before confinement.
    pub fn open() -> Self {
        StatusPipe(Mutex::new(
            OpenOptions::new().write(true).open(format!("/proc/self/fd/{STATUS_FD}")).ok(),
        ))
    }

    /// Writes one line. A launcher that has ended is noticed on standard input, not here.
    pub fn report(&self, report: &EngineReport) {
        let mut pipe = self.0.lock();
        if let (Some(pipe), Ok(mut line)) = (pipe.as_mut(), serde_json::to_vec(report)) {
            line.push(b'\n');
            let _ = pipe.write_all(&line);
        }
    }
}
