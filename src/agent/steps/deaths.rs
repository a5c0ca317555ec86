//! How often systemd has started RKE2 again since it is looked at, and whether that is a crash loop of its own or RKE2 giving up on
//! an API server that is away. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::agent::steps::absence::RKE2_BEARS;

/// So many of them are a crash loop.
const CRASH_LOOP: usize = 3;
/// When they come within this: two whole lives lie between three deaths, and one that waits for an API server alone lasts as long.
const QUICKLY: Duration = RKE2_BEARS;

/// The deaths of a service, by systemd's count of its restarts.
pub(super) struct Deaths {
    /// None before the first look: what was before is not the fault of what is looked at.
    counted: Option<u32>,
    at: Vec<Instant>,
}

impl Deaths {
    /// None seen so far.
    pub(super) fn none_yet() -> Self {
        Self { counted: None, at: Vec::new() }
    }

    /// Notes the count of a look, and tells whether it dies again and again by itself.
    pub(super) fn are_a_loop(&mut self, now: Instant, n_restarts: u32) -> bool {
        // A count that went down was begun anew by an ordered start.
        let new = n_restarts.saturating_sub(self.counted.unwrap_or(n_restarts));
        self.counted = Some(n_restarts);
        self.at.extend((0..new).take(CRASH_LOOP).map(|_| now));
        self.at.retain(|at| now.duration_since(*at) < QUICKLY);
        self.at.len() >= CRASH_LOOP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_deaths_are_its_own_and_those_of_a_quarter_of_an_hour_the_clusters() {
        /// Seconds and systemd's count of restarts, look by look.
        type Looks = &'static [(u64, u32)];
        let table: [(&str, Looks, bool); 6] = [
            ("before the first look", &[(0, 9)], false),
            ("each within seconds", &[(0, 9), (7, 10), (14, 11), (21, 12)], true),
            ("between two looks", &[(0, 0), (60, 3)], true),
            ("five minutes each", &[(0, 0), (300, 1), (600, 2), (900, 3)], true),
            ("RKE2's own patience", &[(0, 0), (1, 1), (906, 2), (1811, 3), (2716, 4)], false),
            ("started anew by an order", &[(0, 2), (7, 0), (14, 1), (21, 2)], false),
        ];
        let began = Instant::now();
        for (what, looks, expected) in table {
            let mut deaths = Deaths::none_yet();
            let looks =
                looks.iter().map(|(at, count)| deaths.are_a_loop(began + Duration::from_secs(*at), *count));
            assert_eq!(looks.last(), Some(expected), "{what}");
        }
    }
}
