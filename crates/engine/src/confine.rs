//! Confinement of the server: what the process may do after it has read its configuration.
//!
//! Called by `serve` before any thread exists and before any library is loaded, because Landlock
//! binds only the calling thread and its descendants. Never fails: an older kernel enforces less,
//! and the status lists what is in force.

use crate::resolver_files;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use pg_caption_models::{CascadeSettings, FolderGuard, is_cascade};
use pg_caption_wire::EngineConfig;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use std::path::{Path, PathBuf};

/// The newest Landlock version used here; older kernels enforce what they support of it.
const LANDLOCK_VERSION: ABI = ABI::V6;

/// System files read by the resolver (besides [`resolver_files::FILES`]), TLS and the libraries; of
/// `/proc` and `/sys`, those about the machine and this process. Not all of `/etc`, which may hold
/// private keys, passwords and server settings.
const SYSTEM_FILES: &[&str] = &[
    "/etc/resolvconf",
    "/etc/hostname",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
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

/// Applies every confinement that the kernel supports and returns the names of those in force.
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
        Ok(Some(name)) => in_force.push(name),
        Ok(None) => {}
        Err(e) => crate::log::line(format_args!("warning: Landlock is not in force: {e}")),
    }
    match forbid_system_calls() {
        Ok(()) => in_force.push("seccomp".into()),
        Err(e) => {
            crate::log::line(format_args!("warning: the seccomp filter is not in force: {e}"))
        }
    }
    in_force
}

/// Before a secret is read: the process leaves no core file, and other processes of its user cannot
/// read its memory.
pub fn leave_no_core() {
    // Resource limits do not hold for core files that the kernel passes to a program. It cannot
    // fail with this argument.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Refuses with `EACCES` the system calls that the engine never makes and an attacker would:
/// * sockets other than IP and netlink (used by the resolver), so the server's Unix socket cannot
///   be connected to;
/// * execution of programs;
/// * access to other processes of the same user: memory, descriptors, limits, signals;
/// * permissions, owners, times and attributes of files, which Landlock does not cover;
/// * System V shared memory, which the server uses;
/// * interfaces with a large attack surface in the kernel.
fn forbid_system_calls() -> Result<(), seccompiler::Error> {
    use libc::{AF_INET, AF_INET6, AF_NETLINK};
    use seccompiler::{
        BpfProgram, SeccompAction,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::{Eq, MaskedEq, Ne},
        SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    };
    /// Refused with any arguments.
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
        libc::SYS_setpriority,
        libc::SYS_ioprio_set,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
        libc::SYS_kcmp,
        libc::SYS_process_madvise,
        libc::SYS_process_mrelease,
        libc::SYS_pidfd_open,
        libc::SYS_shmget,
        libc::SYS_shmat,
        libc::SYS_shmctl,
        libc::SYS_semget,
        libc::SYS_semop,
        libc::SYS_semtimedop,
        libc::SYS_semctl,
        libc::SYS_msgget,
        libc::SYS_msgsnd,
        libc::SYS_msgrcv,
        libc::SYS_msgctl,
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
        // Metadata of files, which Landlock does not cover.
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchmodat2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        SETXATTRAT,
        REMOVEXATTRAT,
        FILE_SETATTR,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_utime,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_utimes,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_futimesat,
    ];
    let other_than = |allowed: &[u64]| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let unlike = allowed
            .iter()
            .map(|value| SeccompCondition::new(0, Dword, Ne, *value))
            .collect::<Result<_, _>>()?;
        Ok(vec![SeccompRule::new(unlike)?])
    };
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        NEVER.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(
        libc::SYS_socket,
        other_than(&[AF_INET as u64, AF_INET6 as u64, AF_NETLINK as u64])?,
    );
    // A signal to itself is how a process aborts.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, other_than(&[own])?);
    rules.insert(libc::SYS_rt_tgsigqueueinfo, other_than(&[own])?);
    // 0 also means the process itself.
    rules.insert(libc::SYS_sched_setaffinity, other_than(&[0, own])?);
    // A limit on CPU time would end the server.
    rules.insert(libc::SYS_prlimit64, other_than(&[0, own])?);
    let is = |argument: u8, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, Dword, Eq, value)?])
    };
    // Signals to other processes when a descriptor is ready.
    rules.insert(
        libc::SYS_fcntl,
        [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX]
            .map(|command| is(1, command as u64))
            .into_iter()
            .collect::<Result<_, _>>()?,
    );
    // In its own user namespace the process would be root.
    let new_user = libc::CLONE_NEWUSER as u64;
    rules.insert(
        libc::SYS_clone,
        vec![SeccompRule::new(vec![SeccompCondition::new(
            0,
            Dword,
            MaskedEq(new_user),
            new_user,
        )?])?],
    );
    let filter = |rules, errno: i32| -> Result<BpfProgram, seccompiler::Error> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        Ok(SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(errno as u32),
            arch,
        )?
        .try_into()?)
    };
    // The flags of clone3 are in memory, which a filter cannot read. ENOSYS, as on a kernel without
    // it: threads are then made with clone.
    let no_clone3 =
        filter(std::iter::once((libc::SYS_clone3, Vec::new())).collect(), libc::ENOSYS)?;
    seccompiler::apply_filter(&no_clone3)?;
    #[cfg(target_arch = "x86_64")]
    seccompiler::apply_filter(&no_x32())?;
    seccompiler::apply_filter(&filter(rules, libc::EACCES)?)
}

/// System calls that the libc crate does not name yet; the numbers are the same on every
/// architecture (include/uapi/asm-generic/unistd.h).
const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;
const FILE_SETATTR: i64 = 469;

/// `fcntl` commands of Linux that the libc crate does not name (include/uapi/asm-generic/fcntl.h).
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

/// Refuses the system calls of the x32 ABI, which some kernels offer under other numbers
/// (`__X32_SYSCALL_BIT`, seccomp(2)): a filter by number would not match them.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> seccompiler::BpfProgram {
    use seccompiler::sock_filter;
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    vec![
        // `nr` is the first field of `struct seccomp_data`.
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: 0x4000_0000 },
        sock_filter {
            code: RETURN,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | libc::EACCES as u32,
        },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ]
}

/// A few hundred connections and fetches need more than the usual 1024 descriptors.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(4096).min(4096);
    if limit.current.is_some_and(|now| now < wanted) {
        // If refused, fewer connections are possible at a time.
        let _ =
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// Everything that the engine may read: system files, the model and the library with the targets of
/// their symbolic links (a hub cache consists of links), and the certificate store named by the
/// environment.
fn readable(config: &EngineConfig) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        SYSTEM_FILES.iter().chain(&resolver_files::FILES).map(PathBuf::from).collect();
    paths.extend(
        ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().filter_map(std::env::var_os).map(PathBuf::from),
    );
    for model in std::iter::once(config.model.clone()).chain(cascade(config)) {
        paths.extend(link_targets(&model));
        paths.extend(link_targets(&model.join("onnx")));
        paths.push(model);
    }
    if let Some(folder) = config.onnxruntime.parent() {
        paths.push(folder.into());
        paths.extend(link_targets(folder));
    }
    paths
}

/// The folders of both models of a cascade; what cannot be read here is reported when it is loaded.
fn cascade(config: &EngineConfig) -> Vec<PathBuf> {
    if !is_cascade(&config.model) {
        return Vec::new();
    }
    let guard = FolderGuard::new(&config.model, &config.models_directory, None);
    let settings = guard.and_then(|guard| CascadeSettings::of_folder(&guard));
    let folders = settings.and_then(|settings| settings.folders(&config.models_directory));
    folders.map(Vec::from).unwrap_or_default()
}

fn link_targets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_symlink()))
        .filter_map(|e| e.path().canonicalize().ok())
        .collect()
}

/// Read-only access to `paths` and nothing else; no listening on TCP; no signals to other processes
/// and no abstract sockets of theirs.
fn landlock(paths: &[PathBuf]) -> Result<Option<String>, landlock::RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK_VERSION))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(LANDLOCK_VERSION))?
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
    fn targets_of_links_are_readable() {
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
