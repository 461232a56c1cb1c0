//! Look-ahead: a statement that calls `caption_image` for its rows requests the pictures of the
//! next rows, and finds the answers under way when each row's turn comes.
//!
//! `planner` puts a node above the plan node that computes the calls, if `stream` and `calls` find
//! that reading ahead changes nothing but time. The node (`scan`, `window`) reads rows of its child
//! ahead, evaluates the arguments of their calls, and requests the pictures (`requests`). A call
//! evaluates its arguments again and takes the answer to an equal request. All else takes the
//! ordinary way, so a request ahead that failed or does not match costs only time.

mod attempt;
mod calls;
mod functions;
mod limit;
mod nodes;
mod planner;
mod quiet;
mod reason;
mod requests;
mod rewrite;
mod scan;
mod stream;
mod window;

pub use window::answer;

/// Installs the planner's hook and the node; in the postmaster, while preloading: backends inherit
/// them.
pub fn init() {
    functions::init();
    scan::init();
    planner::init();
}
