//! The engine as sessions and workers see it: the connection, requests on it, and the model status
//! that the launcher publishes.

pub mod client;
pub mod model_status;
pub mod requests;
