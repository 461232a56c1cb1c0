//! A URL becomes bytes, or a classified refusal.
//!
//! Called by `crates/engine` from its fetch threads. Promises: only http and https; a connection
//! goes only to an address that was judged, on every hop; bytes and time are bounded whatever the
//! server does; nothing secret of a URL reaches an [`Error`]; hosts are asked with patience. It
//! never decodes a picture and knows nothing of captions or PostgreSQL.
//!
//! ```text
//! text ─ target ─ names (allowed_hosts) ─ gate/hosts (per-host cap, cooldown) ─ fetch ─┬─ body (limits) ─ bytes
//!            ▲                                                                        │
//!            └────────────────────────── redirect, judged anew ◄──────────────────────┘
//! fetch ─ client (ureq) ─ lookup + address (which addresses) ─ transport (deadline, cancel)
//! ```

mod address;
mod attempt;
mod body;
mod careless;
mod client;
mod error;
mod fault;
mod fetch;
mod gate;
mod hosts;
mod journey;
mod lookup;
mod names;
mod settings;
mod signature;
mod status;
mod target;
mod transport;

pub use address::{AddressPolicy, Verdict};
pub use error::{Error, Place, Stage};
pub use fetch::{Fetched, Fetcher, Get, Parts, Reserve, Step};
pub use gate::{Admission, Permit};
pub use hosts::{Answer, Decision, Hosts};
pub use journey::Journey;
pub use lookup::{Resolve, SystemResolver};
pub use settings::{Settings, USER_AGENT, networks};
pub use status::LONGEST_PATIENCE;
pub use target::host_key;
