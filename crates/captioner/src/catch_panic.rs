//! Turns panics of libraries into errors.
//!
//! The tokenizer library panics on some files, when it reads them or at the first text that does
//! not suit them. The engine protects its threads with the same function.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls a closure and catches its panic.
///
/// # Errors
/// The panic's message.
pub fn catch_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        message.unwrap_or("panic without a message").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(catch_panic(|| 3), Ok(3));
        assert_eq!(
            catch_panic(|| -> i32 { panic!("bad {}", "tokenizer") }),
            Err("bad tokenizer".into())
        );
        assert_eq!(catch_panic(|| -> i32 { panic!("plainly") }), Err("plainly".into()));
    }
}
