//! Fetches a URL within limits, or returns a classified error.
//!
//! Called by `crates/engine` from its fetch threads. Promises:
//! * Only http and https are fetched. Connections go only to permitted addresses, on every hop.
//! * Bytes and time are bounded, whatever the server does.
//! * No secret of a URL reaches a [`FetchError`].
//! * Limits and pauses of hosts are respected.
//!
//! It never decodes a picture and knows nothing of captions or PostgreSQL.
//!
//! ```text
//! URL ─ target ─ names (allowed_hosts) ─ gate/hosts (limit, pause) ─ fetch ─┬─ body ─ bytes
//!           ▲                                                              │
//!           └────────────────── redirect, checked again ◄──────────────────┘
//! fetch ─ client (ureq) ─ lookup + address (which addresses) ─ transport (deadline, cancel) ─ tls
//! ```

mod address;
mod attempt;
mod body;
mod client;
mod cookies;
mod error;
mod fault;
mod fetch;
mod framing_offenders;
mod freshness;
mod gate;
mod hosts;
mod lenient;
mod lookup;
mod lookup_line;
mod names;
mod oddity;
mod redirected;
mod request_headers;
mod response;
mod settings;
mod shares;
mod signature;
mod status;
mod target;
mod tls;
mod transport;

pub use address::{AddressPolicy, AddressVerdict};
pub use error::{FetchError, FetchStage, UrlLocation, name_url};
pub use fetch::{
    BodyRoom, FetchRequest, FetchResult, FetchStep, Fetcher, FetcherParts, Reserve, RoomError,
};
pub use gate::{HostAdmission, HostPermit};
pub use hosts::{HostAnswer, HostDecision, HostTable};
pub use lookup::{NameResolver, SystemResolver};
pub use oddity::{UrlOddity, url_hint};
pub use redirected::RedirectedFetch;
pub use request_headers::RequestHeaders;
pub use settings::{FetchSettings, USER_AGENT, networks};
pub use shares::{FairShares, FetchClient};
pub use status::requested_pause;
pub use target::host_key;
pub use tls::{CertificateFault, SharedTls, system_roots};
pub use transport::await_unless;
