//! What to do next: one total function of the records so far.

use crate::flow::progress::{Progress, Work};
use crate::flow::record::Outcome;
use crate::flow::step::Step;

/// The answer of [`next`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Perform this.
    Step(Step),
    /// Nothing is left to do.
    Ended(Outcome),
}

/// The one next step of a run. Pure: the same records always give the same answer.
///
/// An intent without its fact leads to a probe, never to the act again.
#[must_use]
pub fn next(progress: &Progress) -> Next {
    if let Some(outcome) = progress.outcome() {
        return Next::Ended(outcome.clone());
    }
    let step = if progress.is_cancelled() { way_back(progress) } else { way_forward(progress) };
    Next::Step(step)
}

fn way_forward(progress: &Progress) -> Step {
    if progress.preflighted().is_none() {
        return Step::Preflight;
    }
    if progress.staged().is_none() {
        return Step::Stage;
    }
    match progress.swap() {
        Work::Not => {}
        Work::Intended(_) => return Step::ProbeSwap,
        Work::Done(_) => return after_swap(progress),
    }
    if !progress.fenced() {
        Step::Fence
    } else if !progress.cordoned() {
        Step::Cordon
    } else if !progress.pre_drained() {
        Step::PreDrain
    } else if !progress.drained() {
        Step::Drain
    } else if !progress.snapshot_settled() {
        Step::Snapshot
    } else {
        Step::Swap
    }
}

fn after_swap(progress: &Progress) -> Step {
    if let Work::Intended(_) = progress.rollback() {
        return Step::Rollback;
    }
    match progress.restart() {
        Work::Not => return Step::Restart,
        Work::Intended(_) => return Step::ProbeRestart,
        Work::Done(_) => {}
    }
    if !progress.verified() {
        Step::Verify
    } else if !progress.post_drained() {
        Step::PostDrain
    } else if progress.ledger().owed().next().is_some() {
        Step::Restore
    } else if progress.installer_held().is_some() {
        Step::Release
    } else {
        Step::Finish
    }
}

/// Called off before the swap: put everything back.
fn way_back(progress: &Progress) -> Step {
    if progress.touched_node() && !progress.post_drained() {
        Step::PostDrain
    } else if progress.ledger().owed().next().is_some() {
        Step::Restore
    } else if progress.installer_held().is_some() {
        Step::Release
    } else {
        Step::Finish
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::{entries, replay, whole_run};

    #[test]
    fn a_whole_run_visits_every_step_in_order() {
        let run = whole_run();
        let mut steps = Vec::new();
        for length in 1..=run.len() {
            match next(&replay(&run[..length])) {
                Next::Step(step) => {
                    if steps.last() != Some(&step) {
                        steps.push(step);
                    }
                }
                Next::Ended(outcome) => assert_eq!((outcome, length), (Outcome::Succeeded, run.len())),
            }
        }
        // The probes are where a crash after that very line would lead.
        let expected = [
            Step::Preflight,
            Step::Stage,
            Step::Fence,
            Step::Cordon,
            Step::PreDrain,
            Step::Drain,
            Step::Snapshot,
            Step::Swap,
            Step::ProbeSwap,
            Step::Restart,
            Step::ProbeRestart,
            Step::Verify,
            Step::PostDrain,
            Step::Restore,
            Step::Release,
            Step::Finish,
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_refusal_of_the_gate_leads_back_to_fence_cordon_and_pre_drain() {
        use crate::flow::record::Record;
        let run = whole_run();
        let cut = run.iter().position(|entry| matches!(entry.record, Record::SnapshotTaken { .. })).unwrap();
        let mut records: Vec<Record> = run[..=cut].iter().map(|entry| entry.record.clone()).collect();
        assert_eq!(next(&replay(&entries(records.clone()))), Next::Step(Step::Swap));
        records.push(Record::GateRefused { refusal: "a VM came back".into() });
        // The fence and the cordon may be what was missing: they come first, then the VMs are looked at again.
        assert_eq!(next(&replay(&entries(records.clone()))), Next::Step(Step::Fence));
        records.extend([Record::Fenced, Record::Cordoned]);
        assert_eq!(next(&replay(&entries(records))), Next::Step(Step::PreDrain));
    }

    #[test]
    fn a_new_version_that_does_not_serve_is_put_back_started_verified_and_told() {
        use crate::flow::record::Record;
        let run = whole_run();
        let cut = run.iter().position(|entry| matches!(entry.record, Record::Restarted { .. })).unwrap();
        let mut records: Vec<Record> = run[..=cut].iter().map(|entry| entry.record.clone()).collect();
        let why = || "it crashes".to_owned();
        let restart = run[cut - 1].record.clone();
        let restarted = Record::Restarted { invocation: "i3".into(), pid: 43 };
        let verified = Record::Verified { kubelet_version: "v1.34.2+rke2r1".into() };
        for (record, expected) in [
            (Record::RollbackIntent { why: why() }, Step::Rollback),
            (Record::RolledBack, Step::Restart),
            (restart, Step::ProbeRestart),
            (restarted, Step::Verify),
            (verified, Step::PostDrain),
            (Record::PostDrained, Step::Restore),
        ] {
            records.push(record);
            assert_eq!(next(&replay(&entries(records.clone()))), Next::Step(expected));
        }
        records.extend(run[run.len() - 4..run.len() - 1].iter().map(|entry| entry.record.clone()));
        records.push(Record::Finished { outcome: Outcome::RolledBack { why: why() } });
        let ended = next(&replay(&entries(records)));
        assert_eq!(ended, Next::Ended(Outcome::RolledBack { why: why() }));
    }

    #[test]
    fn cancelling_before_the_swap_puts_everything_back() {
        use crate::flow::record::Record;
        let run = whole_run();
        let cut = run.iter().position(|entry| entry.record == Record::PreDrained).unwrap();
        let mut records: Vec<Record> = run[..=cut].iter().map(|entry| entry.record.clone()).collect();
        records.push(Record::CancelRequested);
        assert_eq!(next(&replay(&entries(records.clone()))), Next::Step(Step::PostDrain));
        records.push(Record::PostDrained);
        assert_eq!(next(&replay(&entries(records))), Next::Step(Step::Restore));
    }

    #[test]
    fn cancelling_an_untouched_node_just_ends() {
        use crate::flow::record::Record;
        let run = whole_run();
        let records = vec![run[0].record.clone(), Record::CancelRequested];
        assert_eq!(next(&replay(&entries(records))), Next::Step(Step::Finish));
    }
}
