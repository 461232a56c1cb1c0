//! One connection, spoken to in SQL text: every value comes back as PostgreSQL prints it.

use postgres::error::DbError;
use postgres::{CancelToken, Client, Config, NoTls, SimpleQueryMessage};
use std::sync::{Arc, Mutex};

/// A connection that remembers the notices it was sent.
pub struct Session {
    client: Client,
    notices: Arc<Mutex<Vec<DbError>>>,
}

impl Session {
    /// Connects, or says why not.
    ///
    /// # Errors
    /// As the driver.
    pub fn open(config: &Config) -> Result<Self, postgres::Error> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = notices.clone();
        let client = config
            .clone()
            .notice_callback(move |notice| sink.lock().unwrap().push(notice))
            .connect(NoTls)?;
        Ok(Session { client, notices })
    }

    /// The rows of the last statement that returned any.
    ///
    /// # Errors
    /// As the driver; server errors with their fields.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, postgres::Error> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql)? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(String::from)).collect());
            }
        }
        Ok(rows)
    }

    /// Likewise, for SQL that must work.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}\n{}", describe(&error)))
    }

    /// Runs SQL for its effect.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        self.rows(sql);
    }

    /// The first column of the only row.
    ///
    /// # Panics
    /// If it fails or there is not exactly one row.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> Option<String> {
        let mut rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "rows of: {sql}");
        rows.remove(0).remove(0)
    }

    /// The first column of the only row, which is not NULL.
    ///
    /// # Panics
    /// As [`Session::value`], and for NULL.
    #[track_caller]
    pub fn text(&mut self, sql: &str) -> String {
        self.value(sql).unwrap_or_else(|| panic!("NULL from: {sql}"))
    }

    /// The number in the first column of the only row.
    ///
    /// # Panics
    /// As [`Session::text`], and for what is no whole number.
    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let text = self.text(sql);
        text.parse().unwrap_or_else(|_| panic!("{text:?} is no whole number: {sql}"))
    }

    /// Whether the first column of the only row is true; NULL is not.
    ///
    /// # Panics
    /// As [`Session::value`].
    #[track_caller]
    pub fn holds(&mut self, condition: &str) -> bool {
        self.value(&format!("SELECT {condition}")).as_deref() == Some("t")
    }

    /// The error that the SQL must end with.
    ///
    /// # Panics
    /// If it works, or if the connection is lost.
    #[track_caller]
    pub fn error(&mut self, sql: &str) -> DbError {
        match self.try_rows(sql) {
            Ok(rows) => panic!("should have failed, but returned {rows:?}: {sql}"),
            Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{error}: {sql}")).clone(),
        }
    }

    /// Notices and warnings since the last call.
    pub fn notices(&mut self) -> Vec<DbError> {
        std::mem::take(&mut *self.notices.lock().unwrap())
    }

    /// What cancels the statement that runs here, from another thread.
    pub fn canceller(&self) -> CancelToken {
        self.client.cancel_token()
    }

    /// The major version of the server.
    pub fn major(&mut self) -> i64 {
        self.number("SELECT current_setting('server_version_num')::int / 10000")
    }

    /// The server process of this connection.
    pub fn pid(&mut self) -> i64 {
        self.number("SELECT pg_catalog.pg_backend_pid()")
    }
}

/// Everything a server says about an error.
fn describe(error: &postgres::Error) -> String {
    let Some(error) = error.as_db_error() else { return error.to_string() };
    let more = [("DETAIL", error.detail()), ("HINT", error.hint()), ("CONTEXT", error.where_())];
    let more: String = more
        .iter()
        .filter_map(|(name, text)| text.map(|text| format!("\n{name}: {text}")))
        .collect();
    format!("{} {}: {}{more}", error.severity(), error.code().code(), error.message())
}
