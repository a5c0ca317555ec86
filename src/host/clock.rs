//! The machine's wall clock as a value: the system's own, or one that follows tokio's clock, which rehearsals pause. The
//! one door to the time of day; durations and deadlines are tokio's business.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    since: Option<(Timestamp, Instant)>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { since: None }
    }

    /// A clock that showed `start` at `origin` and runs as tokio's does.
    #[must_use]
    pub fn from(start: Timestamp, origin: Instant) -> Self {
        Self { since: Some((start, origin)) }
    }

    /// The time of day.
    #[expect(clippy::disallowed_methods, reason = "the one door to the wall clock")]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self.since {
            None => Timestamp::now(),
            Some((start, origin)) => {
                let passed = SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::ZERO);
                // Only a rehearsal of ten thousand years would not fit; it stands still then.
                start.checked_add(passed).unwrap_or(start)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_the_clock_of_tokio_or_the_systems() {
        let clock = Clock::from(Timestamp::UNIX_EPOCH, Instant::now());
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.now().to_string(), "1970-01-01T00:01:30Z");
        assert!(Clock::system().now() > Timestamp::UNIX_EPOCH);
    }
}
