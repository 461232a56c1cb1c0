//! A models directory without room: `model pull` says so, shows nothing half-done, and goes on
//! where it stopped once there is room.
//!
//! (The server itself writes no file of a model: what it prepares when it loads one stays in
//! memory.)

mod harness;
#[path = "../../hub/tests/hub/server.rs"]
mod server;

use harness::parity;
use server::Hub;
use std::process::Command;

#[test]
fn a_pull_onto_a_full_disk_says_so_and_goes_on_once_there_is_room() {
    let (hub, dir) = (
        Hub::of_folder("owner/vit-gpt2", &parity().join("vit-gpt2")),
        tempfile::tempdir().unwrap(),
    );
    // A file system of 400 kB that this script alone sees, and that goes with it.
    let script = r#"
        mount -t tmpfs -o size=400k none "$MODELS" || exit 77
        "$ENGINE" model pull owner/vit-gpt2 --models "$MODELS" && exit 1
        "$ENGINE" model list --models "$MODELS"
        mount -o remount,size=8m "$MODELS"
        "$ENGINE" model pull owner/vit-gpt2 --models "$MODELS" && "$ENGINE" model list --models "$MODELS"
    "#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("MODELS", dir.path())
        .env("ENGINE", env!("CARGO_BIN_EXE_pg_caption_engine"))
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", "/nonexistent")
        .env_remove("HF_TOKEN")
        .output();
    let Ok(output) = output else { return println!("skipped: there is no unshare here") };
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Not as root, or (in a bare folder that one entered with chroot) below a root that is no mount
    // of its own.
    if output.status.code() == Some(77) || err.starts_with("unshare:") {
        return println!("skipped: nothing can be mounted apart here: {err}");
    }
    assert!(output.status.success(), "{:?} out: {out} err: {err}", output.status);
    assert!(err.contains("not enough room") && err.contains(dir.path().to_str().unwrap()), "{err}");
    assert!(out.starts_with("no model in"), "nothing half-done is shown: {out}");
    assert!(
        out.contains("was installed")
            && out.ends_with("decoder_model_merged: fp32\n  encoder_model: fp32\n"),
        "{out}"
    );
}
