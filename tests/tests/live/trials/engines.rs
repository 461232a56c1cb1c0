//! Engines that cannot serve, and settings that refuse pictures.

use super::{Trial, Trials};
use pg_caption_tests::{ServerAnswer, TestCluster, TestServer, pictures, test_program};

/// Tries engines. Each server has one setting that is wrong.
pub fn run(trials: &mut Trials) {
    let web = TestServer::start();
    let picture = web.serve("/picture.jpg", ServerAnswer::picture(1));
    let of_an_attacker = [&pictures::jpeg(2)[..], b"TEST_HOOK no JSON"].concat();
    let engine = test_program("test_hook_engine").display().to_string();
    let other = "http://other.example/picture.jpg".to_owned();
    let attack = web.serve("/attack.jpg", ServerAnswer::body(of_an_attacker, ""));
    for (code, url, name, value) in [
        ("crashed", &attack, "engine", engine.as_str()),
        ("forbidden_host", &other, "allowed_hosts", "127.0.0.1"),
        ("no_model", &picture, "model", "missing"),
        ("bad_setting", &picture, "fetch_headers_file", "missing.json"),
        ("engine_absent", &picture, "engine", "/bin/false"),
    ] {
        let cluster = TestCluster::private(&[(&format!("pg_caption.{name}"), value)]);
        let db = cluster.database();
        let mut session = db.session();
        session.run("SET pg_caption.timeout = '5s'");
        trials.run(&mut session, &[Trial::new(code, url)]);
    }
}
