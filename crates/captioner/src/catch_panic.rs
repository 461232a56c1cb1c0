//! Other people's code over a folder's files: where it panics, that is an error like any other.
//!
//! The tokenizer's library panics over some files it can read, when it reads them or at the first
//! text they do not suit. The engine keeps its model thread alive with the same.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a call gives; its words, if it panics.
///
/// # Errors
/// What the panic said.
pub fn catch_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let words = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        words.unwrap_or("a panic without words").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_words() {
        assert_eq!(catch_panic(|| 3), Ok(3));
        assert_eq!(
            catch_panic(|| -> i32 { panic!("as {} said", "somebody") }),
            Err("as somebody said".into())
        );
        assert_eq!(catch_panic(|| -> i32 { panic!("plainly") }), Err("plainly".into()));
    }
}
