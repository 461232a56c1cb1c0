//! Text of a fixed size, for structures in shared memory.
//!
//! Used by `shared` and `engine::model_status`. Never cuts within a character.

/// UTF-8 text of at most `N` bytes. Longer text is cut at a character boundary.
#[derive(Debug, Clone, Copy)]
pub struct SharedText<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> Default for SharedText<N> {
    fn default() -> Self {
        SharedText { length: 0, bytes: [0; N] }
    }
}

impl<const N: usize> SharedText<N> {
    /// A copy of `text`; `None` is stored as the empty text.
    pub fn new(text: Option<&str>) -> Self {
        let mut copy = Self::default();
        let text = text.unwrap_or_default();
        copy.length = text.floor_char_boundary(N);
        copy.bytes[..copy.length].copy_from_slice(&text.as_bytes()[..copy.length]);
        copy
    }

    /// The text; `None` if it is empty.
    pub fn get(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes[..self.length]);
        (!text.is_empty()).then(|| text.into_owned())
    }
}
