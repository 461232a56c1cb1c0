//! Which picture makes engines die. The same decision for queue workers and for sessions.
//!
//! The engine reports each picture before it is decoded. A request without that report is never the
//! cause of a death. The others are suspects: half of them at a time are sent again among ordinary
//! requests. A suspect of two deaths is sent as isolated, and only deaths in which the engine ran
//! nothing else are held against its picture.

use pg_caption_wire::{Failure, MAX_ENGINE_DEATHS};

/// Deaths after which a suspect runs isolated.
const SHARED_DEATHS: u32 = 2;

/// What the engine has reported about a request in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequestWork {
    /// The picture is queued, or being fetched.
    #[default]
    Waiting,
    /// The picture is, or was, in decoder or model. `alone`: nothing else was, all the time.
    Running {
        /// No other picture was in decoder or model.
        alone: bool,
    },
}

impl RequestWork {
    /// The engine reports that the picture runs.
    pub fn report(&mut self, alone: bool) {
        let before = !matches!(self, RequestWork::Running { alone: false });
        *self = RequestWork::Running { alone: alone && before };
    }
}

/// The engine deaths that one request has seen while its picture ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineTrial {
    /// Deaths.
    deaths: u32,
    /// Deaths while nothing else ran.
    alone: u32,
}

/// What becomes of a request that was in flight when its engine was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineLoss {
    /// It cannot be the cause: send it again immediately.
    Resend,
    /// It may be the cause: send it again as [`EngineTrial::may_send`] allows.
    Suspect,
    /// Its picture is the cause: record this failure.
    Reject(Failure),
}

impl EngineTrial {
    /// Judges one request in flight.
    ///
    /// ```
    /// use pg_caption_queue::{EngineLoss, EngineTrial, RequestWork};
    ///
    /// let mut trial = EngineTrial::default();
    /// assert_eq!(trial.lost(RequestWork::Waiting), EngineLoss::Resend);
    /// assert_eq!(trial.lost(RequestWork::Running { alone: false }), EngineLoss::Suspect);
    /// assert_eq!(trial.lost(RequestWork::Running { alone: true }), EngineLoss::Suspect);
    /// assert_eq!(trial.lost(RequestWork::Running { alone: true }), EngineLoss::Suspect);
    /// let EngineLoss::Reject(failure) = trial.lost(RequestWork::Running { alone: true }) else {
    ///     panic!()
    /// };
    /// assert_eq!(failure.code, "engine_killer");
    /// ```
    pub fn lost(&mut self, work: RequestWork) -> EngineLoss {
        if let RequestWork::Running { alone } = work {
            self.deaths += 1;
            self.alone += u32::from(alone);
        }
        match self {
            EngineTrial { deaths: 0, .. } => EngineLoss::Resend,
            EngineTrial { alone, .. } if *alone >= MAX_ENGINE_DEATHS => {
                EngineLoss::Reject(Failure::engine_killer(*alone))
            }
            _ => EngineLoss::Suspect,
        }
    }

    /// Whether an engine died while the picture ran.
    pub fn is_suspect(&self) -> bool {
        self.deaths > 0
    }

    /// Whether the picture must run while the engine runs nothing else.
    pub fn is_isolated(&self) -> bool {
        self.alone > 0 || self.deaths >= SHARED_DEATHS
    }

    /// Whether one of `waiting` suspects may be sent while `in_flight` others are: half of them at
    /// a time, so that each death halves the circle.
    pub fn may_send(waiting: usize, in_flight: usize) -> bool {
        waiting > 0 && in_flight < (waiting + in_flight).div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: RequestWork = RequestWork::Running { alone: false };

    #[test]
    fn a_fetch_is_never_guilty() {
        let mut trial = EngineTrial::default();
        for _ in 0..99 {
            assert_eq!(trial.lost(RequestWork::Waiting), EngineLoss::Resend);
        }
        assert_eq!(trial, EngineTrial::default());
    }

    #[test]
    fn shared_deaths_isolate_and_never_convict() {
        let mut trial = EngineTrial::default();
        assert_eq!(trial.lost(SHARED), EngineLoss::Suspect);
        assert!(trial.is_suspect() && !trial.is_isolated());
        for _ in 0..99 {
            assert_eq!(trial.lost(SHARED), EngineLoss::Suspect);
            assert!(trial.is_isolated());
        }
        assert_eq!(trial.lost(RequestWork::Waiting), EngineLoss::Suspect);
    }

    #[test]
    fn company_once_reported_stays() {
        let mut work = RequestWork::default();
        work.report(true);
        assert_eq!(work, RequestWork::Running { alone: true });
        for alone in [false, true] {
            work.report(alone);
            assert_eq!(work, SHARED);
        }
    }

    #[test]
    fn half_of_the_suspects_are_sent_at_a_time() {
        for (suspects, expected) in [(0, 0), (1, 1), (2, 1), (5, 3), (8, 4)] {
            let mut sent = 0;
            while EngineTrial::may_send(suspects - sent, sent) {
                sent += 1;
            }
            assert_eq!(sent, expected, "of {suspects}");
        }
    }
}
