//! What must hold after a long run, as queries for whatever contradicts it.

use pg_caption_tests::TestSession;

/// All rows of all tables.
const ROWS: &str = "\
    (SELECT 'goods'::regclass AS relation, to_jsonb(ARRAY[id]) AS key, image_url, alt, seo \
       FROM goods \
      UNION ALL \
     SELECT 'parts'::regclass, to_jsonb(ARRAY[id]), image_url, alt, seo FROM parts)";

/// Fails with the rows that the query returns.
#[track_caller]
fn none(session: &mut TestSession, what: &str, query: &str) {
    let found: Vec<_> = session
        .rows(&format!("SELECT to_jsonb(f)::text FROM ({query}) f LIMIT 20"))
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// Each text is of a user or of the picture at the row's URL. An empty one has a reason.
pub fn every_text_is_right(session: &mut TestSession) {
    none(session, "wrong writes", "SELECT * FROM violation");
    none(session, "work is left", "SELECT * FROM caption.progress WHERE state <> 'idle'");
    none(session, "the queue is not empty", "SELECT * FROM caption.queue");
    none(session, "rows are deferred", "SELECT * FROM caption.deferred");
    for fill in ["alt", "seo"] {
        none(
            session,
            "texts that are not of the row's picture, and not of a user",
            &format!(
                "SELECT r.*, p.{fill} AS expected FROM {ROWS} r \
                   LEFT JOIN picture p ON p.url = r.image_url \
                  WHERE r.{fill} <> '' AND r.{fill} NOT LIKE 'user%' \
                    AND r.{fill} IS DISTINCT FROM p.{fill}"
            ),
        );
        none(
            session,
            "rows without a text that no failure of their URL explains",
            &format!(
                "SELECT r.*, f.code, f.message FROM {ROWS} r \
                   JOIN picture p ON p.url = r.image_url \
                   LEFT JOIN caption.failed f ON (f.relation, f.key) = (r.relation, r.key) \
                  WHERE coalesce(r.{fill}, '') = '' \
                    AND (f.code IS NULL OR f.code IS DISTINCT FROM p.code)"
            ),
        );
    }
    none(
        session,
        "failures that their URL does not explain",
        &format!(
            "SELECT r.*, f.code, f.message FROM {ROWS} r \
               JOIN caption.failed f ON (f.relation, f.key) = (r.relation, r.key) \
               LEFT JOIN picture p ON p.url = r.image_url \
              WHERE f.code IS DISTINCT FROM p.code \
                AND (coalesce(r.alt, '') = '' OR coalesce(r.seo, '') = '') \
                AND coalesce(r.image_url, '') <> ''"
        ),
    );
}

/// Before anything is tried again: no failure of a host or a process is charged to a picture of the
/// steady host.
pub fn no_innocent_row_has_failed(session: &mut TestSession) {
    none(
        session,
        "innocent rows have failed",
        &format!(
            "SELECT r.*, f.code, f.message, f.detail, f.attempts FROM {ROWS} r \
               JOIN picture p ON p.url = r.image_url AND p.steady \
               JOIN caption.failed f ON (f.relation, f.key) = (r.relation, r.key) \
               JOIN caption.watch_state s ON s.relation = r.relation AND s.backfill_done \
              WHERE f.code IS DISTINCT FROM p.code \
                AND (coalesce(r.alt, '') = '' OR coalesce(r.seo, '') = '') \
                AND NOT EXISTS (SELECT FROM caption.deferred d \
                                 WHERE (d.relation, d.key) = (r.relation, r.key)) \
                AND NOT EXISTS (SELECT FROM caption.queue q WHERE q.relation = r.relation \
                                   AND (q.n = 0 OR q.keys::jsonb @> jsonb_build_array(r.key)))"
        ),
    );
}

/// After a prune.
pub fn bookkeeping_is_of_existing_rows(session: &mut TestSession) {
    for table in ["ledger", "failed"] {
        none(
            session,
            "entries of deleted rows",
            &format!(
                "SELECT '{table}', b.* FROM caption.{table} b WHERE NOT EXISTS \
                   (SELECT FROM {ROWS} r WHERE (r.relation, r.key) = (b.relation, b.key))"
            ),
        );
    }
    none(
        session,
        "machine-written texts without an entry",
        &format!(
            "SELECT r.* FROM {ROWS} r JOIN picture p ON p.url = r.image_url \
              WHERE (r.alt = p.alt OR r.seo = p.seo) AND NOT EXISTS \
                   (SELECT FROM caption.ledger l \
                     WHERE (l.relation, l.key) = (r.relation, r.key))"
        ),
    );
}

/// How much there was to check.
pub fn summary(session: &mut TestSession) -> String {
    session.text(&format!(
        "SELECT format('%s rows, %s machine-written and %s user-written alt texts, %s failures', \
                count(*), count(*) FILTER (WHERE alt <> '' AND alt NOT LIKE 'user%'), \
                count(*) FILTER (WHERE alt LIKE 'user%'), \
                (SELECT count(*) FROM caption.failed)) FROM {ROWS} r"
    ))
}
