//! Runs a command as a process that adopts orphaned descendants, like PID 1 of a container. Started
//! by `TestCluster::subreaper`.

use std::os::unix::process::CommandExt;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("usage: as_subreaper PROGRAM [ARGUMENT…]");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("prctl");
    // The attribute survives exec.
    let error = std::process::Command::new(program).args(arguments).exec();
    panic!("exec: {error}");
}
