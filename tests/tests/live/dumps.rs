//! Dumps carry the ledger: in the restored database, machine-written texts are known as such,
//! whatever the way of dump and restore.

use pg_caption_tests::{ServerAnswer, TestCluster, TestDatabase, TestServer, TestSession};
use std::process::Command;

/// The output of a program that must succeed.
#[track_caller]
fn output(mut command: Command) -> Vec<u8> {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn run(cluster: &TestCluster, tool: &str, arguments: &[&str]) -> Vec<u8> {
    let mut command = cluster.tool(tool);
    command.args(arguments);
    output(command)
}

/// A watched table in a schema of its own: two captions, one text of a user.
fn with_texts(db: &TestDatabase, web: &TestServer) -> TestSession {
    let urls = web.pictures(3);
    let mut session = db.session();
    // OIDs differ between the databases.
    session.run("CREATE TABLE dropped (); DROP TABLE dropped; CREATE SCHEMA shop");
    session
        .run("CREATE TABLE shop.products (id int PRIMARY KEY, image_url text, alt text, seo text)");
    for (id, url) in urls.iter().enumerate() {
        session.run(&format!("INSERT INTO shop.products VALUES ({id}, '{url}')"));
    }
    session.run("SELECT caption.watch('shop.products')");
    session.run("CALL caption.wait('shop.products')");
    session.run("UPDATE shop.products SET alt = 'By hand' WHERE id = 1");
    session.run("CALL caption.wait('shop.products')");
    session
}

/// In a restored database: no picture is fetched again; a new URL replaces machine-written text,
/// and a text of a user stays.
fn assert_known(db: &TestDatabase, web: &TestServer, case: &str) {
    let mut session = db.session();
    session.run("CALL caption.wait('shop.products')");
    assert_eq!(web.hits("/0.jpg"), 1, "{case}: no picture is fetched again");
    let before = session.text("SELECT alt FROM shop.products WHERE id = 0");
    let url = web.serve("/new.jpg", ServerAnswer::picture(7));
    session.run(&format!("UPDATE shop.products SET image_url = '{url}'"));
    session.run("CALL caption.wait('shop.products')");
    assert_ne!(session.text("SELECT alt FROM shop.products WHERE id = 0"), before, "{case}");
    assert_eq!(session.text("SELECT alt FROM shop.products WHERE id = 1"), "By hand", "{case}");
    assert_eq!(session.number("SELECT count(*) FROM caption.ledger"), 3, "{case}");
}

#[test]
fn restored_texts_are_known_as_machine_written() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = with_texts(&db, &web);
    // A row of a table that was dropped must not spoil the restore.
    session.run(
        "CREATE TABLE gone (id int PRIMARY KEY, image_url text, alt text, seo text); \
         SELECT caption.watch('gone')",
    );
    session.run(
        "BEGIN; INSERT INTO caption.ledger SELECT 'gone', key, url, outputs, model \
         FROM caption.ledger LIMIT 1; DROP TABLE gone; COMMIT",
    );
    drop(session);
    let folder = cluster.data();
    let path = |name: &str| folder.join(name).display().to_string();

    // A plain dump.
    let (file, copy) = (path("plain.sql"), cluster.empty_database());
    run(&cluster, "pg_dump", &["-f", &file, &db.name]);
    run(&cluster, "psql", &["-qX", "-v", "ON_ERROR_STOP=1", "-d", &copy.name, "-f", &file]);
    assert_known(&copy, &web, "plain");

    // A folder, restored in parallel.
    let (file, copy) = (path("parallel"), cluster.empty_database());
    run(&cluster, "pg_dump", &["-Fd", "-j", "2", "-f", &file, &db.name]);
    run(&cluster, "pg_restore", &["-e", "-j", "3", "-d", &copy.name, &file]);
    assert_known(&copy, &web, "parallel");

    // Schema first, then data: the triggers and a worker are there before the rows.
    let (schema, data) = (path("schema"), path("data"));
    let copy = cluster.empty_database();
    run(&cluster, "pg_dump", &["-Fc", "--schema-only", "-f", &schema, &db.name]);
    run(&cluster, "pg_dump", &["-Fc", "--data-only", "-f", &data, &db.name]);
    run(&cluster, "pg_restore", &["-e", "-d", &copy.name, &schema]);
    let mut there = copy.session();
    let state = there.rows("SELECT relation, state, stopped FROM caption.progress");
    assert_eq!(state.len(), 1, "triggers without a watch: {state:?}");
    assert_eq!(state[0][0].as_deref(), Some("shop.products"));
    assert_eq!(state[0][2].as_deref(), Some("t"));
    let why = state[0][1].as_deref().unwrap_or_default();
    assert!(why.starts_with("its triggers have no watch, as in a schema-only copy"), "{why}");
    let error = there.error("SELECT caption.pause('shop.products')");
    assert!(error.hint().unwrap_or_default().contains("schema-only copy"), "{error:?}");
    assert!(there.error("CALL caption.wait('shop.products')").message().contains("have no watch"));
    there.run("INSERT INTO shop.products VALUES (9, 'https://example.com/a.jpg', 'a', 'b')");
    there.run("DELETE FROM shop.products");
    run(&cluster, "pg_restore", &["-e", "--data-only", "-d", &copy.name, &data]);
    assert_known(&copy, &web, "schema, then data");

    // Other roles leave out what they cannot read.
    let owner = format!("owner_{}", db.name);
    db.session().run(&format!(
        "CREATE ROLE {owner} LOGIN; ALTER SCHEMA shop OWNER TO {owner}; \
         ALTER TABLE shop.products OWNER TO {owner}"
    ));
    let mut there = db.session_as(&owner);
    assert_eq!(there.error("SELECT FROM caption.ledger").code().code(), "42501");
    drop(there);
    let file = path("owner.sql");
    let without = ["-T", "caption.watch", "-T", "caption.ledger", "-T", "caption.used"];
    run(&cluster, "pg_dump", &[&["-U", &owner, "-f", &file, &db.name], &without[..]].concat());
    let dump = std::fs::read_to_string(&file).expect("a dump");
    assert!(dump.contains("COPY shop.products"));

    // The table with its ledger and watch, into a database that has the extension.
    let (file, copy) = (path("table.sql"), cluster.database());
    copy.session().run(&format!("CREATE SCHEMA shop AUTHORIZATION {owner}"));
    let tables = ["-t", "shop.products", "-t", "caption.watch", "-t", "caption.ledger"];
    run(&cluster, "pg_dump", &[&tables[..], &["-f", &file, &db.name]].concat());
    run(&cluster, "psql", &["-qX", "-v", "ON_ERROR_STOP=1", "-d", &copy.name, "-f", &file]);
    assert_known(&copy, &web, "one table");
}
