//! Who is shut down before whom: by the annotation `shutdown-order`, lower ones first; those that others depend on go last.

use jiff::Timestamp;

use crate::flow::report::{Blocker, NOBODY};
use crate::flow::vms::{Fate, LedgerLine, Verdict, VmKey, VmLedger};

/// A VM that has to be off before this one is told to shut down, and is not yet; `given_up` are those whose migrations have
/// come to nothing.
pub(super) fn first<'a>(ledger: &'a VmLedger, line: &LedgerLine, given_up: &[VmKey]) -> Option<&'a VmKey> {
    let mut before = ledger.on_node().filter(|one| one.entry.shutdown_order < line.entry.shutdown_order);
    before.find(|one| goes_off(one) || given_up.contains(&one.entry.vm)).map(|one| &one.entry.vm)
}

/// Those that wait for their turn.
pub(super) fn waiting(ledger: &VmLedger, since: Timestamp) -> impl Iterator<Item = Blocker> {
    let ours = ledger.on_node().filter(|line| line.fate == Fate::Here && goes_off(line));
    ours.filter_map(move |line| Some(turn(&line.entry.vm, first(ledger, line, &[])?, since)))
}

/// One that waits for its turn.
pub(super) fn turn(vm: &VmKey, first: &VmKey, since: Timestamp) -> Blocker {
    Blocker {
        what: format!("VM {vm} is shut down after VM {first}, as their shutdown-order says"),
        since,
        owner: NOBODY.to_owned(),
        deadline: None,
        then: format!("shut down as soon as {first} is off"),
    }
}

fn goes_off(line: &LedgerLine) -> bool {
    match (&line.fate, &line.entry.verdict) {
        (Fate::Stopping { .. }, _) | (Fate::Here, Verdict::ShutDown { .. }) => true,
        (_, Verdict::Migrate | Verdict::ShutDown { .. } | Verdict::Leaving | Verdict::Hold { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::vms::VmEntry;

    fn entry(name: &str, shutdown_order: i32, verdict: Verdict) -> VmEntry {
        VmEntry {
            vm: VmKey::new("default", name),
            vm_uid: Some(name.to_owned()),
            vmi_uid: name.to_owned(),
            run_strategy: None,
            devices: vec![],
            hugepages: None,
            dedicated_cpus: false,
            grace_seconds: None,
            shutdown_order,
            left_off: false,
            verdict,
        }
    }

    #[test]
    fn lower_ones_go_off_first_and_others_wait_for_them() {
        let off = || Verdict::ShutDown { why: "it holds a device".into() };
        let mut ledger = VmLedger::default();
        for entry in [
            entry("app", -1, off()),
            entry("plain", 0, off()),
            entry("db", 10, off()),
            entry("moves", -5, Verdict::Migrate),
            entry("held", -5, Verdict::Hold { why: "paused".into() }),
        ] {
            ledger.enter(entry);
        }
        let waits_for = |ledger: &VmLedger, name: &str| {
            let line = ledger.line(&VmKey::new("default", name)).cloned().unwrap();
            first(ledger, &line, &[]).map(|vm| vm.name.clone())
        };
        assert_eq!(waits_for(&ledger, "app"), None, "nobody waits for those that move or are held");
        assert_eq!(waits_for(&ledger, "plain").as_deref(), Some("app"));
        assert_eq!(waits_for(&ledger, "db").as_deref(), Some("app"));
        let at = Timestamp::UNIX_EPOCH;
        ledger.line_mut(&VmKey::new("default", "app")).unwrap().fate =
            Fate::Stopping { since: at, asks: 1, forced: false };
        assert_eq!(waits_for(&ledger, "plain").as_deref(), Some("app"), "asked is not off");
        ledger.line_mut(&VmKey::new("default", "app")).unwrap().fate =
            Fate::ShutDown { graceful: Some(true), at };
        assert_eq!(waits_for(&ledger, "plain"), None);
        assert_eq!(waits_for(&ledger, "db").as_deref(), Some("plain"));
    }
}
