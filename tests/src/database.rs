//! A database with the extension, dropped at the end of its test.

use crate::{Cluster, Session, Web, eventually};
use std::sync::atomic::{AtomicU32, Ordering};

/// A database of its own for one test.
pub struct Database<'a> {
    /// Where it lives.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl<'a> Database<'a> {
    pub(crate) fn create(cluster: &'a Cluster, extension: Option<&str>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.session("postgres").run(&format!("CREATE DATABASE {name}"));
        let database = Database { cluster, name };
        if let Some(create) = extension {
            database.session().run(create);
        }
        database
    }

    /// A new connection to it, as the superuser.
    pub fn session(&self) -> Session {
        self.cluster.session(&self.name)
    }

    /// A new connection to it, as that role.
    pub fn session_as(&self, role: &str) -> Session {
        Session::open(self.cluster.config(&self.name).user(role))
            .unwrap_or_else(|error| panic!("connecting as {role}: {error}"))
    }

    /// Creates the table that the README shows, with one row per URL.
    pub fn products(&self, urls: &[String]) -> Session {
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

    /// Likewise with `count` pictures of `web`, each at an address of its own: `/0.jpg`, `/1.jpg` …
    pub fn products_of(&self, web: &Web, count: usize) -> Session {
        self.products(&web.pictures(count))
    }

    /// Waits until the condition holds here.
    ///
    /// # Panics
    /// As [`eventually`].
    #[track_caller]
    pub fn eventually(&self, condition: &str) {
        let mut session = self.session();
        eventually(condition, || session.holds(condition));
    }

    /// Says how far everything is, for whoever reads why a test failed.
    fn describe(&self) {
        let Ok(mut session) = Session::open(&self.cluster.config(&self.name)) else { return };
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

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.describe();
            eprintln!(
                "--- the server's log, last lines ---\n{}",
                self.cluster.log_tail(&self.name)
            );
        }
        // A cluster that a test has stopped takes its databases with it.
        let Ok(mut session) = Session::open(&self.cluster.config("postgres")) else { return };
        if let Err(error) =
            session.try_rows(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))
        {
            let message = format!("{} could not be dropped: {error}", self.name);
            if std::thread::panicking() { eprintln!("{message}") } else { panic!("{message}") }
        }
    }
}
