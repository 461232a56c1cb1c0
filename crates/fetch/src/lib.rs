//! A URL becomes bytes, or a classified refusal.
//!
//! Called by `crates/engine` from its fetch threads. Promises: only http and https; a connection
//! goes only to an address that was judged, on every hop; bytes and time are bounded whatever the
//! server does; nothing secret of a URL reaches an [`FetchError`]; hosts are asked with patience. It
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
mod client;
mod error;
mod fault;
mod fetch;
mod framing_offenders;
mod gate;
mod hosts;
mod lookup;
mod names;
mod redirected;
mod settings;
mod signature;
mod status;
mod target;
mod transport;

pub use address::{AddressPolicy, AddressVerdict};
pub use error::{FetchError, FetchStage, UrlLocation};
pub use fetch::{FetchRequest, FetchResult, FetchStep, Fetcher, FetcherParts, Reserve};
pub use gate::{HostAdmission, HostPermit};
pub use hosts::{HostAnswer, HostDecision, HostTable};
pub use lookup::{NameResolver, SystemResolver};
pub use redirected::RedirectedFetch;
pub use settings::{FetchSettings, USER_AGENT, networks};
pub use status::LONGEST_PATIENCE;
pub use target::host_key;
