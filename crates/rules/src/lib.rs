//! Words that a caption must not have: rules of the shop, gender-neutral wording, and a list
//! against slurs and obscenity.
//!
//! Pure text. The engine applies all three to what models write, after `postprocess` and before the
//! threshold. A replacement may make a text longer than its style allows; `pg_caption_style::cut`
//! shortens it.
//!
//! ```
//! use pg_caption_rules::{BlockRule, RuleAction, RuleSet};
//!
//! let rules = RuleSet::new(vec![
//!     BlockRule::new("cheap", RuleAction::Refuse),
//!     BlockRule::new("sneakers", RuleAction::Replace("trainers".into())),
//! ])
//! .unwrap();
//! assert_eq!(rules.apply("Red Sneakers on grass", "concise").unwrap(), "Red Trainers on grass");
//! assert!(rules.apply("CHEAP shoes", "concise").is_err());
//! ```

mod folded;
mod neutral;
mod obscene;
mod rule;
mod set;

pub use neutral::{neutral_rules, neutral_wording};
pub use obscene::{obscene_word, refuse_obscene, refuse_obscene_unless};
pub use rule::{BlockRule, MAX_PATTERN, MAX_RULES, RuleAction, RuleError};
pub use set::RuleSet;
