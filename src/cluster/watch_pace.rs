//! How soon a watch that broke is opened again: later each time, and at other moments on other nodes, so that a thousand
//! agents do not come at once when an API server is back. The spread follows from the node's name and not from chance: a
//! rehearsal repeats to the byte.

use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(800);
const LONGEST: Duration = Duration::from_secs(30);

/// The pauses before one watch is opened again.
#[derive(Debug, Clone)]
pub struct WatchPace {
    /// Thousandths by which this node's pauses are longer than the shortest ones.
    spread: u32,
    next: Duration,
}

impl WatchPace {
    /// The pace of a node.
    #[must_use]
    pub fn of(node: &str) -> Self {
        let mixed = node.bytes().fold(0_u32, |mixed, byte| mixed.wrapping_mul(31).wrapping_add(byte.into()));
        Self { spread: mixed % 1000, next: FIRST }
    }
}

impl Iterator for WatchPace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        Some(pause + pause * self.spread / 1000)
    }
}

impl Backoff for WatchPace {
    fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew() {
        let mut pace = WatchPace::of("node1");
        let pauses: Vec<Duration> = pace.by_ref().take(8).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
        assert!(pauses[0] >= FIRST && pauses[7] >= LONGEST && pauses[7] <= LONGEST * 2, "{pauses:?}");
        pace.reset();
        assert_eq!(pace.next(), Some(pauses[0]));
    }

    #[test]
    fn a_node_keeps_its_pace_and_nodes_differ() {
        let first = |node: &str| WatchPace::of(node).next();
        assert_eq!(first("node1"), first("node1"));
        let nodes: std::collections::BTreeSet<_> =
            (1..=100).map(|number| first(&format!("node{number}"))).collect();
        assert!(nodes.len() > 50, "{} different pauses", nodes.len());
    }
}
