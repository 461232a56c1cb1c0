//! Published model families through the SQL function: the text is what the reference implementation's ids say, tidied as the style
//! says. The ids themselves are held to the reference in crates/captioner and crates/engine.

use pg_caption_register::{Ending, Rules, Style, Task, builtin, tidy};
use pg_caption_tests::{Cluster, parity};
use serde_json::Value;

/// Pictures decoded differently on purpose (transparency, 16-bit gray), and one that is blank: an answer of its own.
const OTHERS: [&str; 5] = ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png", "04_1x1.png"];

/// One model asked through SQL for what `output` of its `expected.json` states; `style` must be as the server knows it.
fn says_what_the_reference_says(model: &str, prompt: &str, output: &str, style: &Style, prepare: &str) {
    let folder = parity(model);
    let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let cluster = Cluster::private(&[("pg_caption.model", folder.to_str().unwrap()), ("pg_caption.tiles", "all")]);
    let db = cluster.database();
    let mut session = db.session();
    session.run(prepare);
    let max_tokens = output.rsplit_once('_').unwrap().1;
    let mut captions = 0;
    for (image, record) in expected["images"].as_object().unwrap().iter().filter(|(image, _)| !OTHERS.contains(&image.as_str())) {
        let want = &record["prompts"][prompt]["outputs"][output];
        let (text, tokens) = (want["text"].as_str().unwrap(), want["ids"].as_array().unwrap().len());
        let ending = if tokens >= max_tokens.parse().unwrap() { Ending::Cut } else { Ending::Complete };
        let bytes = std::fs::read(parity("images").join(image)).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let said = session.value(&format!("SELECT caption_image('\\x{hex}'::bytea, '{}', {max_tokens})", style.name));
        assert_eq!(said, tidy(text, style, ending).ok(), "{model} {image}: {text:?}");
        captions += u32::from(said.is_some());
    }
    assert!(captions > 3, "{captions} captions prove little");
    assert!(session.holds("(SELECT batch_invariant FROM caption.engine_status())"));
}

#[test]
fn florence_2_says_through_sql_what_the_reference_says() {
    let concise = builtin("concise").unwrap();
    says_what_the_reference_says("florence2", "<CAPTION>", "beam3_32", &concise, "SELECT 1");
}

#[test]
fn smolvlm_says_through_sql_what_the_reference_says() {
    let instruction = "Can you describe this image?";
    let rules = Rules { min_chars: 3, max_chars: 1000, max_sentences: None, strip_final_stop: false };
    let mine = Style { name: "mine".into(), instruction: instruction.into(), task: Task::Detailed, rules, ..builtin("detailed").unwrap() };
    let prepare = format!("INSERT INTO caption.style (name, instruction) VALUES ('mine', '{instruction}')");
    says_what_the_reference_says("smolvlm", instruction, "greedy_32", &mine, &prepare);
}
