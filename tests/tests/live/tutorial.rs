//! The SQL of README.md, docs/tutorial.md and docs/install.md, run as it is written. Only the host
//! of the pictures is replaced by a server of the test.

use pg_caption_tests::{ServerAnswer, TestCluster, TestServer, TestSession, project, sql_blocks};

/// The blocks of SQL in a document, in order.
fn blocks(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(project().join(path)).expect("a document");
    sql_blocks(&text).map(String::from).collect()
}

/// Runs the statements of a block one by one: procedures commit. No string of them has a semicolon.
fn run(session: &mut TestSession, web: &TestServer, block: &str) {
    let block = ["https://cdn.example.com", "http://127.0.0.1:8000"]
        .iter()
        .fold(block.to_owned(), |block, host| block.replace(host, &web.url("")));
    for statement in block.split_inclusive(';') {
        let code = statement.lines().filter(|line| !line.trim_start().starts_with("--"));
        if !code.collect::<String>().trim().is_empty() {
            session.run(statement);
        }
    }
}

#[test]
fn the_sql_of_the_tutorial_runs() {
    // Its role is made for the whole cluster.
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    web.serve_all(ServerAnswer::picture(2));
    let db = cluster.database();
    let mut session = db.session();
    session.run("CREATE ROLE shop_owner");
    let tutorial = blocks("docs/tutorial.md");
    assert!(tutorial.len() > 8, "{tutorial:?}");
    let (last, first) = tutorial.split_last().expect("blocks");
    for block in first {
        run(&mut session, &web, block);
    }
    // What the tutorial says about its table.
    assert_eq!(
        session.text("SELECT alt FROM products WHERE title = 'T-shirt'"),
        "A plain red T-shirt"
    );
    assert!(session.holds("(SELECT count(*) FROM products WHERE alt <> '' AND seo <> '') = 4"));
    assert!(session.holds(
        "(SELECT string_agg(key::text, ',') FROM caption.texts('products') \
         WHERE state = 'edited') = '{\"id\": 4}'"
    ));
    run(&mut session, &web, last);
    assert_eq!(session.number("SELECT count(*) FROM caption.progress"), 0);

    for block in blocks("docs/install.md").iter().chain(&blocks("README.md")) {
        run(&mut session, &web, block);
    }
}
