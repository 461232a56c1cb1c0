//! The rules of `caption.rule`, which travel with each request.
//!
//! Called by the SQL functions, the look-ahead and the worker, with a pinned `search_path`. The
//! engine applies them.

use crate::api::style::{CommandTime, command_time};
use crate::pg::report::spi;
use pg_caption_rules::{BlockRule, RuleAction, neutral_rules};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

/// In one order, so that equal rules are equal requests.
const RULES: &str = "SELECT r.pattern, r.replacement, r.style FROM caption.rule r \
     ORDER BY r.pattern COLLATE \"C\", r.style COLLATE \"C\"";

/// The rules that this session sees now. A query over many rows reads them once.
pub fn current() -> Rc<Vec<BlockRule>> {
    type ReadRules = (CommandTime, Rc<Vec<BlockRule>>);
    thread_local! {
        static LAST: RefCell<Option<ReadRules>> = const { RefCell::new(None) };
    }
    let now = command_time();
    let last = LAST.with_borrow(|last| last.clone().filter(|(time, _)| *time == now));
    if let Some((_, rules)) = last {
        return rules;
    }
    // Not borrowed during the look-up, which may raise an error.
    let rules = Rc::new(read());
    LAST.set(Some((now, rules.clone())));
    rules
}

fn read() -> Vec<BlockRule> {
    let rules: Vec<BlockRule> = spi(Spi::connect(|client| {
        let rows = client.select(RULES, None, &[])?;
        rows.map(|row| {
            let action = row.get::<String>(2)?.map_or(RuleAction::Refuse, RuleAction::Replace);
            let pattern = row.get(1)?.unwrap_or_default();
            Ok::<_, pgrx::spi::Error>(BlockRule { pattern, action, style: row.get(3)? })
        })
        .collect()
    }));
    // The constraints of the table exclude others, but for blanks that only Unicode knows.
    rules.into_iter().filter(|rule| rule.check().is_ok()).collect()
}

/// `caption.neutral_wording()`.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn neutral_wording() -> TableIterator<
    'static,
    (
        name!(pattern, String),
        name!(action, String),
        name!(replacement, Option<String>),
        name!(style, Option<String>),
    ),
> {
    TableIterator::new(neutral_rules().into_iter().map(|rule| match rule.action {
        RuleAction::Refuse => (rule.pattern, "refuse".into(), None, rule.style),
        RuleAction::Replace(words) => (rule.pattern, "replace".into(), Some(words), rule.style),
    }))
}
