//! Look-ahead next to other modules of a server: what they see of a statement, and which plans are
//! left alone because of them.

use pg_caption_tests::{TestCluster, TestServer, TestSession, module_file};

/// Modules that PostgreSQL's packages have, and pg_hint_plan where it is packaged.
fn modules() -> Vec<&'static str> {
    let all = ["pg_stat_statements", "auto_explain", "file_fdw", "pg_hint_plan"];
    let (there, missing): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|module| module_file(module).exists());
    if !missing.is_empty() {
        println!("skipped: this PostgreSQL has no {}", missing.join(", "));
    }
    there
}

fn plan(session: &mut TestSession, sql: &str) -> String {
    let lines = session.rows(sql).into_iter().flatten().flatten();
    lines.collect::<Vec<String>>().join("\n")
}

#[test]
fn other_modules_see_the_statement_as_it_is() {
    let modules = modules();
    let has = |module: &str| modules.contains(&module);
    let preloaded: Vec<&str> =
        modules.iter().copied().filter(|module| *module != "file_fdw").collect();
    // Before and after this library: each calls the hooks that it finds.
    for order in [["pg_caption"].iter().chain(&preloaded).copied().collect::<Vec<_>>(), {
        preloaded.iter().chain(&["pg_caption"]).copied().collect()
    }] {
        let preload = order.join(",");
        let cluster = TestCluster::private(&[("shared_preload_libraries", &preload)]);
        let (db, web) = (cluster.database(), TestServer::start());
        let mut session = db.products_of(&web, 6);
        if has("auto_explain") {
            session.run(
                "SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; \
                 SET auto_explain.log_nested_statements = on",
            );
        }
        if has("pg_stat_statements") {
            session.run("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()");
        }
        session.run("UPDATE products SET alt = caption_image(image_url)");
        assert_eq!(web.total(), 6);
        if has("pg_stat_statements") {
            let seen = session.rows(
                "SELECT calls, rows FROM pg_stat_statements \
                  WHERE query = 'UPDATE products SET alt = caption_image(image_url)'",
            );
            assert_eq!(seen, [[Some("1".to_owned()), Some("6".to_owned())]], "{preload}");
        }
        if has("auto_explain") {
            let log = cluster.log();
            let explained = log.split("plan:").any(|plan| {
                plan.contains("UPDATE products SET alt") && plan.contains("Caption Lookahead")
            });
            assert!(explained, "{preload}: {log}");
        }
        if has("pg_hint_plan") {
            session.run("CREATE TABLE kinds AS SELECT id FROM products; ANALYZE");
            for (hint, node) in [("NestLoop", "Nested Loop"), ("MergeJoin", "Merge Join")] {
                let lines = plan(
                    &mut session,
                    &format!(
                        "/*+ {hint}(p k) */ EXPLAIN (COSTS OFF) SELECT caption_image(image_url) \
                           FROM products AS p JOIN kinds AS k USING (id)"
                    ),
                );
                assert!(lines.contains(node) && lines.contains("Caption Lookahead"), "{lines}");
            }
        }
    }
}

#[test]
fn parallel_foreign_and_serializable_reads_are_left_alone() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    let left_alone = |session: &mut TestSession, sql: &str, reason: &str| {
        session.run("SET client_min_messages = debug1");
        session.notices();
        let lines = plan(session, &format!("EXPLAIN (COSTS OFF) {sql}"));
        let reasons: Vec<String> =
            session.notices().iter().map(|notice| notice.message().to_owned()).collect();
        session.run("RESET client_min_messages");
        assert!(!lines.contains("Caption Lookahead"), "{sql}\n{lines}");
        let expected = format!("pg_caption does not look ahead: {reason}");
        assert!(reasons.iter().any(|text| text.starts_with(&expected)), "{sql}: {reasons:?}");
        lines
    };
    session.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; \
         SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2",
    );
    let lines = left_alone(
        &mut session,
        "SELECT caption_image(image_url) FROM products WHERE title = 'Product'",
        "the plan is parallel",
    );
    assert!(lines.contains("Gather"), "{lines}");
    session.run("SET max_parallel_workers_per_gather = 0");
    session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    left_alone(
        &mut session,
        "UPDATE products SET alt = caption_image(image_url)",
        "the transaction is serializable",
    );
    session.run("ROLLBACK");
    if modules().contains(&"file_fdw") {
        session.run(
            "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; \
             CREATE FOREIGN TABLE urls (url text) SERVER files OPTIONS (filename '/etc/hostname')",
        );
        left_alone(
            &mut session,
            "SELECT caption_image(url) FROM urls",
            "the rows come from a plan node that is not read ahead",
        );
    }
}
