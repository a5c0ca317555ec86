//! Notices simulators that never come to rest. In memory time goes on only once nobody has anything to do: two rules that
//! answer each other's writes for ever would keep a rehearsal at one moment, with nothing to be seen of it.

use tokio::time::Instant;

/// Writes at one moment that any cluster may have.
const ANY: u64 = 10_000;
/// Writes at one moment for each object that there is: far more than the longest way that an object has, in one moment, from one
/// rest to the next.
const EACH: u64 = 100;

/// Counts writes at one moment.
#[derive(Debug, Default)]
pub(super) struct Unrest {
    at: Option<Instant>,
    writes: u64,
}

impl Unrest {
    /// Counts one more task that writes; true when there were too many at this moment for so many objects.
    pub(super) fn is_endless(&mut self, now: Instant, objects: usize) -> bool {
        if self.at.replace(now) != Some(now) {
            self.writes = 0;
        }
        self.writes += 1;
        self.writes > ANY + EACH * objects as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_writes_of_one_moment_count() {
        let (mut unrest, start) = (Unrest::default(), Instant::now());
        let mut write = |at: u64, objects| unrest.is_endless(start + Duration::from_millis(at), objects);
        assert!((0..20_000).all(|at| !write(at, 0)), "time goes on");
        assert!((0..20_000).all(|_| !write(30_000, 100)), "there is much to do");
        assert!(write(30_000, 99));
        assert!(!write(30_001, 0));
    }
}
