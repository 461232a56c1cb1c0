//! Models in SQL: `caption.models()` lists the installed models, `caption.use_model()` chooses one.

use pg_caption_tests::{
    ModelsDirectory, StopMode, TestCluster, TestDatabase, demo_pictures, eventually, model,
    pictures, quote_literal,
};
use std::fs;

/// A demo picture as an SQL literal of type bytea.
pub(crate) fn picture() -> String {
    let mut files: Vec<_> = fs::read_dir(demo_pictures())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    files.sort();
    pictures::bytea_literal(&fs::read(&files[0]).unwrap())
}

/// The number of the server's engine processes.
pub(crate) fn engines(cluster: &TestCluster) -> usize {
    let engine = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.starts_with(b"pg_caption_engine"))
    };
    cluster.processes().into_iter().filter(engine).count()
}

/// Waits until a model serves.
fn serves(db: &TestDatabase<'_>, name: &str) {
    db.eventually(&format!(
        "(SELECT state = 'serving' FROM caption.models() WHERE name = '{name}')"
    ));
}

#[test]
fn models_lists_installed_and_serving() {
    let models = ModelsDirectory::of(&["first", "second", "strange", "half"]);
    models.edit("strange", "config.json", |config| config["model_type"] = "poet".into());
    fs::remove_file(models.folder("half").join("tokenizer.json")).unwrap();
    let cluster = models.cluster("first");
    let db = cluster.database();
    let mut session = db.session();
    let rows =
        session.rows("SELECT name, active, state, family FROM caption.models() ORDER BY name");
    let text = |s: &str| Some(s.to_string());
    let family = text("vision-encoder-decoder");
    assert_eq!(
        rows,
        [
            [text("first"), text("t"), text("serving"), family.clone()],
            [text("half"), text("f"), text("unusable"), family.clone()],
            [text("second"), text("f"), text("installed"), family],
            [text("strange"), text("f"), text("unusable"), text("poet")],
        ]
    );
    assert!(session.holds(
        "(SELECT problem LIKE '%tokenizer.json%' FROM caption.models() WHERE name = 'half')"
    ));
    assert!(
        session
            .holds("(SELECT problem LIKE '%poet%' FROM caption.models() WHERE name = 'strange')")
    );
    assert!(session.holds(
        "(SELECT length(digest) = 64 AND memory > 10000000 AND bytes > 0 FROM caption.models() \
         WHERE active)"
    ));
    assert!(session.holds(
        "(SELECT digest = (caption.engine_status()).digest FROM caption.models() WHERE active)"
    ));
    assert!(session.holds(
        "(SELECT bool_and(digest IS NULL AND memory IS NULL) FROM caption.models() \
         WHERE NOT active)"
    ));
    assert!(session.holds(
        "(SELECT graphs ->> 'encoder_model' = '[\"fp32\"]' FROM caption.models() WHERE active)"
    ));
    assert!(session.holds(&format!(
        "(SELECT path = '{}' FROM caption.models() WHERE name = 'second')",
        models.folder("second").display()
    )));
}

#[test]
fn models_needs_no_engine() {
    let models = ModelsDirectory::of(&["first", "second"]);
    let cluster = TestCluster::private(&[
        ("pg_caption.models_directory", models.directory().to_str().unwrap()),
        ("pg_caption.model", "first"),
        ("pg_caption.engine", "/nonexistent/engine"),
    ]);
    let db = cluster.database();
    assert_eq!(
        db.session().number(
            "SELECT count(*) FROM caption.models() WHERE state = 'installed' AND digest IS NULL"
        ),
        2
    );
}

#[test]
fn use_model_changes_the_serving_model() {
    let models = ModelsDirectory::of(&["first", "second"]);
    let cluster = models.cluster("first");
    let db = cluster.database();
    let mut session = db.session();
    session.run("SELECT caption.use_model('second', wait => true)");
    assert!(session.holds("(SELECT model = 'second' FROM caption.engine_status())"));
    assert!(
        session
            .holds("(SELECT setting = 'second' FROM pg_settings WHERE name = 'pg_caption.model')")
            || {
                // A session reads the new configuration with its next command.
                session.holds(
                    "(SELECT setting = 'second' FROM pg_settings WHERE name = 'pg_caption.model')",
                )
            }
    );
    session.run(&format!(
        "SELECT caption.use_model('{}', wait => true)",
        models.folder("first").display()
    ));
    assert!(session.holds("(SELECT model = 'first' FROM caption.engine_status())"));
    session.run("SELECT caption.use_model('second')");
    serves(&db, "second");
    drop((session, db));
    cluster.restart(StopMode::Fast);
    serves(&cluster.database(), "second");
}

#[test]
fn use_model_ignores_a_rollback() {
    let models = ModelsDirectory::of(&["first", "second"]);
    let cluster = models.cluster("first");
    let db = cluster.database();
    let mut session = db.session();
    session.run("BEGIN; SELECT caption.use_model('second', wait => true); ROLLBACK");
    serves(&db, "second");
}

#[test]
fn an_unknown_model_error_lists_the_models() {
    let models = ModelsDirectory::of(&["first", "half"]);
    fs::remove_file(models.folder("half").join("onnx/encoder_model.onnx")).unwrap();
    let cluster = models.cluster("first");
    let db = cluster.database();
    let mut session = db.session();
    for name in ["third", "", "../first", ".first", "/nonexistent", "first/onnx", "'; DROP TABLE x"]
    {
        let error = session.error(&format!("SELECT caption.use_model({})", quote_literal(name)));
        assert_eq!(error.code().code(), "42704", "{name}: {error:?}");
        assert!(error.detail().is_some_and(|detail| detail.contains("first, half")), "{error:?}");
    }
    let error = session.error("SELECT caption.use_model('half')");
    assert!(
        error.code().code() == "22023"
            && error.detail().is_some_and(|detail| detail.contains("encoder_model")),
        "{error:?}"
    );
    assert!(
        session
            .holds("(SELECT setting = 'first' FROM pg_settings WHERE name = 'pg_caption.model')")
    );
}

#[test]
fn use_model_needs_alter_system() {
    let models = ModelsDirectory::of(&["first", "second"]);
    let cluster = models.cluster("first");
    let db = cluster.database();
    let mut session = db.session();
    session.run("CREATE ROLE keeper LOGIN");
    let mut keeper = db.session_as("keeper");
    for call in ["caption.use_model('second')", "caption.models()"] {
        assert_eq!(keeper.error(&format!("SELECT {call}")).code().code(), "42501", "{call}");
    }
    session.run(
        "GRANT EXECUTE ON FUNCTION caption.use_model(text, boolean), caption.models() TO keeper",
    );
    let error = keeper.error("SELECT caption.use_model('second')");
    assert!(
        error.code().code() == "42501"
            && error.hint().is_some_and(|hint| hint.contains("GRANT ALTER SYSTEM")),
        "{error:?}"
    );
    // Without the right to choose, a role does not learn which models exist.
    assert_eq!(keeper.error("SELECT caption.use_model('third')").code().code(), "42501");
    session.run("GRANT ALTER SYSTEM ON PARAMETER pg_caption.model TO keeper");
    keeper.run("SELECT caption.use_model('second', wait => true)");
    assert!(keeper.holds("(SELECT state = 'serving' FROM caption.models() WHERE name = 'second')"));
}

#[test]
fn a_broken_model_keeps_the_old_one_serving() {
    let models = ModelsDirectory::of(&["first", "broken"]);
    let graph = models.folder("broken").join("onnx/encoder_model.onnx");
    let length = fs::metadata(&graph).unwrap().len();
    fs::File::options().write(true).open(&graph).unwrap().set_len(length / 2).unwrap();
    let cluster = models.cluster("first");
    let db = cluster.database();
    let mut session = db.session();
    let pid = session.number("SELECT pid FROM caption.engine_status()");
    let error = session.error("SELECT caption.use_model('broken', wait => true)");
    assert!(
        error.detail().is_some_and(|detail| detail.contains("encoder_model.onnx")),
        "{error:?}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("first")), "{error:?}");
    assert!(session.holds(
        "(SELECT state = 'failed' AND NOT active AND problem LIKE '%encoder_model.onnx%' \
         FROM caption.models() WHERE name = 'broken')"
    ));
    assert!(session.holds("(SELECT state = 'serving' FROM caption.models() WHERE name = 'first')"));
    assert_eq!(session.number("SELECT pid FROM caption.engine_status()"), pid);
    eventually("the failed engine ends", || engines(&cluster) == 1);
    session.run(&format!("SELECT caption_image({})", picture()));
    let logged = |cluster: &TestCluster| {
        cluster.log().lines().filter(|line| line.contains("cannot use its model")).count()
    };
    assert_eq!(logged(&cluster), 1, "{}", cluster.log_tail("cannot use"));
    // Once repaired, the model can be chosen.
    fs::copy(model().join("onnx/encoder_model.onnx"), &graph).unwrap();
    session.run("SELECT caption.use_model('broken', wait => true)");
    assert!(session.holds("(SELECT model = 'broken' FROM caption.engine_status())"));
    assert_eq!(logged(&cluster), 1);
}

#[test]
fn skipped_model_files_are_reported() {
    let models = ModelsDirectory::of(&["first", "damaged"]);
    let graph = |file: &str| models.folder("damaged").join("onnx").join(file);
    for name in ["encoder_model", "decoder_model_merged"] {
        let whole = graph(&format!("{name}.onnx"));
        fs::copy(&whole, graph(&format!("{name}_uint8.onnx"))).unwrap();
        let length = fs::metadata(&whole).unwrap().len();
        fs::File::options().write(true).open(&whole).unwrap().set_len(length / 2).unwrap();
    }
    let cluster = models.cluster("first");
    let db = cluster.database();
    let mut session = db.session();
    session.run("SELECT caption.use_model('damaged', wait => true)");
    let warning = session.notices().pop().expect("a warning for the caller");
    assert_eq!(warning.severity(), "WARNING");
    let problem =
        session.text("SELECT problem FROM caption.models() WHERE active AND state = 'serving'");
    let line = cluster
        .log()
        .lines()
        .find(|line| line.contains("were skipped"))
        .expect("a line in the log")
        .to_owned();
    for file in ["encoder_model.onnx", "decoder_model_merged.onnx"] {
        let path = graph(file).display().to_string();
        for text in [warning.message(), &problem, &line] {
            assert!(text.contains(&path), "{text}");
        }
    }
    let used = r#"{"encoder_model": ["uint8"], "decoder_model_merged": ["uint8"]}"#;
    assert!(
        session.holds(&format!("(SELECT graphs = '{used}' FROM caption.models() WHERE active)"))
    );
    session.run("SELECT caption.use_model('first', wait => true)");
    assert!(session.notices().is_empty(), "a complete model causes no warning");
    assert!(session.holds("(SELECT problem IS NULL FROM caption.models() WHERE active)"));
}
