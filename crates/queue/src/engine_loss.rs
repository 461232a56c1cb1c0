//! Which picture makes engines die. The same decision for queue workers and for sessions.

use pg_caption_wire::{Failure, MAX_ENGINE_DEATHS};

/// What becomes of a request that was in flight when its engine was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineLoss {
    /// It is a suspect: send it again with nothing else in flight. So many engines were lost with
    /// this request alone.
    Suspect(u32),
    /// Its picture is the cause: record this failure.
    Reject(Failure),
}

impl EngineLoss {
    /// Judges one request. `losses`: engines lost before with this request alone in flight.
    /// `alone`: nothing else was in flight this time. Only such a loss counts, since any of
    /// several requests may be the cause.
    ///
    /// ```
    /// use pg_caption_queue::EngineLoss;
    ///
    /// assert_eq!(EngineLoss::judge(0, false), EngineLoss::Suspect(0));
    /// assert_eq!(EngineLoss::judge(0, true), EngineLoss::Suspect(1));
    /// let EngineLoss::Reject(failure) = EngineLoss::judge(2, true) else { panic!() };
    /// assert_eq!(failure.code, "engine_killer");
    /// ```
    pub fn judge(losses: u32, alone: bool) -> EngineLoss {
        let losses = losses + u32::from(alone);
        if losses < MAX_ENGINE_DEATHS {
            EngineLoss::Suspect(losses)
        } else {
            EngineLoss::Reject(Failure::engine_killer(losses))
        }
    }
}
