//! The socket on which engines accept clients. It stays open for the launcher's life, and is passed
//! to every engine. Its file may be removed by mistake: then another one takes its place.

use crate::shared::{self, EngineDoubt};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Length of the kernel's queue of connections while an engine restarts.
const BACKLOG: i32 = 512;
/// How often the file is checked when the launcher is awake.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is checked while clients find none.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

/// A listening socket.
pub struct ListeningSocket {
    path: &'static str,
    listener: OwnedFd,
    /// Device and inode of its file.
    file: (u64, u64),
    checked: Instant,
    /// The last attempt to listen again failed, and was logged.
    failed: bool,
}

impl AsRawFd for ListeningSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl ListeningSocket {
    /// Creates the socket, mode 0600.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn listen(path: &'static str) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(folder) = Path::new(path).parent() {
            std::fs::create_dir_all(folder)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        // `bind` listens with a shorter queue.
        rustix::net::listen(&listener, BACKLOG)?;
        let file = file(path)?;
        let checked = Instant::now();
        Ok(ListeningSocket { path, listener: listener.into(), file, checked, failed: false })
    }

    /// Listens again if the file was removed or replaced. Returns whether it did: engines have the
    /// old socket until they are replaced. `forced`: the configuration was reloaded.
    pub fn check(&mut self, now: Instant, forced: bool) -> bool {
        let doubted = shared::is_doubted(EngineDoubt::Socket);
        let interval = if doubted { DOUBT_INTERVAL } else { CHECK_INTERVAL };
        if !forced && now.duration_since(self.checked) < interval {
            return false;
        }
        self.checked = now;
        shared::settle_doubt(EngineDoubt::Socket);
        if file(self.path).is_ok_and(|file| file == self.file) {
            return false;
        }
        match Self::listen(self.path) {
            Ok(socket) => {
                pgrx::log!("pg_caption: socket \"{}\" was removed; listening again", self.path);
                *self = socket;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    pgrx::log!("pg_caption cannot listen on \"{}\": {error}", self.path);
                }
                false
            }
        }
    }

    /// When the next check is due; `None`: no client finds the socket missing.
    pub fn next_due(&self) -> Option<Instant> {
        shared::is_doubted(EngineDoubt::Socket).then(|| self.checked + DOUBT_INTERVAL)
    }
}

fn file(path: &str) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
