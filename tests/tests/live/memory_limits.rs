//! Large values and table code that allocates much: a row or a call fails, never the server.

use pg_caption_tests::{FILLED, TestCluster, TestServer, eventually, shared_database};

/// SQL for a BEFORE UPDATE trigger on `products` that runs the statement when row 2 gets a text.
fn trigger(statement: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE x text; BEGIN IF NEW.id = 2 AND NEW.alt <> '' THEN {statement}; END IF; \
         RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER spoil BEFORE UPDATE ON products FOR EACH ROW \
         EXECUTE FUNCTION spoil()"
    )
}

const CRASH: &str = "terminating any other active server processes";

/// Peak resident memory of a process, megabytes; 0 once it has ended.
fn peak_mb(pid: i64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[test]
fn a_trigger_that_allocates_gigabytes_fails_alone() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run(&trigger("x := repeat('x', 1000000000)"));
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "(SELECT count(*) FROM products WHERE alt <> '') = 2 AND EXISTS (SELECT \
         FROM caption.failure WHERE code = 'write_refused' AND message LIKE '%out of memory%')",
    );
    // In small pieces, and caught: the memory is used up when the next error is raised.
    session.run(&trigger(
        "DECLARE t text[]; BEGIN LOOP t := t || repeat('x', 1000000); END LOOP; \
         EXCEPTION WHEN out_of_memory THEN RAISE 'caught'; END",
    ));
    session.run("SELECT caption.retry('products')");
    db.eventually("EXISTS (SELECT FROM caption.failure WHERE message LIKE '%refused%caught%')");
    session.run("DROP TRIGGER spoil ON products; SELECT caption.retry('products')");
    db.eventually(FILLED);
    assert!(!cluster.log().contains(CRASH), "{}", cluster.log_tail("worker"));
}

#[test]
fn a_huge_message_is_cut() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    let huge = "repeat('ä', 10000000)";
    let fields = ["DETAIL", "HINT", "COLUMN", "CONSTRAINT", "TABLE", "SCHEMA", "DATATYPE"];
    let others = fields.map(|field| format!("RAISE 'short' USING {field} = {huge}"));
    let raised = [
        format!("RAISE USING MESSAGE = {huge}"),
        format!("RAISE WARNING USING MESSAGE = {huge}; RAISE 'short'"),
        format!("EXECUTE 'SELECT 1/0 -- ' || {huge}"),
    ];
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    for statement in raised.into_iter().chain(others) {
        session.run(&trigger(&statement));
        session.run("UPDATE products SET alt = NULL WHERE id <= 3");
        db.eventually(
            "(SELECT count(*) FROM products WHERE alt <> '') = 2 \
             AND EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused')",
        );
        assert!(
            session.holds(
                "(SELECT max(length(message) + coalesce(length(detail), 0)) < 3000 \
                 FROM caption.failure)"
            ),
            "{statement}"
        );
        session.run("DROP TRIGGER spoil ON products; SELECT caption.retry('products')");
        db.eventually(FILLED);
    }
    assert!(cluster.log().len() < 1_000_000, "the log has {} bytes", cluster.log().len());
    assert!(!cluster.log().contains("background worker \"pg_caption worker\" (PID"));
}

#[test]
fn huge_values_are_not_read() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 1);
    session.run(
        "INSERT INTO products (image_url) SELECT 'http://127.0.0.1/' || repeat('x', 4000000) \
         FROM generate_series(1, 60); \
         INSERT INTO products (image_url, alt, seo) SELECT 'http://127.0.0.1/x', \
         repeat('y', 4000000), repeat('z', 4000000) FROM generate_series(1, 60)",
    );
    session.run("SELECT caption.watch('products')");
    db.eventually(
        "(SELECT count(*) FROM caption.failure WHERE code = 'bad_url') = 60 \
         AND (SELECT alt <> '' FROM products WHERE id = 1)",
    );
    let worker = cluster.process("pg_caption worker").expect("it lingers");
    let peak = peak_mb(worker);
    assert!(peak < 200, "the worker needed {peak} MB");
    assert!(session.holds("(SELECT count(*) FROM products WHERE alt LIKE 'yyy%') = 60"));
}

#[test]
fn lack_of_resources_is_not_charged() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 3);
    for code in ["disk_full", "out_of_memory", "too_many_connections", "53000", "53400"] {
        session.run(&trigger(&format!("RAISE 'no room' USING ERRCODE = '{code}'")));
        session.run("SELECT caption.watch('products'); UPDATE products SET alt = NULL, seo = NULL");
        db.eventually(
            "EXISTS (SELECT FROM caption.deferred WHERE message LIKE '%no room%' AND attempts = 0)",
        );
        assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 0, "{code}");
        session.run("DROP TRIGGER spoil ON products; SELECT caption.retry('products')");
        db.eventually(FILLED);
    }
}

// The kernel kills a worker for the memory that it uses: PostgreSQL restarts all processes.
#[test]
fn a_row_that_kills_its_worker_is_not_taken_again() {
    let (cluster, web) = (TestCluster::private(&[]), TestServer::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run(&trigger("COPY (SELECT 1) TO PROGRAM 'kill -KILL $PPID'"));
    session.run("SELECT caption.watch('products')");
    eventually("the server has restarted once", || cluster.log().matches(CRASH).count() == 1);
    eventually("it accepts connections again", || {
        pg_caption_tests::TestSession::open(&cluster.config(&db.name)).is_ok()
    });
    db.eventually(
        "(SELECT count(*) FROM products WHERE alt <> '') = 2 \
         AND EXISTS (SELECT FROM caption.failure WHERE code = 'write_killed')",
    );
    assert_eq!(cluster.log().matches(CRASH).count(), 1, "one restart");
    db.session().run("DROP TRIGGER spoil ON products; SELECT caption.retry('products')");
    db.eventually(FILLED);
}

#[test]
fn large_pictures_are_refused_unread() {
    let db = shared_database();
    let mut session = db.session();
    let error = session.error("SELECT caption_image(convert_to(repeat('x', 300000000), 'UTF8'))");
    assert!(error.message().contains("the image is larger than"), "{error:?}");
    assert_eq!(error.detail(), Some("The image has 300000000 bytes."));
    // Compressed in a table: it is not even decompressed.
    session.run("CREATE TABLE big AS SELECT convert_to(repeat('x', 300000000), 'UTF8') AS image");
    let mut fresh = db.session();
    let error = fresh.error("SELECT caption_image(image) FROM big");
    assert!(error.message().contains("the image is larger than"), "{error:?}");
    let peak = peak_mb(fresh.pid());
    assert!(peak < 200, "{peak} MB for a picture of 300 MB");
    for call in [
        "caption_image(repeat('x', 300000000))",
        "caption_image('http://127.0.0.1/x.jpg', repeat('x', 300000000))",
        "caption.watch('big', 'image', jsonb_build_object('alt', repeat('x', 200000000)))",
    ] {
        let error = fresh.error(&format!("SELECT {call}"));
        assert!(error.message().len() < 1000, "{call}");
    }
}

// As under strict overcommit (vm.overcommit_memory = 2): a backend gets no more memory.
#[test]
fn a_failed_allocation_is_an_error_of_the_call() {
    let cluster = TestCluster::private(&[("pg_caption.max_image_size", "500MB")]);
    let db = cluster.database();
    let mut session = db.session();
    session.run("CREATE TABLE big AS SELECT convert_to(repeat('x', 200000000), 'UTF8') AS image");
    let pid = session.pid();
    // Room for the value itself, and not for a copy of it.
    cluster.limit_memory(pid, 300 << 20);
    let error = session.error("SELECT caption_image(image) FROM big");
    assert_eq!(error.code().code(), "53200", "{error:?}");
    assert!(session.holds("true"), "the session goes on");
    assert!(!cluster.log().contains(CRASH));
}
