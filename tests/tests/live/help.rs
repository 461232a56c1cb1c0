//! What psql shows about the extension: `caption.help()`, and the descriptions of its objects.

use pg_caption_tests::{FILLED, TestCluster, TestServer};

/// The examples run as they are written, one after the other, for a table as they name it.
#[test]
fn every_example_of_help_runs() {
    let (cluster, web) = (TestCluster::shared(), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    let examples = session.rows("SELECT example FROM caption.help()");
    assert_eq!(examples.len(), 10);
    for example in examples.into_iter().flatten().flatten() {
        session.run(&example);
        if example.contains("caption.wait") {
            assert!(session.holds(FILLED), "the table is filled after {example}");
        }
    }
    assert_eq!(session.number("SELECT count(*) FROM caption.progress"), 0, "the watch has ended");
}

/// `\df+`, `\dv+` and `\dt+` show a description of each function, view and table.
#[test]
fn every_object_has_a_description() {
    let db = TestCluster::shared().database();
    let mut session = db.session();
    let bare = session.rows(
        "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_extension e \
         ON e.oid = d.refobjid AND e.extname = 'pg_caption' LEFT JOIN pg_class c ON d.classid = \
         'pg_class'::regclass AND c.oid = d.objid WHERE d.refclassid = 'pg_extension'::regclass \
         AND d.deptype = 'e' AND (c.relkind IN ('r', 'v') OR d.classid = 'pg_proc'::regclass) AND \
         coalesce(obj_description(d.objid, d.classid::regclass::text::name), '') !~ '^[A-Z].*\\.$'",
    );
    assert!(bare.is_empty(), "without a description in whole sentences: {bare:?}");
}
