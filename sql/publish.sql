-- Helpers for pages: markup from addresses and texts, escaped. They read nothing and write nothing.

CREATE FUNCTION caption.web_address(address text)
    RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        -- As browsers read an address: they drop tabs and line ends, and trim blanks and control
        -- characters. Without it, "java<tab>script:" would be no scheme here, and one there.
        clean constant text := regexp_replace(
            regexp_replace(address, '[\t\n\r]', '', 'g'),
            '^[\x01-\x20\u00A0\u200B\u200E\uFEFF]+|[\x01-\x20\u00A0\u200B\u200E\uFEFF]+$',
            '', 'g');
    BEGIN
        IF clean ~ '^[^/?#]*:' AND clean !~* '^https?:' THEN
            RAISE EXCEPTION 'not an address for a page: "%"',
                    left(substring(clean FROM '^[^/?#:]*:'), 40)
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL  = 'Only http, https and relative addresses are written into markup.',
                      HINT    = 'Put https:// before a host name.';
        END IF;
        RETURN clean;
    END
    $$;
COMMENT ON FUNCTION caption.web_address(text) IS
    'Returns an address as it may stand in a page: http, https or relative, without blanks '
    'around it. Other schemes, such as javascript: and data:, raise an error.';

CREATE FUNCTION caption.escape_markup(value text)
    RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT replace(replace(replace(replace(replace(
                   regexp_replace(value, '[\x01-\x08\x0B\x0C\x0E-\x1F\x7F]', '', 'g'),
                   '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;')
    $$;
COMMENT ON FUNCTION caption.escape_markup(text) IS
    'Returns a text for an attribute or the content of an HTML element. Characters that HTML '
    'permits nowhere are removed.';

CREATE FUNCTION caption.img_tag(
        url        text,
        alt        text,
        width      int   DEFAULT NULL,
        height     int   DEFAULT NULL,
        attributes jsonb DEFAULT NULL)
    RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        source constant text := caption.web_address(url);
        tag text;
        name text;
        value text;
    BEGIN
        IF source IS NULL OR source = '' THEN
            RETURN NULL;
        END IF;
        IF width < 0 OR height < 0 THEN
            RAISE EXCEPTION 'width and height must not be negative'
                USING ERRCODE = 'invalid_parameter_value',
                      HINT    = 'They are pixels. NULL leaves them out.';
        END IF;
        tag := format('<img src="%s" alt="%s"',
                      caption.escape_markup(source),
                      caption.escape_markup(regexp_replace(coalesce(alt, ''), '\s+', ' ', 'g')));
        IF width IS NOT NULL THEN
            tag := format('%s width="%s"', tag, width);
        END IF;
        IF height IS NOT NULL THEN
            tag := format('%s height="%s"', tag, height);
        END IF;
        IF jsonb_typeof(attributes) <> 'object' THEN
            RAISE EXCEPTION 'attributes must be a JSON object'
                USING ERRCODE = 'invalid_parameter_value',
                      HINT    = 'For example: ''{"loading": "lazy"}''.';
        END IF;
        FOR name, value IN
            SELECT a.key, a.value FROM jsonb_each_text(attributes) AS a ORDER BY a.key
        LOOP
            IF name !~ '^(class|id|title|lang|dir|loading|decoding|fetchpriority|sizes|itemprop'
                       '|role|data-[a-z0-9_.-]+|aria-[a-z]+)$' THEN
                RAISE EXCEPTION 'img_tag cannot write the attribute "%"', left(name, 40)
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL  = 'It writes class, id, title, lang, dir, loading, decoding, '
                                    'fetchpriority, sizes, itemprop, role, data-… and aria-…, '
                                    'in lower case.',
                          HINT    = 'Addresses and scripts are no attributes here.';
            END IF;
            tag := format('%s %s="%s"', tag, name, caption.escape_markup(coalesce(value, '')));
        END LOOP;
        RETURN tag || '>';
    END
    $$;
COMMENT ON FUNCTION caption.img_tag(text, text, int, int, jsonb) IS
    'Returns an HTML img element. Without a text alt is empty, so that a screen reader skips the '
    'image and does not read its file name. attributes: {"loading": "lazy", "class": "…"}.';

CREATE FUNCTION caption.open_graph(
        image       text,
        alt         text DEFAULT NULL,
        description text DEFAULT NULL,
        title       text DEFAULT NULL,
        url         text DEFAULT NULL,
        type        text DEFAULT NULL)
    RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        picture constant text := nullif(caption.web_address(image), '');
        page constant text := nullif(caption.web_address(url), '');
    BEGIN
        IF picture !~* '^https?://' OR page !~* '^https?://' THEN
            RAISE EXCEPTION 'Open Graph needs whole addresses, not "%"',
                    left(CASE WHEN page !~* '^https?://' THEN page ELSE picture END, 40)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT    = 'Put the scheme and the host of the site before it.';
        END IF;
        RETURN (
            SELECT string_agg(format('<meta %s="%s" content="%s">', m.attribute, m.name,
                                     caption.escape_markup(m.content)),
                              E'\n' ORDER BY m.ordinality)
              FROM ROWS FROM (
                       unnest('{name,property,property,property,property,property,property}'
                              ::text[]),
                       unnest('{description,og:title,og:description,og:type,og:url,og:image,'
                              'og:image:alt}'::text[]),
                       unnest(ARRAY[description, title, description, type, page, picture,
                                    CASE WHEN picture IS NOT NULL THEN alt END])
                   ) WITH ORDINALITY AS m (attribute, name, content, ordinality)
             WHERE btrim(m.content) <> '');
    END
    $$;
COMMENT ON FUNCTION caption.open_graph(text, text, text, text, text, text) IS
    'Returns meta elements for the head of a page, one per line: description, og:title, '
    'og:description, og:type, og:url, og:image and og:image:alt. '
    'What is NULL or empty is left out.';

CREATE FUNCTION caption.json_ld(
        image       text,
        caption     text  DEFAULT NULL,
        description text  DEFAULT NULL,
        product     jsonb DEFAULT NULL)
    RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        picture constant text := nullif(caption.web_address(image), '');
        object jsonb;
    BEGIN
        IF picture IS NOT NULL THEN
            object := jsonb_strip_nulls(jsonb_build_object(
                '@type', 'ImageObject',
                'contentUrl', picture,
                'caption', nullif(btrim(caption), ''),
                'description', CASE WHEN product IS NULL THEN nullif(btrim(description), '') END));
        END IF;
        IF product IS NOT NULL THEN
            IF jsonb_typeof(product) <> 'object'
               OR coalesce(btrim(product->>'name'), '') = '' THEN
                RAISE EXCEPTION 'a product needs a name'
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL  = 'product is an object with properties of schema.org/Product.',
                          HINT    = 'For example: '
                                    'jsonb_build_object(''name'', title, ''sku'', sku).';
            END IF;
            -- The product's own properties win.
            object := jsonb_strip_nulls(jsonb_build_object(
                '@type', 'Product',
                'description', nullif(btrim(description), ''),
                'image', object)) || jsonb_strip_nulls(product);
        END IF;
        IF object IS NULL THEN
            RETURN NULL;
        END IF;
        object := jsonb_build_object('@context', 'https://schema.org') || object;
        -- Within a script element "</script>" and "<!--" would end or change the script.
        RETURN '<script type="application/ld+json">'
            || replace(replace(replace(object::text, '<', '\u003c'), '>', '\u003e'),
                       '&', '\u0026')
            || '</script>';
    END
    $$;
COMMENT ON FUNCTION caption.json_ld(text, text, text, jsonb) IS
    'Returns a script element with structured data: an ImageObject of schema.org, or with product '
    'a Product that has the image. product: properties such as name, sku, brand and offers.';
