//! A hook in the decoder for tests of the confinement: code of the test runs on a decode thread, as
//! the code of an attacker would after a successful attack through a picture.
//!
//! The hook is a value, handed from the entry point down to the decoder. There is no global
//! variable, setting or message that could set it. Cargo unifies features when it builds the whole
//! workspace, so a development build of `pg_caption_engine` may contain the code of the hook; its
//! `main` still passes [`DecodeHook::default`], which does nothing. `make install` builds this
//! package alone, without the feature `test_hook`: the type is then empty. Only with PROFILE=dev,
//! for tests, it builds the whole workspace.

/// Runs before each picture is decoded; does nothing by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct DecodeHook {
    #[cfg(feature = "test_hook")]
    call: Option<fn(&[u8])>,
}

impl DecodeHook {
    /// A hook which receives the encoded bytes of each picture.
    #[cfg(feature = "test_hook")]
    pub fn new(call: fn(&[u8])) -> DecodeHook {
        DecodeHook { call: Some(call) }
    }

    /// Called on a decode thread, before the picture is decoded.
    pub(crate) fn run(self, _bytes: &[u8]) {
        #[cfg(feature = "test_hook")]
        if let Some(call) = self.call {
            call(_bytes);
        }
    }
}
