//! Runs a command as a process that adopts the orphans among its descendants, as PID 1 of a
//! container does.

use std::os::unix::process::CommandExt;

fn main() {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().expect("usage: as_subreaper PROGRAM [ARGUMENT…]");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("prctl");
    // Kept across exec.
    let error = std::process::Command::new(program).args(words).exec();
    panic!("exec: {error}");
}
