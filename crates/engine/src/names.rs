//! Whether this process may still read the files by which names are looked up.
//!
//! Landlock grants access to a file, not to a name: when the network changes, `resolv.conf` is
//! usually replaced by another file, and no rule holds for that one. All of `/etc` would hold, with
//! the private keys and settings that lie there. So an engine that finds such a file closed asks
//! for a successor, which finds the new one.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What the C library reads for a look-up (resolver(5), nsswitch.conf(5), hosts(5), gai.conf(5),
/// host.conf(5)).
pub const FILES: [&str; 5] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];

/// The files that were open to this process when it began.
pub struct Names(Vec<PathBuf>);

impl Names {
    /// To be called once the confinement is in force: what is closed even then stays so for a
    /// successor, too.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a str>) -> Names {
        Names(files.into_iter().map(PathBuf::from).filter(|file| !is_closed(file)).collect())
    }

    /// One of them has been replaced by one that is closed.
    pub fn are_closed(&self) -> bool {
        self.0.iter().any(|file| is_closed(file))
    }
}

fn is_closed(file: &Path) -> bool {
    File::open(file).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use landlock::{
        ABI, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetStatus,
    };
    use std::fs::{rename, write};
    use std::sync::mpsc::channel;

    #[test]
    fn a_file_that_is_replaced_or_appears_is_closed_and_one_that_is_rewritten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["rewritten", "replaced", "new"].map(|name| dir.path().join(name));
        let [rewritten, replaced, new] = &files;
        write(rewritten, "old").unwrap();
        write(replaced, "old").unwrap();
        let (ready, is_ready) = channel();
        let (go_on, goes_on) = channel::<()>();
        let confined = std::thread::spawn({
            let files = files.clone();
            move || {
                // Binds this thread alone.
                let read = AccessFs::from_read(ABI::V1);
                let rules = Ruleset::default()
                    .set_compatibility(CompatLevel::BestEffort)
                    .handle_access(read)
                    .unwrap()
                    .create()
                    .unwrap();
                let status = rules
                    .add_rules(landlock::path_beneath_rules(&files[..2], read))
                    .unwrap()
                    .restrict_self()
                    .unwrap();
                let names = files.each_ref().map(|file| Names::new(file.to_str()));
                assert!(names.iter().all(|names| !names.are_closed()));
                ready.send(status.ruleset).unwrap();
                goes_on.recv().unwrap();
                names.map(|names| names.are_closed())
            }
        });
        let ruleset = is_ready.recv().unwrap();
        write(rewritten, "new").unwrap();
        for file in [replaced, new] {
            let other = dir.path().join("other");
            write(&other, "new").unwrap();
            rename(other, file).unwrap();
        }
        go_on.send(()).unwrap();
        let closed = confined.join().unwrap();
        match ruleset {
            RulesetStatus::NotEnforced => println!("skipped: this kernel has no Landlock"),
            _ => assert_eq!(closed, [false, true, true]),
        }
    }
}
