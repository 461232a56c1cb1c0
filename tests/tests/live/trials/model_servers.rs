//! What model servers refuse, and texts that are no captions.

use super::{Trial, Trials};
use crate::remote_models::{put_remote, use_model};
use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_tests::{ModelsDirectory, ServerAnswer, TestServer};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn error(status: u16, message: &str, code: &str) -> ScriptedAnswer {
    let body = json!({ "error": { "message": message, "code": code } });
    ScriptedAnswer::status(status, &body.to_string())
}

/// Tries answers of a model server. The server pauses after some of them: these come last.
pub fn run(trials: &mut Trials) {
    let text = |text| ScriptedAnswer::text(text, Some(0.9));
    let busy = ScriptedAnswer::Full(429, "Retry-After: 60\r\n".into(), "slow down".into());
    let answers = [
        ("low_confidence", ScriptedAnswer::text("A cat on a mat", Some(0.1))),
        ("too_short", text("ca")),
        ("echoes_name", text("Red dress 42")),
        ("declined", text("I'm sorry, but I can't help with that.")),
        ("no_caption", text("Image")),
        ("model_server_key", error(401, "Invalid API key", "invalid_api_key")),
        ("model_server_model", error(404, "The model does not exist", "model_not_found")),
        ("model_server_credit", error(402, "Payment required", "insufficient_quota")),
        ("model_server_refused", ScriptedAnswer::status(405, "")),
        ("model_server_rejected", error(400, "Failed to load the image", "invalid_image")),
        ("filtered", error(400, "The picture was refused", "content_filter")),
        ("empty_answer", text("")),
        ("model_server_error", ScriptedAnswer::status(500, "Internal Server Error")),
        ("model_server_answer", ScriptedAnswer::status(200, "<html>Welcome</html>")),
        ("model_server_busy", busy),
    ];
    let good = text("A cat on a mat");
    let answer = Arc::new(Mutex::new((good.clone(), Duration::ZERO)));
    let next = answer.clone();
    let server = ScriptedServer::start(move |_| {
        let (answer, pause) = next.lock().unwrap().clone();
        std::thread::sleep(pause);
        answer
    });
    let models = ModelsDirectory::of(&["default"]);
    put_remote(&models, "far", &server, json!({}));
    put_remote(&models, "slow", &server, json!({ "timeout": 0.2 }));
    put_remote(&models, "rare", &server, json!({ "requests_per_minute": 1 }));
    put_remote(&models, "few", &server, json!({ "daily_requests": 1 }));
    let (cluster, web) = (models.cluster("default"), TestServer::start());
    let db = cluster.database();
    let mut session = db.session();
    session.run("SET pg_caption.min_confidence = 0.5");
    session.run("SET pg_caption.timeout = '5s'");
    // Each with a picture of its own: equal pictures have equal answers.
    let mut number = 0;
    let mut url = |name: &str| {
        number += 1;
        web.serve(&format!("/{number}/{name}.jpg"), ServerAnswer::picture(number))
    };
    use_model(&mut session, "far");
    for (code, of) in answers {
        answer.lock().unwrap().0 = of;
        trials.run(&mut session, &[Trial::new(code, url("red-dress-42"))]);
    }
    answer.lock().unwrap().0 = good;
    for (model, code) in [("rare", "model_server_limit"), ("few", "daily_limit")] {
        use_model(&mut session, model);
        trials.run(&mut session, &[Trial::new(code, url("a"))]);
    }
    use_model(&mut session, "slow");
    answer.lock().unwrap().1 = Duration::from_secs(1);
    trials.run(&mut session, &[Trial::new("model_server_slow", url("a"))]);
    answer.lock().unwrap().1 = Duration::ZERO;
    use_model(&mut session, "default");
    use_model(&mut session, "far");
    server.kill();
    trials.run(&mut session, &[Trial::new("model_server_down", url("a"))]);
}
