//! A database for one test, dropped at the end of the test.

use crate::{TestCluster, TestServer, TestSession, eventually};
use std::sync::atomic::{AtomicU32, Ordering};

/// Condition: no row of `products` has an empty fill.
pub const FILLED: &str =
    "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

/// Creates a database with the extension in the cluster that tests share.
pub fn shared_database() -> TestDatabase<'static> {
    TestCluster::shared().database()
}

/// A database for one test.
pub struct TestDatabase<'a> {
    /// The cluster that contains it.
    pub cluster: &'a TestCluster,
    /// The name, unique within the test process.
    pub name: String,
}

impl<'a> TestDatabase<'a> {
    pub(crate) fn create(cluster: &'a TestCluster, extension: Option<&str>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.session("postgres").run(&format!("CREATE DATABASE {name}"));
        let database = TestDatabase { cluster, name };
        if let Some(create) = extension {
            database.session().run(create);
        }
        database
    }

    /// A new connection, as the superuser.
    pub fn session(&self) -> TestSession {
        self.cluster.session(&self.name)
    }

    /// A new connection, as that role.
    pub fn session_as(&self, role: &str) -> TestSession {
        TestSession::open(self.cluster.config(&self.name).user(role))
            .unwrap_or_else(|error| panic!("connecting as {role}: {error}"))
    }

    /// Creates the table `products` of the README, with one row per URL.
    pub fn products(&self, urls: &[String]) -> TestSession {
        let mut session = self.session();
        session.run(
            "CREATE TABLE products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, \
             image_url text, alt text, seo text)",
        );
        for url in urls {
            session.run(&format!(
                "INSERT INTO products (title, image_url) VALUES ('Product', '{url}')"
            ));
        }
        session
    }

    /// Creates the table `products` with `count` pictures of a server: `/0.jpg`, `/1.jpg` …
    pub fn products_of(&self, web: &TestServer, count: usize) -> TestSession {
        self.products(&web.pictures(count))
    }

    /// Waits until the SQL condition holds in this database.
    ///
    /// # Panics
    /// Like [`eventually`].
    #[track_caller]
    pub fn eventually(&self, condition: &str) {
        let mut session = self.session();
        eventually(condition, || session.holds(condition));
    }

    /// Waits until the engine is ready and returns its process id.
    ///
    /// # Panics
    /// Like [`eventually`].
    #[track_caller]
    pub fn engine_pid(&self) -> i64 {
        self.eventually("(SELECT state = 'ready' FROM caption.engine_status())");
        self.session().number("SELECT pid FROM caption.engine_status()")
    }

    /// Prints the state of the extension in this database, to explain a failed test.
    fn describe(&self) {
        let Ok(mut session) = TestSession::open(&self.cluster.config(&self.name)) else { return };
        for view in ["progress", "failure", "database", "host"] {
            let rows = session
                .try_rows(&format!("SELECT row_to_json(v) FROM caption.{view} v"))
                .unwrap_or_default();
            for row in rows.into_iter().flatten().flatten() {
                eprintln!("caption.{view}: {row}");
            }
        }
    }
}

impl Drop for TestDatabase<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.describe();
            eprintln!(
                "--- the server's log, last lines ---\n{}",
                self.cluster.log_tail(&self.name)
            );
        }
        // The databases of a stopped cluster are removed with it.
        let Ok(mut session) = TestSession::open(&self.cluster.config("postgres")) else { return };
        if let Err(error) =
            session.try_rows(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))
        {
            let message = format!("{} could not be dropped: {error}", self.name);
            if std::thread::panicking() { eprintln!("{message}") } else { panic!("{message}") }
        }
    }
}
