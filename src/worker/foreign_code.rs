//! Code of other roles on a superuser's table. Write-back runs a table's triggers, rules, defaults,
//! constraints, indexes and policies as the table's owner. Where that is a superuser, none of it
//! may belong to a role that is not one.

use super::transaction::spi;
use pgrx::prelude::*;

/// The first such code, as text. `part`: the table and its partitions. `code`: the objects of these
/// relations whose expressions and functions run during a write; PostgreSQL records what they use
/// in `pg_depend`. Functions of `pg_catalog` are not recorded and belong to the bootstrap
/// superuser.
///
/// What the condition of a watch names, and the function that signs, are recorded for the trigger
/// of pg_caption; what the condition of a backfill names, for its entry in `caption.watch`, while
/// it is checked.
///
/// A trigger's function may belong to a superuser, and its arguments or condition to another role
/// with the privilege TRIGGER. Its creator is not recorded, so the privilege decides.
const FOREIGN_CODE: &str = "\
    WITH RECURSIVE part AS ( \
           SELECT $1::oid AS oid \
            UNION ALL \
           SELECT i.inhrelid FROM part p \
             JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid \
             JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition), \
      ordinary AS (SELECT r.oid, r.rolname FROM pg_catalog.pg_authid r WHERE NOT r.rolsuper), \
      code AS ( \
           SELECT 'pg_catalog.pg_trigger'::regclass::oid AS class, t.oid, \
                  CASE WHEN t.tgfoid = 'caption.enqueue()'::regprocedure \
                       THEN 'the condition or signing function of the watch' \
                       ELSE format('trigger %I', t.tgname) END AS name \
             FROM part p JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.oid \
            WHERE NOT t.tgisinternal \
            UNION ALL \
           SELECT 'caption.watch'::regclass, $1, 'the condition of the backfill' \
            UNION ALL \
           SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid, format('rule %I', r.rulename) \
             FROM part p JOIN pg_catalog.pg_rewrite r ON r.ev_class = p.oid \
            UNION ALL \
           SELECT 'pg_catalog.pg_attrdef'::regclass, d.oid, \
                  format('the default or generated value of column %I', a.attname) \
             FROM part p JOIN pg_catalog.pg_attrdef d ON d.adrelid = p.oid \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = p.oid AND a.attnum = d.adnum \
            UNION ALL \
           SELECT 'pg_catalog.pg_constraint'::regclass, c.oid, format('constraint %I', c.conname) \
             FROM part p JOIN pg_catalog.pg_constraint c ON c.conrelid = p.oid \
            UNION ALL \
           SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid, \
                  format('index %I', c.relname) \
             FROM part p JOIN pg_catalog.pg_index i ON i.indrelid = p.oid \
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
            UNION ALL \
           SELECT 'pg_catalog.pg_policy'::regclass, l.oid, format('policy %I', l.polname) \
             FROM part p JOIN pg_catalog.pg_policy l ON l.polrelid = p.oid), \
      used AS ( \
           SELECT c.name, d.refclassid AS class, d.refobjid AS oid \
             FROM code c JOIN pg_catalog.pg_depend d \
               ON d.classid = c.class AND d.objid = c.oid \
              AND (d.refclassid, d.refobjid) <> ('pg_catalog.pg_proc'::regclass, \
                                                 'caption.enqueue()'::regprocedure) \
            UNION ALL \
           SELECT format('column %I', a.attname), 'pg_catalog.pg_type'::regclass, a.atttypid \
             FROM part p JOIN pg_catalog.pg_attribute a \
               ON a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped), \
      found AS ( \
           SELECT format('partition %s belongs to role %I', p.oid::regclass, o.rolname) AS text \
             FROM part p JOIN pg_catalog.pg_class c ON c.oid = p.oid \
             JOIN ordinary o ON o.oid = c.relowner WHERE p.oid <> $1 \
            UNION ALL \
           SELECT format('%s uses function %s of role %I', \
                         u.name, f.oid::regprocedure, o.rolname) \
             FROM used u JOIN pg_catalog.pg_proc f \
               ON u.class = 'pg_catalog.pg_proc'::regclass AND f.oid = u.oid \
             JOIN ordinary o ON o.oid = f.proowner \
            UNION ALL \
           SELECT format('%s uses operator %s of role %I', u.name, e.oid::regoperator, o.rolname) \
             FROM used u JOIN pg_catalog.pg_operator e \
               ON u.class = 'pg_catalog.pg_operator'::regclass AND e.oid = u.oid \
             JOIN pg_catalog.pg_proc f ON f.oid = e.oprcode \
             JOIN ordinary o ON o.oid IN (e.oprowner, f.proowner) \
            UNION ALL \
           SELECT format('%s has type %s of role %I', u.name, t.oid::regtype, o.rolname) \
             FROM used u JOIN pg_catalog.pg_type t \
               ON u.class = 'pg_catalog.pg_type'::regclass AND t.oid = u.oid \
             JOIN ordinary o ON o.oid = t.typowner \
            WHERE (SELECT e.typtype FROM pg_catalog.pg_type e \
                    WHERE e.oid = CASE t.typcategory WHEN 'A' THEN t.typelem ELSE t.oid END) \
                  IN ('d', 'r', 'm') \
            UNION ALL \
           SELECT format('trigger %I has a condition or arguments, and role %s may create \
                          triggers', t.tgname, coalesce(quote_ident(o.rolname), 'PUBLIC')) \
             FROM part p JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.oid \
             JOIN pg_catalog.pg_class c ON c.oid = p.oid \
            CROSS JOIN LATERAL aclexplode(c.relacl) a \
             LEFT JOIN ordinary o ON o.oid = a.grantee \
            WHERE NOT t.tgisinternal AND t.tgfoid <> 'caption.enqueue()'::regprocedure \
              AND (t.tgqual IS NOT NULL OR t.tgnargs > 0) \
              AND a.privilege_type = 'TRIGGER' AND (o.oid IS NOT NULL OR a.grantee = 0)) \
    SELECT min(f.text) FROM found f";

/// What of another role a write to this table would run, if anything.
pub fn find(relation: pg_sys::Oid) -> Option<String> {
    spi(Spi::get_one_with_args(FOREIGN_CODE, &[relation.into()]))
}
