//! Accepts clients on the launcher's socket, and stops when a successor has taken over. Runs on the
//! main thread. Clients are judged after their hello (`admission.rs`), on their own threads.

use super::admission::{Admission, AdmittedClients, MOST_CLIENTS};
use super::connection::ClientConnection;
use crate::engine::Engine;
use crate::failures;
use parking_lot::{Mutex, MutexGuard};
use pg_caption_wire::{ClientRole, Failure, ServerMessage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Concurrent connections (two threads each): clients, and those that are being greeted or closed.
/// More wait in the socket's backlog.
const MOST_CONNECTIONS: usize = MOST_CLIENTS + 64;
/// After a drain: time without requests before the engine exits, so that requests that crossed the
/// GoAway are served.
const QUIET: Duration = Duration::from_millis(250);

/// The listening side of the server.
pub struct ClientAcceptor {
    listener: UnixListener,
    engine: Arc<Engine>,
    clients: Mutex<HashMap<u64, Arc<ClientConnection>>>,
    /// Locked before `clients`.
    admitted: Mutex<AdmittedClients>,
    next: AtomicU64,
    draining: AtomicBool,
    wake: UnixStream,
    woken: UnixStream,
}

impl ClientAcceptor {
    /// Serves clients of `listener` with `engine`.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(listener: UnixListener, engine: Arc<Engine>) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(ClientAcceptor {
            listener,
            engine,
            clients: Mutex::default(),
            admitted: Mutex::default(),
            next: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            wake,
            woken,
        })
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<ClientConnection>>> {
        self.clients.lock()
    }

    /// A successor serves: accept no more clients, send GoAway to all, exit when idle.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.engine.set_draining();
        self.wake();
    }

    fn wake(&self) {
        // Full: a wake-up is already on its way.
        let _ = (&self.wake).write(&[1]);
    }

    /// Serves until drained.
    pub fn run(self: &Arc<Self>) {
        while !self.draining.load(Ordering::Acquire) {
            let room = self.clients().len() < MOST_CONNECTIONS;
            let mut watched = vec![PollFd::new(&self.woken, PollFlags::IN)];
            if room {
                watched.push(PollFd::new(&self.listener, PollFlags::IN));
            }
            if poll(&mut watched, None).is_err() {
                continue;
            }
            self.clear_wakeup();
            if room {
                self.accept();
            }
        }
        for client in self.clients().values() {
            client.send(&ServerMessage::GoAway);
        }
        self.until_idle();
    }

    /// Accepts no client until drained.
    pub fn until_drained(&self) {
        while !self.draining.load(Ordering::Acquire) {
            let _ = poll(&mut [PollFd::new(&self.woken, PollFlags::IN)], None);
            self.clear_wakeup();
        }
    }

    fn clear_wakeup(&self) {
        let _ = (&self.woken).read(&mut [0; 64]);
    }

    fn accept(self: &Arc<Self>) {
        match self.listener.accept() {
            Ok((stream, _)) => {
                if let Err(e) = self.admit(stream) {
                    crate::log::line(format_args!(
                        "warning: a connection could not be served: {e}"
                    ));
                }
            }
            // Another engine on the same socket accepted the client first, or the client has left.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(e) => {
                crate::log::line(format_args!("warning: accept failed: {e}"));
                let idle_since = |id| self.clients().get(&id).and_then(|c| c.idle_since());
                let idle = self.admitted.lock().longest_idle(idle_since);
                idle.into_iter().for_each(|id| self.close_idle(id));
                // Out of descriptors: poll would return immediately for ever. Wait until a client
                // leaves, perhaps the one that was idle longest, or for a second.
                let second = Timespec { tv_sec: 1, tv_nsec: 0 };
                let _ = poll(&mut [PollFd::new(&self.woken, PollFlags::IN)], Some(&second));
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (this, counter) = (self.clone(), self.engine.clone());
        let judge = self.clone();
        let admit = move |role| judge.judge(id, role);
        // Locked while it starts, so that a connection that ends immediately is found.
        let mut clients = self.clients();
        let connection =
            ClientConnection::start(stream, id, self.engine.clone(), admit, move || {
                this.clients().remove(&id);
                this.admitted.lock().remove(id);
                counter.metrics().connections.fetch_sub(1, Ordering::Relaxed);
                this.wake();
            })?;
        clients.insert(id, connection);
        self.engine.metrics().connections.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Decides whether a greeted client is served.
    fn judge(&self, id: u64, role: ClientRole) -> Result<(), Failure> {
        let idle_since = |id| self.clients().get(&id).and_then(|client| client.idle_since());
        let admission = self.admitted.lock().admit(id, role, idle_since);
        match admission {
            Admission::Admit => Ok(()),
            Admission::Replace(idle) => {
                self.close_idle(idle);
                Ok(())
            }
            Admission::Refuse => Err(failures::too_many_connections(MOST_CLIENTS)),
        }
    }

    fn close_idle(&self, id: u64) {
        let client = self.clients().get(&id).cloned();
        if let Some(client) = client {
            client.close_idle();
        }
    }

    /// Returns when no request has been in flight for a moment, or no client is connected.
    fn until_idle(&self) {
        let mut idle_since = Instant::now();
        let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        loop {
            if self.clients().is_empty() {
                return;
            }
            if self.engine.metrics().in_flight.load(Ordering::Acquire) > 0 {
                idle_since = Instant::now();
            } else if idle_since.elapsed() >= QUIET {
                return;
            }
            let _ = poll(&mut [PollFd::new(&self.woken, PollFlags::IN)], Some(&tick));
            self.clear_wakeup();
        }
    }
}
