//! What the live tests share: clusters, web servers, waiting for conditions.
