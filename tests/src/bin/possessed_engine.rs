//! The engine, its decoder taken over: a picture may end in `POSSESSED ` and a JSON object of
//! attempts (what to do: to what), which are made on the decode thread of the real, confined
//! process. What came of each is one line on standard error, which is the server's log.

use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

const MARK: &[u8] = b"POSSESSED ";

fn main() -> std::process::ExitCode {
    pg_caption_engine::test_hook::DECODER.get_or_init(|| decoder);
    pg_caption_engine::cli::main()
}

fn decoder(bytes: &[u8]) {
    let Some(at) = bytes.windows(MARK.len()).rposition(|window| window == MARK) else { return };
    let attempts: Map<String, Value> =
        serde_json::from_slice(&bytes[at + MARK.len()..]).expect("a JSON object");
    let outcomes: Map<String, Value> = attempts
        .into_iter()
        .map(|(what, target)| {
            let outcome = match attempt(&what, target.as_str().expect("text")) {
                Ok(()) => "done".into(),
                Err(error) => format!("{:?}", error.kind()),
            };
            (what, outcome.into())
        })
        .collect();
    eprintln!("possessed: {}", Value::Object(outcomes));
}

fn attempt(what: &str, target: &str) -> io::Result<()> {
    match what {
        "read a file" | "read what lies in /etc" => fs::read(target).map(drop),
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
            let pid = rustix::process::Pid::from_raw(target.parse().expect("a process id"))
                .expect("a process id");
            // A signal that does nothing there.
            Ok(rustix::process::test_kill_process(pid)?)
        }
        "limit another process" => {
            let pid = rustix::process::Pid::from_raw(target.parse().expect("a process id"))
                .expect("a process id");
            // What it has already: nothing changes there.
            let now = rustix::process::getrlimit(rustix::process::Resource::Core);
            Ok(rustix::process::prlimit(Some(pid), rustix::process::Resource::Core, now)
                .map(drop)?)
        }
        "slow another process down" => {
            let pid = rustix::process::Pid::from_raw(target.parse().expect("a process id"))
                .expect("a process id");
            Ok(rustix::process::setpriority_process(Some(pid), 19)?)
        }
        "bind another process to a processor" => {
            let pid = rustix::process::Pid::from_raw(target.parse().expect("a process id"))
                .expect("a process id");
            // What this thread has: nothing changes there.
            let now = rustix::thread::sched_getaffinity(None)?;
            Ok(rustix::thread::sched_setaffinity(Some(pid), &now)?)
        }
        "open a file to everybody" => {
            fs::set_permissions(target, fs::Permissions::from_mode(0o600))
        }
        "give a file away" => std::os::unix::fs::chown(target, None, None),
        "change a file's times" => {
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let now = rustix::fs::Timestamps { last_access: now, last_modification: now };
            Ok(rustix::fs::utimensat(rustix::fs::CWD, target, &now, rustix::fs::AtFlags::empty())?)
        }
        "hang something on a file" => Ok(rustix::fs::setxattr(
            target,
            "user.pg_caption",
            b"x",
            rustix::fs::XattrFlags::empty(),
        )?),
        other => Err(io::Error::other(other.to_owned())),
    }
}
