//! A backend's or worker's side of the engine: the connection, requests on it, and which model the
//! launcher reports.

pub mod client;
pub mod model_status;
pub mod requests;
