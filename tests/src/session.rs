//! A database connection that returns every value in PostgreSQL's text format.

use postgres::error::DbError;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{CancelToken, Client, Config, NoTls, SimpleQueryMessage};
use std::sync::{Arc, Mutex};

/// A connection that collects the notices of the server.
pub struct TestSession {
    client: Client,
    notices: Arc<Mutex<Vec<DbError>>>,
}

impl TestSession {
    /// Connects.
    ///
    /// # Errors
    /// The driver's connection errors.
    pub fn open(config: &Config) -> Result<Self, postgres::Error> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = notices.clone();
        let client = config
            .clone()
            .notice_callback(move |notice| sink.lock().unwrap().push(notice))
            .connect(NoTls)?;
        Ok(TestSession { client, notices })
    }

    /// Runs SQL and returns the rows of all its statements.
    ///
    /// # Errors
    /// The driver's errors; a server error keeps all its fields.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, postgres::Error> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql)? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(String::from)).collect());
            }
        }
        Ok(rows)
    }

    /// Runs SQL that must succeed and returns its rows.
    ///
    /// # Panics
    /// If the SQL fails.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}\n{}", describe(&error)))
    }

    /// Runs SQL that must succeed and discards its rows.
    ///
    /// # Panics
    /// If the SQL fails.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        self.rows(sql);
    }

    /// The first column of the only row; `None` for NULL.
    ///
    /// # Panics
    /// If the SQL fails or does not return exactly one row.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> Option<String> {
        let mut rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "rows of: {sql}");
        rows.remove(0).remove(0)
    }

    /// The first column of the only row, not NULL.
    ///
    /// # Panics
    /// Like [`TestSession::value`], and for NULL.
    #[track_caller]
    pub fn text(&mut self, sql: &str) -> String {
        self.value(sql).unwrap_or_else(|| panic!("NULL from: {sql}"))
    }

    /// The first column of the only row as an integer.
    ///
    /// # Panics
    /// Like [`TestSession::text`], and for a text that is not an integer.
    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let text = self.text(sql);
        text.parse().unwrap_or_else(|_| panic!("{text:?} is not an integer: {sql}"))
    }

    /// Whether the SQL condition is true; NULL counts as false.
    ///
    /// # Panics
    /// Like [`TestSession::value`].
    #[track_caller]
    pub fn holds(&mut self, condition: &str) -> bool {
        self.value(&format!("SELECT {condition}")).as_deref() == Some("t")
    }

    /// Runs SQL that must fail and returns the server's error.
    ///
    /// # Panics
    /// If the SQL succeeds or the connection is lost.
    #[track_caller]
    pub fn error(&mut self, sql: &str) -> DbError {
        match self.try_rows(sql) {
            Ok(rows) => panic!("expected an error, got {rows:?}: {sql}"),
            Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{error}: {sql}")).clone(),
        }
    }

    /// Channel and payload of the notifications that have arrived.
    pub fn notifications(&mut self) -> Vec<(String, String)> {
        let mut all = self.client.notifications();
        let found = all.iter().map(|one| Ok((one.channel().into(), one.payload().into())));
        found.collect().expect("a connection")
    }

    /// The notices and warnings since the last call.
    pub fn notices(&mut self) -> Vec<DbError> {
        std::mem::take(&mut *self.notices.lock().unwrap())
    }

    /// A token with which another thread cancels the running statement.
    pub fn canceller(&self) -> CancelToken {
        self.client.cancel_token()
    }

    /// The major version of the server.
    pub fn major(&mut self) -> i64 {
        self.number("SELECT current_setting('server_version_num')::int / 10000")
    }

    /// The process id of this connection's backend.
    pub fn pid(&mut self) -> i64 {
        self.number("SELECT pg_catalog.pg_backend_pid()")
    }
}

/// The text as an SQL string literal.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// All fields of a server error, one per line.
fn describe(error: &postgres::Error) -> String {
    let Some(error) = error.as_db_error() else { return error.to_string() };
    let more = [("DETAIL", error.detail()), ("HINT", error.hint()), ("CONTEXT", error.where_())];
    let more: String = more
        .iter()
        .filter_map(|(name, text)| text.map(|text| format!("\n{name}: {text}")))
        .collect();
    format!("{} {}: {}{more}", error.severity(), error.code().code(), error.message())
}
