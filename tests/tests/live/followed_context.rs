//! The context of a watch: words of the row that texts show and models get, and their changes.

use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_tests::{ModelsDirectory, ServerAnswer, TestServer, TestSession, shared_database};
use serde_json::json;

const WATCH: &str = "SELECT caption.watch('products', context => '{title}', \
    follow_context => true, fills => '{\"alt\": {\"style\": \"concise\", \
    \"template\": \"{title}: {caption}\", \"fallback\": \"{title}\"}, \"seo\": \"seo\"}')";

fn wait(session: &mut TestSession) {
    session.run("CALL caption.wait('products')");
}

/// The texts of a row.
fn texts(session: &mut TestSession, id: i32) -> String {
    session.text(&format!("SELECT concat_ws('|', alt, seo) FROM products WHERE id = {id}"))
}

#[test]
fn a_changed_context_needs_no_model() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(3);
    urls.push(web.serve("/gone.jpg", ServerAnswer::status(410)));
    let mut session = db.products(&urls);
    session.run(
        "UPDATE products SET title = 'Navy cup'; UPDATE products SET alt = 'By hand' \
                 WHERE id = 3",
    );
    session.run(WATCH);
    wait(&mut session);
    let entry = "SELECT (outputs->'alt') - '{text,written,words,at,confidence}'::text[] \
                 FROM caption.ledger \
                 WHERE key = '[\"1\"]'";
    let (before, entry_before) = (texts(&mut session, 1), session.text(entry));
    assert!(before.starts_with("Navy cup"), "{before}");
    assert_eq!(texts(&mut session, 4), "Navy cup", "a fallback");
    // Caption and fallback get the new words; the text of a user and others stay.
    // A missing text is tried again with its row.
    let pictures = || web.total() - web.hits("/gone.jpg");
    let fetched = pictures();
    session.run("UPDATE products SET title = 'Red mug'");
    wait(&mut session);
    let after = texts(&mut session, 1);
    assert_eq!(after, before.replacen("Navy cup", "Red mug", 1));
    assert_eq!(texts(&mut session, 4), "Red mug");
    assert!(texts(&mut session, 3).starts_with("By hand|"));
    assert_eq!(pictures(), fetched, "no picture was requested");
    assert_eq!(session.text(entry), entry_before, "the caption and its model stay known");
    assert!(session.holds(
        "(SELECT bool_and(text = p.alt AND state = 'written') FROM caption.texts('products') c \
          JOIN products p ON c.key = jsonb_build_object('id', p.id) WHERE column_name = 'alt')"
    ));
    let failures = "(SELECT string_agg(code, ' ') FROM caption.failure) = 'http_410'";
    assert!(session.holds(failures), "the failure stays");
    // The same words again change no row; a new URL replaces the text as before.
    let version = "SELECT xmin::text FROM products WHERE id = 1";
    session.run("UPDATE products SET title = '<b>Red</b> mug' WHERE id = 1");
    let version_before = session.text(version);
    wait(&mut session);
    assert_eq!(session.text(version), version_before);
    let url = web.serve("/new.jpg", ServerAnswer::picture(9));
    session.run(&format!("UPDATE products SET image_url = '{url}' WHERE id = 1"));
    wait(&mut session);
    assert_eq!(web.hits("/new.jpg"), 1);
    // A row without usable words shows the caption alone, and has no fallback.
    session.run("UPDATE products SET title = NULL");
    wait(&mut session);
    assert!(!texts(&mut session, 2).contains("mug"));
    assert_eq!(texts(&mut session, 4), "");
    assert!(session.holds(failures));
    assert_eq!((pictures(), web.hits("/new.jpg")), (fetched + 1, 1));
    // Without follow_context nothing changes.
    session.run("UPDATE products SET title = 'Jug'");
    wait(&mut session);
    session.run("SELECT caption.watch('products', follow_context => false)");
    wait(&mut session);
    let before = texts(&mut session, 2);
    session.run("UPDATE products SET title = 'Bowl'");
    wait(&mut session);
    assert_eq!(texts(&mut session, 2), before);
}

#[test]
fn a_watch_follows_the_columns_of_its_context() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 1);
    session.run("ALTER TABLE products ADD raw bytea");
    for (context, problem) in [
        ("{titel}", "column \"titel\" of table public.products does not exist"),
        ("{alt}", "column \"alt\" of table public.products cannot be context"),
        ("{image_url}", "column \"image_url\" of table public.products cannot be context"),
        ("{raw}", "column \"raw\" of table public.products cannot be context"),
        ("{title,NULL}", "context must not contain nulls"),
        ("{a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q}", "context has 17 columns"),
    ] {
        let sql = format!("SELECT caption.watch('products', context => '{context}')");
        assert_eq!(session.error(&sql).message(), problem);
    }
    session.run("UPDATE products SET title = 'Teapot'");
    session.run(WATCH);
    wait(&mut session);
    let options = "SELECT concat_ws(' ', context, follow_context, fills->'alt'->>'template') \
                   FROM caption.watch_option";
    assert_eq!(session.text(options), "{title} t {title}: {caption}");
    // The name goes into templates, too.
    let before = texts(&mut session, 1);
    session.run("ALTER TABLE products RENAME title TO \"Name\"");
    assert_eq!(session.text(options), "{Name} t {Name}: {caption}");
    session.run("UPDATE products SET \"Name\" = 'Red mug'");
    wait(&mut session);
    assert_eq!(texts(&mut session, 1), before.replacen("Teapot", "Red mug", 1));
    session.run("ALTER TABLE products ALTER \"Name\" TYPE varchar(20)");
    session.run("UPDATE products SET \"Name\" = 'Jug'");
    wait(&mut session);
    assert_eq!(texts(&mut session, 1), before.replacen("Teapot", "Jug", 1));
    let error = session.error("ALTER TABLE products DROP \"Name\"");
    assert_eq!(error.code().code(), "2BP01");
    assert_eq!(error.detail(), Some("The watch reads the context from it."));
    session.run("ALTER TABLE products DROP \"Name\" CASCADE");
    db.eventually("(SELECT stopped FROM caption.progress)");
    session.run(
        "SELECT caption.watch('products', context => '{}', fills => '{\"alt\": \"concise\"}', \
         replace => true)",
    );
    wait(&mut session);
    assert!(session.holds("(SELECT NOT stopped FROM caption.progress)"));
    // Other roles do not see it.
    session.run("CREATE ROLE context_reader; SET ROLE context_reader");
    assert_eq!(session.error("SELECT context FROM caption.watch").code().code(), "42501");
    session.run("RESET ROLE; DROP ROLE context_reader");
}

/// A row of a watched table, captioned by a server that says how it was asked.
#[test]
fn a_prompt_with_context_is_asked_again() {
    let server = ScriptedServer::start(|seen| {
        let is_red = seen.instruction().contains("Red mug");
        ScriptedAnswer::text(if is_red { "Red mug on a table" } else { "Cup on a table" }, None)
    });
    let models = ModelsDirectory::of(&[]);
    let remote = json!({
        "protocol": "openai", "base_url": server.url(), "model": "tiny", "send_context": true,
        "without_confidence": "write", "requests_per_minute": 60_000,
        "price": { "input_per_million": 10.0, "output_per_million": 20.0, "per_request": 0.5 },
    });
    models.write("far", "remote.json", &remote);
    let web = TestServer::start();
    let cluster = models.cluster("far");
    let db = cluster.database();
    let mut session = db.products_of(&web, 1);
    // Before anything was counted tokens are guessed; nothing is fetched.
    let estimate = "SELECT concat_ws(' ', rows, pictures, requests, input_tokens > 100, \
                    output_tokens > 10, cost > 1, model, duration IS NULL) \
                    FROM caption.estimate('products')";
    assert_eq!(session.text(estimate), "1 1 2 t t t far t");
    assert_eq!((web.total(), server.seen().len()), (0, 0));
    session.run(
        "SELECT caption.watch('products', context => '{title}', follow_context => true, \
         fills => '{\"alt\": \"concise\"}')",
    );
    wait(&mut session);
    assert!(server.seen()[0].instruction().contains("Product"));
    assert_eq!(session.text("SELECT alt FROM products"), "Cup on a table");
    session.run("UPDATE products SET title = 'Red mug'");
    wait(&mut session);
    assert_eq!(session.text("SELECT alt FROM products"), "Red mug on a table");
    assert_eq!(server.seen().len(), 2);
    // Without a change of the context it is not asked.
    session.run("UPDATE products SET title = title");
    wait(&mut session);
    assert_eq!(server.seen().len(), 2);
    // What was counted is what is estimated, for rows that lack a text.
    session.run("SELECT caption.pause('products'); UPDATE products SET alt = NULL");
    let estimate = "SELECT concat_ws(' ', requests, input_tokens, output_tokens, \
                    round(cost::numeric, 4)) FROM caption.estimate('products')";
    assert_eq!(session.text(estimate), "1 100 10 0.5012");
    let preview = "SELECT text FROM caption.preview('products')";
    assert_eq!(session.text(preview), "Red mug on a table", "with its context");
}
