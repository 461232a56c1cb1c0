//! Whether this process may still read the files of the name resolver.
//!
//! Landlock grants access to a file, not to a name. When the network changes, `resolv.conf` is
//! usually replaced by another file, which no rule covers. A rule for all of `/etc` would cover it,
//! but also private keys and server settings. So an engine that finds such a file unreadable asks
//! for a successor, which can read the new one.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Files that the C library reads for a look-up (resolver(5), nsswitch.conf(5), hosts(5),
/// gai.conf(5), host.conf(5)).
pub const FILES: [&str; 5] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];

/// The files that this process could read when it started.
pub struct ResolverFiles(Vec<PathBuf>);

impl ResolverFiles {
    /// Must be called once the confinement is in force: files that are unreadable even then are
    /// unreadable for a successor, too.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a str>) -> ResolverFiles {
        let files = files.into_iter().map(PathBuf::from);
        ResolverFiles(files.filter(|file| !is_denied(file)).collect())
    }

    /// Whether one of them was replaced by a file that this process may not read.
    pub fn are_replaced(&self) -> bool {
        self.0.iter().any(|file| is_denied(file))
    }
}

fn is_denied(file: &Path) -> bool {
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
    fn replaced_and_new_files_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["rewritten", "replaced", "new"].map(|name| dir.path().join(name));
        let [rewritten, replaced, new] = &files;
        write(rewritten, "old").unwrap();
        write(replaced, "old").unwrap();
        let (ready, is_ready) = channel();
        let (resume, resumed) = channel::<()>();
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
                let watched = files.each_ref().map(|file| ResolverFiles::new(file.to_str()));
                assert!(watched.iter().all(|files| !files.are_replaced()));
                ready.send(status.ruleset).unwrap();
                resumed.recv().unwrap();
                watched.map(|files| files.are_replaced())
            }
        });
        let ruleset = is_ready.recv().unwrap();
        write(rewritten, "new").unwrap();
        for file in [replaced, new] {
            let other = dir.path().join("other");
            write(&other, "new").unwrap();
            rename(other, file).unwrap();
        }
        resume.send(()).unwrap();
        let noticed = confined.join().unwrap();
        match ruleset {
            RulesetStatus::NotEnforced => println!("skipped: this kernel has no Landlock"),
            _ => assert_eq!(noticed, [false, true, true]),
        }
    }
}
