//! Promises of a pull, tested against a hub on loopback.

mod server;

use pg_caption_hub::{
    HubError, HubLocation, PullProgress, PullReport, PullRequest, RetryLimits, pull,
};
use pg_caption_models::{GraphSelection, InstalledModel, scan};
use server::{COMMIT, Fault, Hub};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const REPO: &str = "owner/Captioner-base";

/// Files of a model; the graphs are arbitrary bytes, larger than one read.
fn model(graphs: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::from([
        ("config.json".to_string(), br#"{"model_type": "florence2"}"#.to_vec()),
        ("generation_config.json".into(), b"{}".to_vec()),
        ("preprocessor_config.json".into(), b"{}".to_vec()),
        ("tokenizer.json".into(), b"{}".to_vec()),
        ("README.md".into(), b"not needed".to_vec()),
        ("model.safetensors".into(), vec![0; 1000]),
        ("onnx/../../evil.onnx".into(), b"not needed either".to_vec()),
    ]);
    for (at, graph) in graphs.iter().enumerate() {
        let bytes = (0..600_000u32 + at as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        files.insert(format!("onnx/{graph}"), bytes);
    }
    files
}

const WHOLE: [&str; 4] =
    ["vision_encoder.onnx", "embed_tokens.onnx", "encoder_model.onnx", "decoder_model_merged.onnx"];

fn hub() -> Hub {
    Hub::start(REPO, model(&WHOLE))
}

fn request(models: &Path) -> PullRequest {
    PullRequest {
        repo: REPO.into(),
        revision: "main".into(),
        selection: GraphSelection::default(),
        models: models.into(),
        name: None,
        replace: false,
        retries: RetryLimits { attempts: 4, pause: Duration::ZERO },
    }
}

fn pulled(hub: &Hub, request: &PullRequest) -> Result<PullReport, HubError> {
    pull(&HubLocation::new(Some(hub.endpoint()), None).unwrap(), request, &mut ())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in ["", "onnx/"] {
        for entry in std::fs::read_dir(folder.join(prefix))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().is_file())
        {
            names.push(format!("{prefix}{}", entry.file_name().to_str().unwrap()));
        }
    }
    names.sort();
    names
}

/// No scan finds a model.
fn no_model_is_visible(models: &Path) {
    assert!(scan(models).unwrap_or_default().is_empty());
    assert!(!models.join("Captioner-base").exists());
}

#[test]
fn only_needed_files_are_downloaded() {
    let mut graphs = WHOLE.to_vec();
    graphs.extend([
        "decoder_model_merged.onnx_data",
        "decoder_model.onnx",
        "vision_encoder_fp16.onnx",
        "vision_encoder_fp16.onnx_data",
    ]);
    let (hub, dir) = (Hub::start(REPO, model(&graphs)), tempfile::tempdir().unwrap());
    let done = pulled(&hub, &request(dir.path())).unwrap();
    assert_eq!(done.folder, dir.path().join("Captioner-base"));
    assert_eq!(
        (done.commit.as_str(), done.model_type.as_str(), done.unchanged),
        (COMMIT, "florence2", false)
    );
    let expected = [
        ".pull.json",
        "config.json",
        "generation_config.json",
        "onnx/decoder_model_merged.onnx",
        "onnx/decoder_model_merged.onnx_data",
        "onnx/embed_tokens.onnx",
        "onnx/encoder_model.onnx",
        "onnx/vision_encoder.onnx",
        "preprocessor_config.json",
        "tokenizer.json",
    ];
    assert_eq!(names(&done.folder), expected);
    for file in &expected[1..] {
        assert!(std::fs::read(done.folder.join(file)).unwrap() == hub.file(file), "{file}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no other files remain");
    assert_eq!(InstalledModel::at(&done.folder, dir.path()).problem, None);
}

/// A graph (ONNX protobuf: model.graph.initializer.external_data) with its weights in these files.
fn graph_with_weights_in(files: &[&str]) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    };
    let tensor = |file: &&str| {
        field(5, &field(13, &[field(1, b"location"), field(2, file.as_bytes())].concat()))
    };
    field(7, &files.iter().map(tensor).collect::<Vec<_>>().concat())
}

#[test]
fn weights_keep_the_name_that_their_graph_uses() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.put(
        "onnx/encoder_model.onnx",
        &graph_with_weights_in(&[
            "weights.bin",
            "./parts/second.bin",
            "../config.json",
            "/etc/passwd",
        ]),
    );
    hub.put("onnx/weights.bin", &[7; 400_000]);
    hub.put("onnx/parts/second.bin", &[8; 300_000]);
    hub.put("onnx/other.bin", &[9; 10]);
    hub.fail(
        "onnx/weights.bin",
        &[Fault::Drop(100_000), Fault::Drop(0), Fault::Drop(0), Fault::Drop(0)],
    );
    assert!(matches!(pulled(&hub, &request(dir.path())), Err(HubError::Network { .. })));
    no_model_is_visible(dir.path());
    // Files of an attempt with another precision are not kept.
    std::fs::write(dir.path().join(".Captioner-base.partial/onnx/other.bin"), [9; 10]).unwrap();
    let before = hub.fetched().len();
    let done = pulled(&hub, &request(dir.path())).unwrap();
    let again = hub.fetched().split_off(before);
    // In the order of their locations, so the other file was complete.
    assert_eq!(again, [("onnx/weights.bin".to_string(), Some("bytes=100000-".to_string()))]);
    assert_eq!(std::fs::read(done.folder.join("onnx/weights.bin")).unwrap(), [7; 400_000]);
    assert_eq!(std::fs::read(done.folder.join("onnx/parts/second.bin")).unwrap(), [8; 300_000]);
    assert!(!done.folder.join("onnx/other.bin").exists());
    assert_eq!(
        done.bytes,
        done.choice.files().map(|file| hub.file(file).len() as u64).sum::<u64>() + 700_000
    );
    let again = pulled(&hub, &request(dir.path())).unwrap();
    assert_eq!((again.unchanged, again.bytes), (true, done.bytes));
}

#[test]
fn unpublished_weights_are_named() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.put("onnx/encoder_model.onnx", &graph_with_weights_in(&["weights.bin"]));
    let error = pulled(&hub, &request(dir.path())).unwrap_err();
    assert!(
        matches!(error, HubError::Unusable { .. })
            && error.to_string().contains("onnx/weights.bin"),
        "{error}"
    );
    no_model_is_visible(dir.path());
}

#[test]
fn a_broken_connection_is_resumed() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(
        graph,
        &[Fault::Drop(300_000), Fault::Drop(0), Fault::Status(503, None), Fault::Drop(100_000)],
    );
    let done = pulled(&hub, &request(dir.path())).unwrap();
    assert!(std::fs::read(done.folder.join(graph)).unwrap() == hub.file(graph));
    let ranges: Vec<_> = hub
        .fetched()
        .into_iter()
        .filter(|(file, _)| file == graph)
        .map(|(_, range)| range.unwrap_or_default())
        .collect();
    assert_eq!(ranges, ["", "bytes=300000-", "bytes=300000-", "bytes=300000-", "bytes=400000-"]);
}

#[test]
fn an_abandoned_pull_resumes_with_its_files() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(graph, &[Fault::Drop(300_000), Fault::Drop(0), Fault::Drop(0), Fault::Drop(0)]);
    assert!(matches!(pulled(&hub, &request(dir.path())), Err(HubError::Network { .. })));
    no_model_is_visible(dir.path());
    let before = hub.fetched().len();
    pulled(&hub, &request(dir.path())).unwrap();
    let again = hub.fetched().split_off(before);
    assert_eq!(
        again,
        [
            (graph.to_string(), Some("bytes=300000-".to_string())),
            ("onnx/decoder_model_merged.onnx".into(), None)
        ]
    );
}

#[test]
fn bytes_of_another_version_are_fetched_again() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(graph, &[Fault::Drop(300_000), Fault::Status(404, Some("EntryNotFound"))]);
    assert!(matches!(
        pulled(&hub, &request(dir.path())),
        Err(HubError::Status { status: 404, .. })
    ));
    let mut other = hub.file(graph);
    other[5] ^= 1;
    hub.put(graph, &other);
    let done = pulled(&hub, &request(dir.path())).unwrap();
    assert!(std::fs::read(done.folder.join(graph)).unwrap() == other);
}

#[test]
fn a_server_without_ranges_gives_correct_files() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(graph, &[Fault::Drop(300_000), Fault::NoRange]);
    let done = pulled(&hub, &request(dir.path())).unwrap();
    assert!(std::fs::read(done.folder.join(graph)).unwrap() == hub.file(graph));
}

#[test]
fn wrong_bytes_are_never_installed() {
    for (fault, file) in [
        (Fault::Wrong, "onnx/encoder_model.onnx"),
        (Fault::Long, "onnx/encoder_model.onnx"),
        (Fault::Wrong, "tokenizer.json"),
    ] {
        let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
        hub.fail(file, std::slice::from_ref(&fault));
        let error = pulled(&hub, &request(dir.path())).unwrap_err();
        assert!(matches!(error, HubError::Checksum { .. } | HubError::Size { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");
        no_model_is_visible(dir.path());
        pulled(&hub, &request(dir.path())).unwrap();
    }
}

#[test]
fn names_with_path_traversal_are_refused() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.put("onnx/encoder_model.onnx_data/../../../evil", b"evil");
    hub.put("../evil", b"evil");
    pulled(&hub, &request(&dir.path().join("deep/models"))).unwrap();
    assert!(hub.seen().iter().all(|seen| !seen.path.contains("evil")));
    for (repo, name) in [
        ("../x", None),
        ("a/b/c", None),
        ("", None),
        ("a/b?c", None),
        (REPO, Some("../up")),
        (REPO, Some(".hidden")),
    ] {
        let request =
            PullRequest { repo: repo.into(), name: name.map(Into::into), ..request(dir.path()) };
        assert!(matches!(pulled(&hub, &request), Err(HubError::Name(_))), "{repo} {name:?}");
    }
}

#[test]
fn missing_and_gated_models_are_reported_with_hints() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let missing = PullRequest { repo: "owner/nothing".into(), ..request(dir.path()) };
    let error = pulled(&hub, &missing).unwrap_err().to_string();
    assert!(error.contains("owner/nothing") && error.contains("HF_TOKEN"), "{error}");
    let error =
        pulled(&hub, &PullRequest { revision: "v7".into(), ..request(dir.path()) }).unwrap_err();
    assert!(
        matches!(error, HubError::NoRevision { .. }) && error.to_string().contains("v7"),
        "{error}"
    );
    hub.gate("hf_secret");
    let error = pulled(&hub, &request(dir.path())).unwrap_err();
    assert!(
        matches!(error, HubError::Gated { token: false, .. })
            && error.to_string().contains("HF_TOKEN"),
        "{error}"
    );
    let wrong = HubLocation::new(Some(hub.endpoint()), Some("hf_wrong".into())).unwrap();
    let error = pull(&wrong, &request(dir.path()), &mut ()).unwrap_err();
    assert!(matches!(error, HubError::Gated { token: true, .. }), "{error}");
    assert!(!error.to_string().contains("hf_wrong") && !format!("{wrong:?}").contains("hf_wrong"));
    no_model_is_visible(dir.path());
}

#[test]
fn the_token_is_sent_to_the_hub_only() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.gate("hf_secret");
    let hub_location = HubLocation::new(Some(hub.endpoint()), Some("hf_secret".into())).unwrap();
    pull(&hub_location, &request(dir.path()), &mut ()).unwrap();
    let (elsewhere, at_the_hub): (Vec<_>, Vec<_>) =
        hub.seen().into_iter().partition(|seen| seen.host.starts_with("localhost"));
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|seen| seen.authorization.is_none()));
    assert!(
        at_the_hub.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret"))
    );
}

#[test]
fn an_unusable_model_is_refused_before_large_files() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&Hub), dtypes: &[&str]| {
        let hub = hub();
        change(&hub);
        let request = PullRequest {
            selection: GraphSelection::parse(dtypes, false).unwrap(),
            ..request(dir.path())
        };
        let error = pulled(&hub, &request).unwrap_err().to_string();
        assert_eq!(hub.fetched(), []);
        no_model_is_visible(dir.path());
        error
    };
    let error = refused(&|hub| hub.put("config.json", br#"{"model_type": "poet"}"#), &[]);
    assert!(error.contains("poet") && error.contains("vision-encoder-decoder"), "{error}");
    let error = refused(&|hub| hub.put("config.json", b"<html>"), &[]);
    assert!(error.contains("config.json"), "{error}");
    let error = refused(&|hub| hub.put("onnx/vision_encoder_q4.onnx", b"x"), &["q4"]);
    assert!(
        error.contains("embed_tokens") && error.contains("q4") && error.contains("fp32"),
        "{error}"
    );
    let error = refused(
        &|hub| hub.put("config.json", br#"{"model_type": "idefics3"}"#),
        &["encoder_model=q4"],
    );
    assert!(error.contains("decoder_model_merged"), "{error}");
    let hub = Hub::start(REPO, model(&[]));
    let error = pulled(&hub, &request(dir.path())).unwrap_err().to_string();
    assert!(error.contains("vision_encoder") && error.contains("ONNX"), "{error}");
}

#[test]
fn a_model_larger_than_the_disk_is_refused() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.announce_size("onnx/encoder_model.onnx", 1 << 60);
    let error = pulled(&hub, &request(dir.path())).unwrap_err();
    assert!(matches!(error, HubError::NoSpace { needed, .. } if needed > 1 << 59), "{error}");
    assert_eq!(hub.fetched(), []);
    no_model_is_visible(dir.path());
}

#[test]
fn an_unreachable_hub_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub_location = HubLocation::new(Some(format!("http://{closed}/")), None).unwrap();
    let error = pull(&hub_location, &request(dir.path()), &mut ()).unwrap_err();
    assert!(
        matches!(error, HubError::Network { .. }) && error.to_string().contains("127.0.0.1"),
        "{error}"
    );
    for endpoint in ["nonsense", "ftp://example.org"] {
        assert!(
            matches!(HubLocation::new(Some(endpoint.into()), None), Err(HubError::Setting { .. })),
            "{endpoint}"
        );
    }
}

#[test]
fn a_second_pull_changes_nothing_without_replace() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    pulled(&hub, &request(dir.path())).unwrap();
    let before = hub.fetched().len();
    assert!(pulled(&hub, &request(dir.path())).unwrap().unchanged);
    assert_eq!(hub.fetched().len(), before);
    hub.put("onnx/embed_tokens_q4.onnx", b"four bits");
    let other = PullRequest {
        selection: GraphSelection::parse(&["embed_tokens=q4"], false).unwrap(),
        ..request(dir.path())
    };
    let error = pulled(&hub, &other).unwrap_err();
    assert!(
        matches!(error, HubError::Exists { .. }) && error.to_string().contains(REPO),
        "{error}"
    );
    let done = pulled(&hub, &PullRequest { replace: true, ..other.clone() }).unwrap();
    assert_eq!(std::fs::read(done.folder.join("onnx/embed_tokens_q4.onnx")).unwrap(), b"four bits");
    assert!(!done.folder.join("onnx/embed_tokens.onnx").exists());
    let second = pulled(&hub, &PullRequest { name: Some("second".into()), ..other }).unwrap();
    assert_eq!(second.folder, dir.path().join("second"));
    let found: Vec<_> = scan(dir.path()).unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(found, ["Captioner-base", "second"]);
}

#[test]
fn two_pulls_of_one_model_exclude_each_other() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    /// Starts a second pull during the first.
    struct Second<'a>(&'a Hub, &'a Path, Option<HubError>);
    impl PullProgress for Second<'_> {
        fn at(&mut self, _: &str, done: u64, total: u64) {
            assert!(done <= total);
            if self.2.is_none() {
                self.2 = pulled(self.0, &request(self.1)).err();
            }
        }
    }
    let mut second = Second(&hub, dir.path(), None);
    pull(&HubLocation::new(Some(hub.endpoint()), None).unwrap(), &request(dir.path()), &mut second)
        .unwrap();
    assert!(matches!(second.2, Some(HubError::Busy { .. })), "{:?}", second.2);
}

#[test]
fn progress_ends_at_the_total() {
    #[derive(Default)]
    struct Last(u64, u64);
    impl PullProgress for Last {
        fn at(&mut self, _: &str, done: u64, total: u64) {
            (self.0, self.1) = (done, total);
        }
    }
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let mut last = Last::default();
    let done = pull(
        &HubLocation::new(Some(hub.endpoint()), None).unwrap(),
        &request(dir.path()),
        &mut last,
    )
    .unwrap();
    assert_eq!((last.0, last.1), (done.bytes, done.bytes));
    assert_eq!(
        done.bytes,
        done.choice.files().map(|file| hub.file(file).len() as u64).sum::<u64>()
    );
}
