//! A URL becomes bytes, or a classified refusal.
