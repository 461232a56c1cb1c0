//! Confinement of the server: what the process may still do after it has read its configuration.
//!
//! Called by `serve` before any thread exists and before any library is loaded, because Landlock binds the calling thread and
//! its descendants only. Never fails: where the kernel has less, less is in force, and the status says what.

use landlock::{ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope};
use pg_caption_wire::EngineConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};

/// The newest Landlock this was written for; older kernels enforce what they know of it.
const NEWEST: ABI = ABI::V6;

/// Files of the system that resolving names, TLS and the libraries read; of `/proc` and `/sys` what concerns the machine and this process.
const SYSTEM: &[&str] = &[
    // All of it: resolv.conf is replaced by renaming when the network changes, and a rule for the file would not hold for the next one.
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/dev/null",
    "/dev/urandom",
];

/// Applies every confinement the kernel has and returns the names of those in force.
pub fn confine(config: &EngineConfig) -> Vec<String> {
    let mut in_force = Vec::new();
    if setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_ok() {
        in_force.push("no core files".to_string());
    }
    raise_open_files();
    if rustix::thread::set_no_new_privs(true).is_ok() {
        in_force.push("no_new_privs".into());
    }
    match landlock(&readable(config)) {
        Ok(Some(words)) => in_force.push(words),
        Ok(None) => {}
        Err(e) => crate::log::line(format_args!("warning: Landlock is not in force: {e}")),
    }
    match forbid_system_calls() {
        Ok(()) => in_force.push("seccomp".into()),
        Err(e) => crate::log::line(format_args!("warning: the seccomp filter is not in force: {e}")),
    }
    in_force
}

/// Refuses, with `EACCES`, what the engine never does and whoever took it over would: sockets other than IP and the kernel's own (name look-ups ask it for
/// addresses), so that the server's Unix socket cannot be connected to; programs; other processes' memory, descriptors and lives; doors to the kernel.
fn forbid_system_calls() -> Result<(), seccompiler::Error> {
    use libc::{AF_INET, AF_INET6, AF_NETLINK};
    use seccompiler::{SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
    /// Refused whatever their arguments.
    const NEVER: &[i64] = &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_io_uring_setup,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
    ];
    let other_than = |allowed: &[u64]| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let unlike = allowed.iter().map(|value| SeccompCondition::new(0, Dword, Ne, *value)).collect::<Result<_, _>>()?;
        Ok(vec![SeccompRule::new(unlike)?])
    };
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, other_than(&[AF_INET as u64, AF_INET6 as u64, AF_NETLINK as u64])?);
    // A signal to itself is how a process aborts.
    rules.insert(libc::SYS_tgkill, other_than(&[u64::from(std::process::id())])?);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES as u32), arch)?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

/// A few hundred connections and fetches need more than the usual 1024 descriptors.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(4096).min(4096);
    if limit.current.is_some_and(|now| now < wanted) {
        // Refused: fewer connections at once, nothing worse.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// Everything the engine may read: the system's parts, the model and the library (with what their symbolic links lead to, as a
/// hub cache is made of them), and the certificate store the environment names.
fn readable(config: &EngineConfig) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    paths.extend(["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().filter_map(std::env::var_os).map(PathBuf::from));
    paths.push(config.model.clone());
    paths.extend(link_targets(&config.model));
    paths.extend(link_targets(&config.model.join("onnx")));
    if let Some(folder) = config.onnxruntime.parent() {
        paths.push(folder.into());
        paths.extend(link_targets(folder));
    }
    paths
}

fn link_targets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_symlink())).filter_map(|e| e.path().canonicalize().ok()).collect()
}

/// Read-only access to `paths`, nothing else; no listening on TCP; no signals to and no abstract sockets of other processes.
fn landlock(paths: &[PathBuf]) -> Result<Option<String>, landlock::RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(landlock::path_beneath_rules(paths, read))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::NotEnforced => None,
        RulesetStatus::FullyEnforced => Some("landlock".into()),
        RulesetStatus::PartiallyEnforced => Some("landlock (in part)".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_of_a_hub_cache_s_links_are_readable() {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, model) = (dir.path().join("blobs"), dir.path().join("snapshot"));
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::create_dir_all(model.join("onnx")).unwrap();
        for (blob, link) in [("a", "config.json"), ("b", "onnx/encoder_model.onnx")] {
            std::fs::write(blobs.join(blob), "x").unwrap();
            std::os::unix::fs::symlink(blobs.join(blob), model.join(link)).unwrap();
        }
        let paths = readable(&EngineConfig { model, ..EngineConfig::default() });
        for blob in ["a", "b"] {
            assert!(paths.contains(&blobs.join(blob).canonicalize().unwrap()));
        }
    }
}
