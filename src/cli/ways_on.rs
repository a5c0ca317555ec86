//! The commands for a run that stands still: how it goes on, how it is called off, how it goes back. Says only what the records
//! allow; whether the way back is open is asked when it is wished for.

use crate::cluster::names::safe_concat;
use crate::flow::progress::Progress;

/// One sentence for each; the first is always how it goes on.
#[must_use]
pub fn ways_on(run: &Progress) -> Vec<String> {
    let Some(plan) = run.plan() else { return Vec::new() };
    let order = safe_concat(&[&plan.upgrade_name, &plan.node_name]);
    let mut ways = vec![format!(
        "to resume: `upgrade-agent run` with its --plan or --upgrade; where the daemon has it, spec.control of NodeUpgrade {order}: \
         Pause, then Run"
    )];
    let settled = run.is_cancelled() || run.goes_back() || run.post_drained();
    if !settled && !run.swap_begun() {
        ways.push(format!(
            "to cancel: spec.control of NodeUpgrade {order}: Cancel; then resume if nobody is at it"
        ));
    }
    if !settled && run.swap_begun() {
        ways.push(format!("to go back: `upgrade-agent rollback --upgrade {}`", plan.upgrade_name));
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::{replay, whole_run};

    #[test]
    fn only_what_the_records_allow_is_offered() {
        let lines = whole_run();
        let mut told: Vec<Vec<&str>> = (1..=lines.len())
            .map(|at| {
                let ways = ways_on(&replay(&lines[..at]));
                ["to resume", "to cancel", "to go back"]
                    .into_iter()
                    .filter(|word| ways.iter().any(|way| way.starts_with(word)))
                    .collect()
            })
            .collect();
        told.dedup();
        let expected: [&[&str]; 3] =
            [&["to resume", "to cancel"], &["to resume", "to go back"], &["to resume"]];
        assert_eq!(told, expected);
    }
}
