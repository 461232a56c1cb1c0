//! The engine with a test hook in its decoder, to check its confinement and its end. Started by the
//! tests `confinement` and `engine_losses`; never installed.
//!
//! A picture may end in `TEST_HOOK ` and a JSON object of attempts (action: target). The hook makes
//! them on the decode thread of the real, confined process. It reports the outcomes in one line on
//! standard error, which is the server log.

use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

const MARK: &[u8] = b"TEST_HOOK ";

fn main() -> std::process::ExitCode {
    pg_caption_engine::cli::main(pg_caption_engine::DecodeHook::new(decoder))
}

fn decoder(bytes: &[u8]) {
    let Some(at) = bytes.windows(MARK.len()).rposition(|window| window == MARK) else { return };
    let attempts: Map<String, Value> =
        serde_json::from_slice(&bytes[at + MARK.len()..]).expect("a JSON object");
    let outcomes: Map<String, Value> = attempts
        .into_iter()
        .map(|(action, target)| {
            let outcome = match attempt(&action, target.as_str().expect("text")) {
                Ok(()) => "done".into(),
                Err(error) => format!("{:?}", error.kind()),
            };
            (action, outcome.into())
        })
        .collect();
    eprintln!("test_hook: {}", Value::Object(outcomes));
}

/// The process with that id.
fn process(pid: &str) -> rustix::process::Pid {
    let pid = pid.parse().expect("a process id");
    rustix::process::Pid::from_raw(pid).expect("a process id")
}

fn attempt(action: &str, target: &str) -> io::Result<()> {
    match action {
        "read a file" | "read a file in /etc" => fs::read(target).map(drop),
        "list a folder" => fs::read_dir(target).map(drop),
        "write a file" => fs::write(target, "x"),
        "make a folder" => fs::create_dir(target),
        "connect to a socket" => UnixStream::connect(target).map(drop),
        "run a program" => {
            Command::new(target).stdin(Stdio::null()).stdout(Stdio::null()).status().map(drop)
        }
        "see another process's command line" => {
            fs::read(format!("/proc/{target}/cmdline")).map(drop)
        }
        "see another process's environment" => {
            fs::read(format!("/proc/{target}/environ")).map(drop)
        }
        "signal another process" => {
            // Signal 0 has no effect.
            Ok(rustix::process::test_kill_process(process(target))?)
        }
        "limit another process" => {
            // The limit of this process: nothing changes.
            let now = rustix::process::getrlimit(rustix::process::Resource::Core);
            Ok(rustix::process::prlimit(
                Some(process(target)),
                rustix::process::Resource::Core,
                now,
            )
            .map(drop)?)
        }
        "change another process's priority" => {
            Ok(rustix::process::setpriority_process(Some(process(target)), 19)?)
        }
        "bind another process to a processor" => {
            // The processors of this thread: nothing changes.
            let now = rustix::thread::sched_getaffinity(None)?;
            Ok(rustix::thread::sched_setaffinity(Some(process(target)), &now)?)
        }
        // As a decoder that corrupts memory does.
        "end the process" => std::process::abort(),
        "write lines of that size" => {
            let line = "flood\n".repeat(1000);
            let size: usize = target.parse().expect("a size");
            (0..size / line.len()).for_each(|_| eprint!("{line}"));
            Ok(())
        }
        "write a line of that size" => {
            eprintln!("{}", "x".repeat(target.parse().expect("a size")));
            Ok(())
        }
        "change a file's mode" => fs::set_permissions(target, fs::Permissions::from_mode(0o600)),
        "change a file's owner" => std::os::unix::fs::chown(target, None, None),
        "change a file's times" => {
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let now = rustix::fs::Timestamps { last_access: now, last_modification: now };
            Ok(rustix::fs::utimensat(rustix::fs::CWD, target, &now, rustix::fs::AtFlags::empty())?)
        }
        "set an attribute of a file" => Ok(rustix::fs::setxattr(
            target,
            "user.pg_caption",
            b"x",
            rustix::fs::XattrFlags::empty(),
        )?),
        other => Err(io::Error::other(other.to_owned())),
    }
}
