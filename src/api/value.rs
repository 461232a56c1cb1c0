//! Arguments of unknown size: they are measured before they are copied.
//!
//! Called by the SQL functions. A value may have a gigabyte, and is refused without a copy.

use pg_caption_wire::{MAX_URL_BYTES, is_blank};
use pgrx::prelude::*;
use pgrx::{AnyElement, FromDatum};

/// The bytes of a value of variable length, decompressed.
pub fn size(value: &AnyElement) -> usize {
    // SAFETY: the argument has a type of variable length by the declaration of the function.
    unsafe { datum_size(value.datum()) }
}

/// The same of a bare value.
///
/// # Safety
/// The value is of a type of variable length, and not NULL.
pub unsafe fn datum_size(value: pg_sys::Datum) -> usize {
    // SAFETY: as promised by the caller.
    unsafe { pg_sys::toast_raw_datum_size(value) }.saturating_sub(size_of::<i32>())
}

/// The value in the type that the declaration of the function gives it.
pub fn read<T: FromDatum>(value: &AnyElement) -> Option<T> {
    // SAFETY: the caller names the type of the declaration.
    unsafe { T::from_datum(value.datum(), false) }
}

/// The URL of an argument, for the engine; `None`: it has none, as a row without a URL.
pub fn url(argument: &str) -> Option<&str> {
    (!is_blank(argument)).then(|| bounded_url(argument))
}

/// A URL without the part that no valid one has. The rest is still too long, and is refused.
pub fn bounded_url(url: &str) -> &str {
    &url[..url.ceil_char_boundary(MAX_URL_BYTES + 1)]
}
