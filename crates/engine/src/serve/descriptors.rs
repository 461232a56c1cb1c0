//! The descriptors the launcher hands over: the listening socket and the status pipe. Used once, at
//! the start of `serve`.
//!
//! Both are taken without unsafe code: the socket through the socket-activation environment
//! (`LISTEN_FDS=1`, the launcher sets it) or, where that is not set, duplicated out of our own
//! process; the pipe is opened anew through `/proc`.

use pg_caption_wire::{EngineReport, LISTEN_FD, STATUS_FD};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::sync::Mutex;

/// The listening socket on descriptor 3, non-blocking. (The flag is shared with whoever else holds
/// the socket; a successor wants it too.)
///
/// # Errors
/// If there is no listening Unix socket there.
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

/// The status pipe on descriptor 4; reports vanish where there is none (started by hand).
pub struct StatusPipe(Mutex<Option<File>>);

impl StatusPipe {
    /// Opens it. Must happen before confinement.
    pub fn open() -> Self {
        StatusPipe(Mutex::new(
            OpenOptions::new().write(true).open(format!("/proc/self/fd/{STATUS_FD}")).ok(),
        ))
    }

    /// Writes one line. A launcher that no longer reads is noticed on standard input, not here.
    pub fn report(&self, report: &EngineReport) {
        let mut pipe = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let (Some(pipe), Ok(mut line)) = (pipe.as_mut(), serde_json::to_vec(report)) {
            line.push(b'\n');
            let _ = pipe.write_all(&line);
        }
    }
}
