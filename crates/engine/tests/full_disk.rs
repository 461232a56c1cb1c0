//! A full disk below the models directory: `model pull` reports it, leaves no incomplete model, and
//! resumes once there is room.
//!
//! (The server itself writes no file of a model.)

mod harness;
#[path = "../../hub/tests/hub/server.rs"]
mod server;

use harness::parity;
use server::Hub;
use std::process::Command;

#[test]
fn a_pull_onto_a_full_disk_can_be_resumed() {
    let (hub, dir) = (
        Hub::of_folder("owner/vit-gpt2", &parity().join("vit-gpt2")),
        tempfile::tempdir().unwrap(),
    );
    // A file system of 400 kB in the script's own mount namespace.
    let script = r#"
        mount -t tmpfs -o size=400k none "$MODELS" || exit 77
        "$ENGINE" model pull owner/vit-gpt2 --models "$MODELS" && exit 1
        "$ENGINE" model list --models "$MODELS"
        mount -o remount,size=8m "$MODELS"
        "$ENGINE" model pull owner/vit-gpt2 --models "$MODELS" || exit 1
        "$ENGINE" model list --models "$MODELS"
    "#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("MODELS", dir.path())
        .env("ENGINE", env!("CARGO_BIN_EXE_pg_caption_engine"))
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", "/nonexistent")
        .env_remove("HF_TOKEN")
        .output();
    let Ok(output) = output else { return println!("skipped: unshare is not installed") };
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Not as root, or below a root that is not a mount point (in a chroot).
    if output.status.code() == Some(77) || err.starts_with("unshare:") {
        return println!("skipped: no mount namespace: {err}");
    }
    assert!(output.status.success(), "{:?} out: {out} err: {err}", output.status);
    assert!(
        err.contains("not enough space") && err.contains(dir.path().to_str().unwrap()),
        "{err}"
    );
    assert!(out.starts_with("no model in"), "no incomplete model is shown: {out}");
    assert!(
        out.contains("was installed")
            && out.ends_with("decoder_model_merged: fp32\n  encoder_model: fp32\n"),
        "{out}"
    );
}
