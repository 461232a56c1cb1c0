//! Clients of a long run: random changes of rows, calls of the extension's functions, redefinitions
//! of tables, open and prepared transactions.

use super::Turmoil;
use super::tables::{KEYS, TABLES};
use fastrand::Rng;
use pg_caption_tests::{TestSession, quote_literal};
use std::time::Duration;

/// Settings of each client. The trigger `judge` ignores writes of clients.
pub const SETTINGS: &str = "\
    SET soak.client = 'on'; SET lock_timeout = '2s'; SET statement_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '15s'";

/// SQLSTATEs that faults and other clients explain.
const EXPECTED: [&str; 16] = [
    "08006", "57P01", "57P02", "57P03", "57P05", "25P03", "57014", "55P03", "40P01", "40001",
    "23505", // A key that another client has inserted.
    "42704", // The table is not watched now.
    "38000", "58030", "53000", "55000", // A call of `caption_image`, and why it failed.
];

/// A client and its connection.
pub struct Client<'a> {
    turmoil: &'a Turmoil<'a>,
    random: Rng,
    session: Option<TestSession>,
    urls: Vec<Option<String>>,
    texts: u32,
}

impl<'a> Client<'a> {
    pub fn new(turmoil: &'a Turmoil<'a>, seed: u64) -> Client<'a> {
        let hosts = turmoil.hosts;
        let mut urls: Vec<Option<String>> = vec![None, Some(String::new())];
        // Half of the URLs are of the steady host, a third of the moody one.
        for _ in 0..3 {
            urls.extend(hosts.steady_pictures().into_iter().map(Some));
        }
        for _ in 0..2 {
            urls.extend(hosts.moody_pictures().into_iter().map(Some));
        }
        urls.extend(hosts.failures().into_iter().map(|(url, _)| Some(url)));
        Client { turmoil, random: Rng::with_seed(seed), session: None, urls, texts: 0 }
    }

    /// Acts until the turmoil ends.
    pub fn run(&mut self) {
        while !self.turmoil.is_over() {
            if self.session.is_none() {
                self.session = self.turmoil.connect();
            }
            let steps = self.steps();
            self.take(&steps);
            std::thread::sleep(Duration::from_millis(self.random.u64(0..60)));
        }
    }

    /// Runs statements until one fails. Waits a while before the last one if there are several.
    fn take(&mut self, steps: &[String]) {
        for (number, sql) in steps.iter().enumerate() {
            if number > 0 && number + 1 == steps.len() {
                std::thread::sleep(Duration::from_millis(self.random.u64(0..2500)));
            }
            let Some(session) = &mut self.session else { return };
            let Err(error) = session.try_rows(sql) else { continue };
            let Some(error) = error.as_db_error() else {
                self.session = None;
                return;
            };
            let (code, message) = (error.code().code(), error.message());
            if !EXPECTED.contains(&code) && !message.contains("concurrently updated") {
                let report = format!("{code} {message}: {:?}\n    {sql}", error.detail());
                self.turmoil.unexpected.lock().unwrap().push(report);
            }
            if session.try_rows("ROLLBACK").is_err() {
                self.session = None;
            }
            return;
        }
    }

    /// One transaction, as the statements to send.
    fn steps(&mut self) -> Vec<String> {
        let table = TABLES[self.random.usize(..TABLES.len())];
        match self.random.u32(..1000) {
            0..650 => vec![self.change(table)],
            650..800 => self.open_transaction(table),
            800..900 => vec![self.call(table)],
            900..908 => vec![self.unwatch(table)],
            908..967 => self.redefinition(table),
            967..970 => vec![format!("TRUNCATE {table}")],
            _ => {
                let url = self.url();
                vec![format!("SELECT caption_image({url})")]
            }
        }
    }

    fn url(&mut self) -> String {
        let at = self.random.usize(..self.urls.len());
        self.urls[at].as_deref().map_or("NULL".into(), quote_literal)
    }

    fn key(&mut self) -> String {
        format!("'k{}'", self.random.usize(1..=KEYS))
    }

    /// A new text of a user.
    fn text(&mut self) -> String {
        self.texts += 1;
        format!("'user {}'", self.texts)
    }

    /// A change of a few rows.
    fn change(&mut self, table: &str) -> String {
        let (key, url, text) = (self.key(), self.url(), self.text());
        let fill = ["alt", "seo"][self.random.usize(..2)];
        match self.random.u32(..100) {
            0..20 => format!(
                "INSERT INTO {table} (id, title, image_url) VALUES ({key}, 'Title', {url}) \
                 ON CONFLICT (id) DO UPDATE SET image_url = excluded.image_url"
            ),
            20..45 => format!("UPDATE {table} SET image_url = {url} WHERE id = {key}"),
            45..55 => format!("UPDATE {table} SET {fill} = {text} WHERE id = {key}"),
            // A machine-written text is edited.
            55..60 => format!(
                "UPDATE {table} SET {fill} = 'user ' || {fill} WHERE id = {key} AND {fill} <> ''"
            ),
            60..72 => {
                let empty = ["NULL", "''"][self.random.usize(..2)];
                format!("UPDATE {table} SET {fill} = {empty} WHERE id = {key}")
            }
            72..78 => format!("DELETE FROM {table} WHERE id = {key}"),
            78..80 => format!("UPDATE {table} SET image_url = {url} WHERE id LIKE 'k1%'"),
            80..88 => format!("UPDATE {table} SET title = title || '!' WHERE id = {key}"),
            // The row has a new key: its texts are written again.
            88..92 => {
                let new = self.key();
                format!(
                    "UPDATE {table} SET id = {new}, alt = NULL, seo = NULL WHERE id = {key} \
                     AND NOT EXISTS (SELECT FROM {table} WHERE id = {new})"
                )
            }
            92..98 => format!(
                "DELETE FROM {table} WHERE id = {key}; \
                 INSERT INTO {table} (id, image_url, alt) VALUES ({key}, {url}, {text})"
            ),
            _ => format!(
                "INSERT INTO {table} (id, image_url) \
                 SELECT 'k' || n, {url} FROM generate_series(1, {KEYS}) n \
                 ON CONFLICT DO NOTHING"
            ),
        }
    }

    /// Changes that stay open for a while, with locks, and may be undone or prepared.
    fn open_transaction(&mut self, table: &str) -> Vec<String> {
        let mut steps = vec!["BEGIN".to_owned()];
        if self.random.u32(..8) == 0 {
            steps.push(format!("LOCK TABLE {table}"));
        }
        for _ in 0..self.random.u32(1..4) {
            let change = self.change(table);
            steps.push(match self.random.u32(..5) {
                0 => format!("SAVEPOINT s; {change}; ROLLBACK TO s"),
                1 => format!("SAVEPOINT s; {change}; RELEASE s"),
                _ => change,
            });
        }
        match self.random.u32(..10) {
            0 => {
                let name = format!("p{}", self.random.u64(..));
                let end = ["COMMIT", "ROLLBACK"][self.random.usize(..2)];
                steps.extend([
                    format!("PREPARE TRANSACTION '{name}'"),
                    format!("{end} PREPARED '{name}'"),
                ]);
            }
            1..4 => steps.push("ROLLBACK".into()),
            _ => steps.push("COMMIT".into()),
        }
        steps
    }

    /// A call of a function of the extension.
    fn call(&mut self, table: &str) -> String {
        let call = ["pause", "resume", "resume", "retry", "recaption", "prune", "watch"];
        let call = call[self.random.usize(..call.len())];
        format!("SELECT caption.{call}('{table}')")
    }

    /// Without a watch, the machine-written texts count as a user's.
    fn unwatch(&mut self, table: &str) -> String {
        let rewatch = match self.random.bool() {
            true => format!("; SELECT caption.watch('{table}')"),
            false => String::new(),
        };
        format!(
            "SELECT caption.unwatch('{table}'); \
             UPDATE {table} SET alt = 'user ' || alt WHERE alt <> '' AND alt NOT LIKE 'user%'; \
             UPDATE {table} SET seo = 'user ' || seo WHERE seo <> '' AND seo NOT LIKE 'user%'\
             {rewatch}"
        )
    }

    /// A redefinition of the table.
    fn redefinition(&mut self, table: &str) -> Vec<String> {
        let change = self.change(table);
        let one = match self.random.u32(..9) {
            0 => format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS extra int DEFAULT 7"),
            1 => format!("ALTER TABLE {table} DROP COLUMN IF EXISTS extra"),
            2 => format!(
                "BEGIN; ALTER TABLE {table} RENAME TO renamed; \
                 ALTER TABLE renamed RENAME TO {table}; COMMIT"
            ),
            3 => format!("VACUUM (FULL) {table}"),
            4 => format!("ANALYZE {table}"),
            // Changes that no trigger reports.
            5 => format!(
                "BEGIN; ALTER TABLE {table} DISABLE TRIGGER USER; {change}; \
                 ALTER TABLE {table} ENABLE TRIGGER USER; COMMIT"
            ),
            6 => format!(
                "BEGIN; SET LOCAL session_replication_role = replica; {change}; \
                 RESET session_replication_role; SELECT caption.watch('{table}'); COMMIT"
            ),
            7 => "BEGIN; ALTER TABLE parts DETACH PARTITION parts_1; \
                  UPDATE parts_1 SET image_url = NULL WHERE id LIKE 'k2%'; \
                  ALTER TABLE parts ATTACH PARTITION parts_1 \
                  FOR VALUES WITH (MODULUS 2, REMAINDER 1); COMMIT"
                .into(),
            _ => {
                return vec![
                    format!("ALTER TABLE {table} DISABLE TRIGGER USER"),
                    change,
                    format!("ALTER TABLE {table} ENABLE TRIGGER USER"),
                ];
            }
        };
        vec![one]
    }
}
