//! Who is owed a start although our ledger never saw it run: Harvester's own helper has shut it down for this upgrade before
//! this agent looked. Its list names VMs that ran on the node when the list was written, so a VM that was off before that is
//! its user's, and so is one that `KubeVirt` or Harvester starts by itself (reference `harvester-upgrade.md` §4.2).

use jiff::Timestamp;

use crate::flow::restore::claim::{InstanceNow, VmNow};
use crate::flow::vms::{Fate, LedgerLine, Verdict, VmEntry, VmKey};

/// Why it is owed a start, in the ledger.
const WHY: &str = "it was off already, and Harvester's list says that it was shut down for this upgrade";

/// A VM that the list names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// As it is now; none when there is no such VM.
    pub vm: Option<VmNow>,
    /// Its instance.
    pub instance: Option<InstanceNow>,
    /// The last run strategy before it was halted, as Harvester remembers it.
    pub kept_strategy: Option<String>,
    /// Harvester's maintenance mode has stopped it, and starts it again.
    pub in_maintenance: bool,
    /// Off since then, as far as its status says.
    pub off_since: Option<Timestamp>,
    /// Resource names of its devices.
    pub devices: Vec<String>,
    /// Page size of its huge pages.
    pub hugepages: Option<String>,
    /// It has CPUs of its own.
    pub dedicated_cpus: bool,
}

/// Whether anybody has to look at a name on the list. Who is in the ledger is accounted for, but one that left by somebody
/// else's doing may have left by Harvester's; those that we were to shut down are on the list by our own hand.
#[must_use]
pub fn is_unexplained(line: Option<&LedgerLine>) -> bool {
    let Some(line) = line else { return true };
    let left = match line.fate {
        Fate::Left { .. } => !line.entry.left_off,
        Fate::Here
        | Fate::Migrating { .. }
        | Fate::Migrated { .. }
        | Fate::Stopping { .. }
        | Fate::ShutDown { .. }
        | Fate::Restoring { .. }
        | Fate::Restored { .. }
        | Fate::Struck { .. } => false,
    };
    left && match line.entry.verdict {
        Verdict::Migrate | Verdict::Leaving | Verdict::Hold { .. } => true,
        Verdict::ShutDown { .. } => false,
    }
}

/// The ledger's entry for a VM that is owed a start; else why it is not. `listed_since` is when the list was made.
///
/// # Errors
/// Why nothing is owed.
pub fn adopt(key: &VmKey, listed: &Listed, listed_since: Option<Timestamp>) -> Result<VmEntry, &'static str> {
    let Some(vm) = &listed.vm else { return Err("there is no such VM any more") };
    if vm.deleting {
        return Err("it is being deleted");
    }
    if listed.instance.as_ref().is_some_and(|instance| instance.ended.is_none()) {
        return Err("it has been started again");
    }
    if listed.in_maintenance {
        return Err("Harvester's maintenance mode has stopped it, and starts it again");
    }
    if listed.off_since.zip(listed_since).is_some_and(|(off, listed)| off < listed) {
        return Err("it was off before the list was made");
    }
    let run_strategy = match vm.run_strategy.as_deref() {
        Some("Halted") => listed.kept_strategy.clone(),
        Some("RerunOnFailure" | "Manual") => vm.run_strategy.clone(),
        Some(_) | None => return Err("KubeVirt starts it by itself"),
    };
    Ok(VmEntry {
        vm: key.clone(),
        vm_uid: vm.uid.clone(),
        vmi_uid: listed.instance.as_ref().map(|instance| instance.uid.clone()).unwrap_or_default(),
        run_strategy,
        devices: listed.devices.clone(),
        hugepages: listed.hugepages.clone(),
        dedicated_cpus: listed.dedicated_cpus,
        grace_seconds: None,
        shutdown_order: 0,
        left_off: false,
        verdict: Verdict::ShutDown { why: WHY.to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::vm_entry;

    fn off(strategy: &str) -> Listed {
        let run_strategy = Some(strategy.to_owned());
        let vm = VmNow { uid: Some("vm-db".into()), run_strategy, ..VmNow::default() };
        Listed { vm: Some(vm), ..Listed::default() }
    }

    #[test]
    fn who_was_shut_down_by_harvesters_helper_is_owed_a_start() {
        let at = |minute: i8| Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_mins(i64::from(minute));
        let instance = |has_ended: bool| {
            let ended = has_ended.then_some(true);
            Some(InstanceNow { uid: "new".into(), ended, deleting: false })
        };
        let kept = |strategy: &str| Listed { kept_strategy: Some(strategy.into()), ..off("Halted") };
        let table = [
            ("Always, halted by the helper", kept("Always"), Ok(Some("Always"))),
            ("Once, halted by the helper", kept("Once"), Ok(Some("Once"))),
            ("halted, and nobody remembers from what", off("Halted"), Ok(None)),
            ("RerunOnFailure, stopped", off("RerunOnFailure"), Ok(Some("RerunOnFailure"))),
            ("Manual, stopped", off("Manual"), Ok(Some("Manual"))),
            (
                "its ended instance is kept",
                Listed { instance: instance(true), ..off("Manual") },
                Ok(Some("Manual")),
            ),
            ("off since the list", Listed { off_since: Some(at(11)), ..kept("Always") }, Ok(Some("Always"))),
            (
                "halted by its user long before",
                Listed { off_since: Some(at(9)), ..kept("Always") },
                Err("it was off before the list was made"),
            ),
            ("deleted", Listed::default(), Err("there is no such VM any more")),
            (
                "started again",
                Listed { instance: instance(false), ..kept("Always") },
                Err("it has been started again"),
            ),
            ("set to run", off("Always"), Err("KubeVirt starts it by itself")),
            (
                "in maintenance mode",
                Listed { in_maintenance: true, ..kept("Always") },
                Err("Harvester's maintenance mode has stopped it, and starts it again"),
            ),
        ];
        for (what, listed, expected) in table {
            let entry = adopt(&VmKey::new("default", "db"), &listed, Some(at(10)));
            let said = entry.as_ref().map(|entry| entry.run_strategy.as_deref()).map_err(|why| *why);
            assert_eq!(said, expected, "{what}");
        }
        let mut deleting = off("Manual");
        deleting.vm.as_mut().unwrap().deleting = true;
        assert!(adopt(&VmKey::new("default", "db"), &deleting, None).is_err());
    }

    #[test]
    fn only_names_that_the_ledger_does_not_explain_are_looked_at() {
        let left = || Fate::Left { reason: "stopped by somebody else".into() };
        let at = Timestamp::UNIX_EPOCH;
        let off = || Verdict::ShutDown { why: "it holds a device".into() };
        let table = [
            ("on the node", Verdict::Migrate, Fate::Here, false),
            ("shut down by us", off(), Fate::ShutDown { graceful: None, at }, false),
            ("moved", Verdict::Migrate, Fate::Migrated { to: "node2".into() }, false),
            ("listed by us, stopped by its user", off(), left(), false),
            ("was going when we came", Verdict::Leaving, left(), true),
            ("went while it was to be moved", Verdict::Migrate, left(), true),
            ("taken over", Verdict::Migrate, Fate::Struck { reason: "x".into() }, false),
        ];
        for (what, verdict, fate, expected) in table {
            let line = LedgerLine::new(vm_entry("db", verdict), fate);
            assert_eq!(is_unexplained(Some(&line)), expected, "{what}");
        }
        assert!(is_unexplained(None));
    }
}
