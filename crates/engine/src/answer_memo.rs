//! Raw answers of the model, kept for a while: for equal bytes and an equal request the model does
//! not run again. Rules, threshold and template apply to what it returns, because they differ
//! between databases. Used by `shared_answers`.
//!
//! The key contains the digest of the file, so only a caller who has the file, or may fetch it,
//! finds an answer.

use crate::provider::values::RawCaption;
use lru::LruCache;

/// A SHA-256.
pub type Digest256 = [u8; 32];

/// Bytes that a picture or an answer needs besides its text.
const OVERHEAD: u64 = 256;

fn size_of(raw: &RawCaption) -> u64 {
    OVERHEAD + raw.text.len() as u64
}

/// What is known of a file besides its answers.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureRecord {
    /// As in `ImageFacts`.
    pub format: String,
    /// Of the upright picture, pixels.
    pub width: u32,
    /// Of the upright picture, pixels.
    pub height: u32,
    /// Of the file.
    pub bytes: u64,
    /// The model's confidence in the picture before any text.
    pub confidence: Option<f32>,
}

struct MemoEntry {
    record: PictureRecord,
    answers: Vec<(Digest256, RawCaption)>,
    bytes: u64,
}

/// Answers by picture and request. The least recently used pictures leave first.
pub struct AnswerMemo {
    limit: u64,
    bytes: u64,
    entries: LruCache<Digest256, MemoEntry>,
}

impl AnswerMemo {
    /// An empty memo of at most `limit` bytes; 0: it keeps nothing.
    pub fn new(limit: u64) -> AnswerMemo {
        AnswerMemo { limit, bytes: 0, entries: LruCache::unbounded() }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records a picture.
    pub fn note(&mut self, picture: Digest256, record: PictureRecord) {
        if self.limit >= OVERHEAD && self.entries.get(&picture).is_none() {
            let entry = MemoEntry { record, answers: Vec::new(), bytes: OVERHEAD };
            self.bytes += entry.bytes;
            self.entries.put(picture, entry);
            self.shrink();
        }
    }

    /// Adds an answer to a recorded picture, in place of an older one.
    pub fn put(&mut self, picture: &Digest256, request: Digest256, raw: &RawCaption) {
        let size = size_of(raw);
        let Some(entry) = self.entries.get_mut(picture) else { return };
        if let Some(at) = entry.answers.iter().position(|(of, _)| *of == request) {
            let older = size_of(&entry.answers.swap_remove(at).1);
            entry.bytes -= older;
            self.bytes -= older;
        }
        if entry.bytes + size > self.limit {
            return;
        }
        let (ids, prompt_ids) = (Vec::new(), Vec::new());
        entry.answers.push((request, RawCaption { ids, prompt_ids, ..raw.clone() }));
        entry.bytes += size;
        self.bytes += size;
        self.shrink();
    }

    /// What is known of a picture.
    pub fn record(&mut self, picture: &Digest256) -> Option<PictureRecord> {
        self.entries.get(picture).map(|entry| entry.record.clone())
    }

    /// The answer to a request.
    pub fn answer(&mut self, picture: &Digest256, request: &Digest256) -> Option<RawCaption> {
        let entry = self.entries.get(picture)?;
        entry.answers.iter().find(|(of, _)| of == request).map(|(_, raw)| raw.clone())
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit
            && let Some((_, entry)) = self.entries.pop_lru()
        {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::fake::raw;

    fn record() -> PictureRecord {
        PictureRecord { format: "png".into(), width: 1, height: 1, bytes: 9, confidence: None }
    }

    fn digest(number: u32) -> Digest256 {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[test]
    fn the_memo_is_bounded_and_drops_the_oldest() {
        let mut memo = AnswerMemo::new(64 << 10);
        for number in 0..10_000 {
            memo.note(digest(number), record());
            for request in 0..number % 4 {
                memo.put(&digest(number), digest(request), &raw(&"word ".repeat(50), None));
            }
            assert!(memo.answer(&digest(3), &digest(0)).is_some() || number < 3, "in use");
            assert!(memo.bytes() <= 64 << 10);
        }
        assert!(memo.bytes() > 32 << 10, "it keeps what fits");
        assert!(memo.record(&digest(5)).is_none());
        assert!(memo.record(&digest(9_999)).is_some());
        let all: u64 = memo.entries.iter().map(|(_, entry)| entry.bytes).sum();
        assert_eq!(all, memo.bytes());
    }

    #[test]
    fn a_newer_answer_replaces_an_older_one() {
        let mut memo = AnswerMemo::new(64 << 10);
        memo.note(digest(1), record());
        for text in ["a", "a longer one", "b"] {
            memo.put(&digest(1), digest(1), &raw(text, None));
            assert_eq!(memo.answer(&digest(1), &digest(1)).unwrap().text, text);
            assert_eq!(memo.bytes(), 2 * OVERHEAD + text.len() as u64);
        }
    }

    #[test]
    fn an_answer_larger_than_the_memo_is_not_kept() {
        let mut memo = AnswerMemo::new(1024);
        memo.note(digest(1), record());
        memo.put(&digest(1), digest(1), &raw(&"a".repeat(2000), None));
        assert_eq!(memo.answer(&digest(1), &digest(1)), None);
        assert_eq!(memo.bytes(), OVERHEAD);
        let mut none = AnswerMemo::new(0);
        none.note(digest(1), record());
        none.put(&digest(1), digest(1), &raw("a", None));
        assert_eq!((none.bytes(), none.record(&digest(1))), (0, None));
    }
}
