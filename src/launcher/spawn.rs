//! An engine process with only the descriptors it needs.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Under memory pressure the kernel kills the engine before any backend.
const OOM_SCORE: &[u8] = b"500";

/// A started engine.
pub struct EngineProcess {
    /// The process.
    pub child: Child,
    /// Reading end of its status pipe.
    pub status: OwnedFd,
}

/// Starts the engine program that is open as `program`: a package upgrade does not pair a new
/// engine with an old library.
///
/// # Errors
/// The error of the operating system.
pub fn start(program: &File, listener: RawFd) -> io::Result<EngineProcess> {
    let (status_read, status_write) = io::pipe()?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let mut command = Command::new(&path);
    command.arg0("pg_caption_engine").arg("serve");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
    command.env_clear();
    // By convention, descriptor 3 is the listening socket.
    command.env("LISTEN_FDS", "1");
    // glibc's malloc otherwise keeps an arena per thread and never frees pictures that many threads
    // have decoded.
    command
        .env("MALLOC_ARENA_MAX", "2")
        .env("MALLOC_TRIM_THRESHOLD_", "1048576")
        .env("LANG", "C.UTF-8");
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "TZ"].map(OsStr::new) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let status = status_write.as_raw_fd();
    // SAFETY: between fork and exec only async-signal-safe system calls are made, on descriptors
    // that are open in the parent.
    unsafe { command.pre_exec(move || prepare(listener, status)) };
    let child = command.spawn()?;
    Ok(EngineProcess { child, status: status_read.into() })
}

/// In the child, before exec: descriptors 3 and 4, everything else closed on exec, no blocked
/// signals, ends with its parent. Plain system calls of libc: nothing may allocate here.
fn prepare(listener: RawFd, status: RawFd) -> io::Result<()> {
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: system calls with plain arguments; the signal set is initialised by sigemptyset
    // before use.
    unsafe {
        // First away from 3 and 4, then into place: either may have the other's number.
        let high_listener = check(libc::fcntl(listener, libc::F_DUPFD, 10))?;
        let high_status = check(libc::fcntl(status, libc::F_DUPFD, 10))?;
        check(libc::dup2(high_listener, pg_caption_wire::LISTEN_FD))?;
        check(libc::dup2(high_status, pg_caption_wire::STATUS_FD))?;
        // Close-on-exec for the rest. Where the kernel lacks close_range, the launcher's own
        // descriptors are close-on-exec anyway.
        libc::syscall(libc::SYS_close_range, 5u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // A session of its own: signals to the server's process group do not reach the engine.
        libc::setsid();
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let score =
            libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            libc::write(score, OOM_SCORE.as_ptr().cast(), OOM_SCORE.len());
            libc::close(score);
        }
    }
    Ok(())
}
