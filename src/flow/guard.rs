//! The boot guard's decision: may the binary that lies at the live path be started now? Pure. What the journal says on disk
//! is all that it needs; there may be no API, no other process, and nobody to ask.

use std::path::Path;

use crate::flow::plan::VersionChange;
use crate::flow::progress::{Preflighted, Progress, Work};
use crate::flow::way_back::WayBack;

/// Where a run keeps both binaries from the fence and the swap on, beside the live one; the machine's own view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The old one.
    pub old: String,
    /// The new one, while the fence stands.
    pub new: String,
}

impl Kept {
    /// Of a run that changes `live` so.
    #[must_use]
    pub fn of(live: &str, change: &VersionChange) -> Self {
        let beside = |name: String| Path::new(live).with_file_name(name).display().to_string();
        Self {
            old: beside(format!("rke2.prev-{}", change.from)),
            new: beside(format!("rke2.next-{}", change.to)),
        }
    }
}

/// What the guard finds on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ground<'a> {
    /// sha256 of what is live; empty for nothing.
    pub live_sha256: &'a str,
    /// Names of the VMs that run.
    pub guests: &'a [String],
    /// The guard has noted that it let the new one start.
    pub is_marked: bool,
}

/// What is to be done about a start of RKE2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Let it start.
    Start,
    /// Note durably that the new one starts, then let it: from there on the old one may not.
    StartForGood,
    /// Put the binary of this digest back first.
    PutBack {
        /// sha256 of the one that is approved.
        sha256: String,
        /// Where it is kept, the machine's own view.
        kept: String,
        /// Why the live one must not start.
        why: String,
    },
    /// Nothing may start: what this upgrade has done cannot be told.
    Bar,
}

/// May the old binary not simply start again once the new one has, on this node? Where only the cluster could tell, it counts as no.
#[must_use]
pub fn is_for_good(found: &Preflighted, change: &VersionChange) -> bool {
    WayBack::of(found.role, change) != WayBack::Open
}

/// Has the new binary ever been executed by systemd here, for all that is known?
#[must_use]
pub fn new_has_started(progress: &Progress, is_marked: bool) -> bool {
    is_marked || matches!(progress.restart(), Work::Done(_))
}

/// Decides by the run whose fence stands.
#[must_use]
pub fn decide(progress: &Progress, ground: &Ground<'_>) -> Verdict {
    // A fence is only ever raised after this is on disk.
    let (Some(found), Some(plan)) = (progress.preflighted(), progress.plan()) else { return Verdict::Bar };
    // Nothing was fenced yet, or not any more: whatever happens here is not this run's affair.
    if progress.fenced_units().is_empty() || progress.outcome().is_some() {
        return Verdict::Start;
    }
    let (old, live) = (&found.live_sha256, ground.live_sha256);
    let kept = Kept::of(&found.live, &plan.rke2);
    let back =
        |why: &str| Verdict::PutBack { sha256: old.clone(), kept: kept.old.clone(), why: why.to_owned() };
    let new = match progress.swap() {
        Work::Not => None,
        Work::Intended(fact) | Work::Done(fact) => Some(&fact.to_sha256),
    };
    let for_good = is_for_good(found, &plan.rke2) && !progress.goes_back();
    match new {
        Some(new) if for_good && new_has_started(progress, ground.is_marked) => {
            if live == new {
                return Verdict::Start;
            }
            // What the new one has stored the old one may not be able to read: the only way is on.
            let why = "the new rke2 has run here, and another one may not read what it has stored".to_owned();
            Verdict::PutBack { sha256: new.clone(), kept: kept.new, why }
        }
        _ if live == old => Verdict::Start,
        None => back("another rke2 was put in place before pre-drain was done"),
        Some(new) if new != live => back("the rke2 in place is neither the old nor the new one"),
        Some(_) if progress.goes_back() => back("the new rke2 was given up"),
        // It has run, and served, with nobody on the node; that it runs again changes nothing.
        Some(_) if progress.verified() => Verdict::Start,
        Some(_) if !ground.guests.is_empty() => {
            let guests = ground.guests.join(", ");
            back(&format!("VMs run on this machine, and the new rke2 has not run yet: {guests}"))
        }
        Some(_) if for_good => Verdict::StartForGood,
        Some(_) => Verdict::Start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::{entries, replay, whole_run};
    use crate::flow::record::Record;

    const OLD: &str = "/opt/rke2/bin/rke2.prev-v1.35.5+rke2r1";
    const NEXT: &str = "/opt/rke2/bin/rke2.next-v1.35.6+rke2r1";

    fn until(record: impl Fn(&Record) -> bool) -> Vec<Record> {
        let run = whole_run();
        let at = run.iter().position(|entry| record(&entry.record)).unwrap();
        run[..=at].iter().map(|entry| entry.record.clone()).collect()
    }

    /// `+` it starts, `=` it starts for good, `<` the old one is put back, `>` the new one, `!` nothing starts.
    fn sign(records: &[Record], ground: &Ground<'_>, from: &str) -> char {
        let mut records = records.to_vec();
        if let Some(Record::Opened { plan, .. }) = records.first_mut() {
            plan.rke2.from = from.parse().unwrap();
        }
        match decide(&replay(&entries(records)), ground) {
            Verdict::Start => '+',
            Verdict::StartForGood => '=',
            Verdict::Bar => '!',
            Verdict::PutBack { sha256, kept, why } => {
                assert!(!why.is_empty());
                match sha256.as_str() {
                    "old" => assert_eq!(kept, OLD.replace("v1.35.5+rke2r1", from)),
                    _ => assert_eq!(kept, NEXT),
                }
                if sha256 == "old" { '<' } else { '>' }
            }
        }
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
        let opened = until(|record| matches!(record, Record::Opened { .. }));
        let nothing = Vec::new();
        // What is live, is a VM there; over a patch; over a minor before and after the new one has run once.
        let table = [
            ("no journal", &nothing, "old", false, '!', '!', '!'),
            ("a journal that says next to nothing", &opened, "old", false, '!', '!', '!'),
            ("before the fence anything", &before, "alien", true, '+', '+', '+'),
            ("fenced, the old one", &fenced, "old", true, '+', '+', '+'),
            ("fenced, the staged one put there by somebody", &fenced, "new", false, '<', '<', '<'),
            ("drained, the new one put there by somebody", &drained, "new", false, '<', '<', '<'),
            ("intended and not renamed", &intended, "old", true, '+', '+', '>'),
            ("intended and renamed", &intended, "new", false, '+', '=', '+'),
            ("intended and renamed, a VM came back", &intended, "new", true, '<', '<', '+'),
            ("swapped", &swapped, "new", false, '+', '=', '+'),
            ("swapped, a VM came back", &swapped, "new", true, '<', '<', '+'),
            ("swapped, somebody put the old one back", &swapped, "old", true, '+', '+', '>'),
            ("swapped, a third one", &swapped, "alien", false, '<', '<', '>'),
            ("swapped, somebody removed it", &swapped, "", false, '<', '<', '>'),
            ("verified, a crash", &verified, "new", true, '+', '+', '+'),
            ("verified, a third one", &verified, "alien", false, '<', '>', '>'),
            ("verified, somebody put the old one back", &verified, "old", true, '+', '>', '>'),
            ("given up", &given_up, "new", false, '<', '<', '<'),
            ("given up and put back", &given_up, "old", true, '+', '+', '+'),
            ("over", &over, "alien", true, '+', '+', '+'),
        ];
        for (what, records, live, with_guest, patch, minor, minor_after) in table {
            let guests = if with_guest { vec!["db".to_owned()] } else { Vec::new() };
            let ground = |is_marked| Ground { live_sha256: live, guests: &guests, is_marked };
            assert_eq!(sign(records, &ground(false), "v1.35.5+rke2r1"), patch, "{what}, over a patch");
            assert_eq!(sign(records, &ground(false), "v1.34.5+rke2r1"), minor, "{what}, over a minor");
            assert_eq!(
                sign(records, &ground(true), "v1.34.5+rke2r1"),
                minor_after,
                "{what}, over a minor, after"
            );
        }
    }
}
