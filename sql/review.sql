-- Drafts: texts that a reviewer approves before they are in the table.
--
-- Each function requires the rights of the table's owner, and writes with the caller's. None has a
-- SET clause: conditions are looked up in the caller's search_path, and the table's triggers run
-- with it. The functions pin the path for themselves.

CREATE FUNCTION caption.approve(
        relation       regclass,
        keys           jsonb[] DEFAULT NULL,
        min_confidence real    DEFAULT NULL,
        condition      text    DEFAULT NULL,
        column_name    text    DEFAULT NULL,
        OUT key         jsonb,
        OUT column_name text,
        OUT error       text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'approve_wrapper';
COMMENT ON FUNCTION caption.approve IS
    'Writes the drafts of a watched table into it, with the caller''s rights: all, or some. '
    'keys or condition name rows, column_name a column, min_confidence a bound. Each row is '
    'written on its own. Returns the texts that could not be written, and why.';

CREATE FUNCTION caption.reject(
        relation    regclass,
        keys        jsonb[] DEFAULT NULL,
        condition   text    DEFAULT NULL,
        column_name text    DEFAULT NULL,
        reason      text    DEFAULT NULL)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'reject_wrapper';
COMMENT ON FUNCTION caption.reject IS
    'Rejects drafts of a watched table; of all rows, or of those that keys or condition name. '
    'Nothing is asked for again until the image or the fill changes, caption.recaption() finds '
    'another model, or caption.recaption(force => true). Returns the number of texts.';

CREATE FUNCTION caption.revise(
        relation    regclass,
        key         jsonb,
        column_name text,
        text        text)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'revise_wrapper';
COMMENT ON FUNCTION caption.revise IS
    'Changes the text of a draft, which remains one; a rejected draft waits for its review again. '
    'Once approved, the text counts as user-edited.';

CREATE FUNCTION caption.contact_sheet(
        relation  regclass,
        condition text DEFAULT NULL,
        "limit"   int  DEFAULT 200)
    RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'contact_sheet_wrapper';
COMMENT ON FUNCTION caption.contact_sheet IS
    'Returns an HTML page of pictures with their texts, rows with drafts first. Drafts are edited '
    'and marked there; the page saves a CSV for caption.import_review(). Pictures are linked, not '
    'embedded. limit: the most rows, up to 5000.';

CREATE FUNCTION caption.import_review(
        relation regclass,
        csv      text,
        OUT key         jsonb,
        OUT column_name text,
        OUT error       text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'import_review_wrapper';
COMMENT ON FUNCTION caption.import_review IS
    'Carries out what a reviewer decided on a page of caption.contact_sheet(), with the caller''s '
    'rights. Drafts that have changed since are left alone. Returns the lines that could not be '
    'carried out, and why. The CSV has at most 50 MB.';

REVOKE ALL ON FUNCTION
    caption.approve, caption.reject, caption.revise, caption.contact_sheet, caption.import_review
    FROM PUBLIC;
