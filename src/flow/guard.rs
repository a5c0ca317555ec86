//! The boot guard's decision: may the binary that lies at the live path be started now? Pure. What the journal says on disk
//! is all that it needs; there may be no API, no other process, and nobody to ask.

use crate::flow::progress::{Progress, Work};

/// What is to be done about a start of RKE2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Let it start.
    Start,
    /// Put the binary of this digest back first.
    PutBack {
        /// sha256 of the one that is approved.
        sha256: String,
        /// Where it is kept, the machine's own view.
        kept: String,
        /// Why the live one must not start.
        why: String,
    },
}

/// Decides by one unfinished run of this machine. `kept` is where its old binary has a second name.
#[must_use]
pub fn decide(progress: &Progress, live_sha256: &str, kept: &str, guests: &[String]) -> Verdict {
    let Some(found) = progress.preflighted() else { return Verdict::Start };
    // Nothing was fenced yet, or not any more: whatever happens here is not this run's affair.
    if progress.fenced_units().is_empty() {
        return Verdict::Start;
    }
    let old = &found.live_sha256;
    let back = |why: String| Verdict::PutBack { sha256: old.clone(), kept: kept.to_owned(), why };
    if live_sha256 == old {
        return Verdict::Start;
    }
    let new = match progress.swap() {
        Work::Not => None,
        Work::Intended(fact) | Work::Done(fact) => Some(&fact.to_sha256),
    };
    match new {
        None => back("another rke2 was put in place before pre-drain was done".to_owned()),
        Some(new) if new != live_sha256 => {
            back("the rke2 in place is neither the old nor the new one".to_owned())
        }
        Some(_) if progress.goes_back() => back("the new rke2 was given up".to_owned()),
        // It has run, and served, with nobody on the node; that it runs again changes nothing.
        Some(_) if progress.verified() => Verdict::Start,
        Some(_) if !guests.is_empty() => {
            back(format!("VMs run on this machine, and the new rke2 has not run yet: {}", guests.join(", ")))
        }
        Some(_) => Verdict::Start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::{entries, replay, whole_run};
    use crate::flow::record::Record;

    const KEPT: &str = "/opt/rke2/bin/rke2.prev";

    fn until(record: impl Fn(&Record) -> bool) -> Vec<Record> {
        let run = whole_run();
        let at = run.iter().position(|entry| record(&entry.record)).unwrap();
        run[..=at].iter().map(|entry| entry.record.clone()).collect()
    }

    #[test]
    fn only_what_the_journal_approves_starts() {
        let fenced = until(|record| *record == Record::Fenced);
        let drained = until(|record| matches!(record, Record::Drained { .. }));
        let intended = until(|record| matches!(record, Record::SwapIntent { .. }));
        let swapped = until(|record| *record == Record::Swapped);
        let verified = until(|record| matches!(record, Record::Verified { .. }));
        let over = until(|record| *record == Record::PostDrained);
        let given_up = [swapped.clone(), vec![Record::RollbackIntent { why: "x".into() }]].concat();
        let before = until(|record| matches!(record, Record::Staged { .. }));
        let table = [
            ("before the fence anything", &before, "alien", true, true),
            ("fenced, the old one", &fenced, "old", true, true),
            ("fenced, the staged one put there by somebody", &fenced, "new", false, false),
            ("drained, the new one put there by somebody", &drained, "new", false, false),
            ("intended and not renamed", &intended, "old", true, true),
            ("intended and renamed", &intended, "new", false, true),
            ("intended and renamed, a VM came back", &intended, "new", true, false),
            ("swapped", &swapped, "new", false, true),
            ("swapped, a VM came back", &swapped, "new", true, false),
            ("swapped, somebody put the old one back", &swapped, "old", true, true),
            ("swapped, a third one", &swapped, "alien", false, false),
            ("verified, a crash", &verified, "new", true, true),
            ("verified, a third one", &verified, "alien", false, false),
            ("given up", &given_up, "new", false, false),
            ("given up and put back", &given_up, "old", true, true),
            ("over", &over, "alien", true, true),
        ];
        for (what, records, live, with_guest, starts) in table {
            let guests = if with_guest { vec!["db".to_owned()] } else { Vec::new() };
            let verdict = decide(&replay(&entries(records.clone())), live, KEPT, &guests);
            assert_eq!(verdict == Verdict::Start, starts, "{what}: {verdict:?}");
            if let Verdict::PutBack { sha256, kept, why } = verdict {
                assert_eq!((sha256.as_str(), kept.as_str(), why.is_empty()), ("old", KEPT, false), "{what}");
            }
        }
    }
}
