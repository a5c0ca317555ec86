//! What is to happen to a VM: a verdict from facts, each with its reason. Unknown is a verdict of its own, and holds.

use crate::flow::plan::{Evacuation, NonMigratable};
use crate::flow::vms::{Verdict, VmEntry, VmKey};

/// What was read about one running instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFacts {
    /// Who.
    pub vm: VmKey,
    /// uid of the owning `VirtualMachine`, none when it has no owner.
    pub vm_uid: Option<String>,
    /// uid of the instance.
    pub vmi_uid: String,
    /// The owner's effective run strategy.
    pub run_strategy: Option<String>,
    /// `KubeVirt`'s own word on live migration.
    pub live_migratable: LiveMigratable,
    /// Resource names of PCI, USB and vGPU devices.
    pub devices: Vec<String>,
    /// The guest's termination grace period.
    pub grace_seconds: Option<u32>,
    /// The guest is paused.
    pub paused: bool,
    /// The instance is being deleted.
    pub deleting: bool,
    /// The instance is Succeeded or Failed.
    pub ended: bool,
}

/// Condition `LiveMigratable` of an instance. Absent is not False.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveMigratable {
    /// `KubeVirt` says it can move. Says nothing about room elsewhere.
    Yes,
    /// It cannot.
    No {
        /// The condition's reason and message.
        reason: String,
    },
    /// Not said (yet).
    NotSaid,
}

/// The other nodes as places for VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Targets {
    /// Ready and schedulable now.
    pub ready: usize,
    /// There, but not ready, cordoned or draining.
    pub away: usize,
}

/// What is to happen to one VM.
#[must_use]
pub fn classify(facts: &VmFacts, policy: &Evacuation, targets: Targets) -> Verdict {
    if facts.deleting || facts.ended {
        return Verdict::Leaving;
    }
    if policy.exclude.contains(&facts.vm) {
        return hold("the plan excludes it; move or stop it by hand, then resume");
    }
    if facts.vm_uid.is_none() {
        return hold(
            "it is an instance without a VirtualMachine and would be lost; move or delete it by hand",
        );
    }
    if facts.paused {
        return hold("its guest is paused and would lose its state; unpause or stop it by hand");
    }
    if !facts.devices.is_empty() {
        return shut_down(policy, format!("it holds {}", facts.devices.join(", ")));
    }
    match &facts.live_migratable {
        LiveMigratable::No { reason } => shut_down(policy, reason.clone()),
        LiveMigratable::NotSaid => {
            hold("KubeVirt does not say whether it can live-migrate; wait until it runs, or stop it by hand")
        }
        LiveMigratable::Yes if targets.ready > 0 => Verdict::Migrate,
        // A node that is away for a moment must not cost a VM its uptime.
        LiveMigratable::Yes if targets.away > 0 => hold(
            "it can live-migrate, but no other node is ready and schedulable now; make one ready, then resume",
        ),
        LiveMigratable::Yes => shut_down(policy, "there is no other node".to_owned()),
    }
}

/// The ledger's entry for these facts.
#[must_use]
pub fn enter(facts: &VmFacts, policy: &Evacuation, targets: Targets) -> VmEntry {
    VmEntry {
        vm: facts.vm.clone(),
        vm_uid: facts.vm_uid.clone(),
        vmi_uid: facts.vmi_uid.clone(),
        run_strategy: facts.run_strategy.clone(),
        devices: facts.devices.clone(),
        grace_seconds: facts.grace_seconds,
        verdict: classify(facts, policy, targets),
    }
}

fn hold(why: &str) -> Verdict {
    Verdict::Hold { why: why.to_owned() }
}

fn shut_down(policy: &Evacuation, why: String) -> Verdict {
    match policy.non_migratable {
        NonMigratable::ShutdownAndRestore => Verdict::ShutDown { why },
        NonMigratable::Hold => {
            Verdict::Hold { why: format!("{why}, and the plan says to hold for such VMs") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: Targets = Targets { ready: 2, away: 0 };

    fn facts() -> VmFacts {
        VmFacts {
            vm: VmKey::new("default", "db"),
            vm_uid: Some("u".into()),
            vmi_uid: "i".into(),
            run_strategy: Some("Always".into()),
            live_migratable: LiveMigratable::Yes,
            devices: vec![],
            grace_seconds: Some(120),
            paused: false,
            deleting: false,
            ended: false,
        }
    }

    #[test]
    fn verdicts() {
        let no = LiveMigratable::No { reason: "DisksNotLiveMigratable".into() };
        let holding = Evacuation { non_migratable: NonMigratable::Hold, ..Evacuation::default() };
        let excluding = Evacuation { exclude: [VmKey::new("default", "db")].into(), ..Evacuation::default() };
        let usual = Evacuation::default();
        let table: Vec<(&str, VmFacts, &Evacuation, Targets, &str)> = vec![
            ("others away", facts(), &usual, Targets { ready: 0, away: 2 }, "hold: it can live-migrate, but"),
            ("plain", facts(), &usual, MANY, "migrate"),
            (
                "single node",
                facts(),
                &usual,
                Targets { ready: 0, away: 0 },
                "shut down: there is no other node",
            ),
            (
                "local disk",
                VmFacts { live_migratable: no.clone(), ..facts() },
                &usual,
                MANY,
                "shut down: DisksNot",
            ),
            (
                "device",
                VmFacts { devices: vec!["nvidia.com/A16".into()], ..facts() },
                &usual,
                MANY,
                "shut down: it holds",
            ),
            (
                "device, hold",
                VmFacts { devices: vec!["x/y".into()], ..facts() },
                &holding,
                MANY,
                "hold: it holds",
            ),
            (
                "local disk, hold",
                VmFacts { live_migratable: no, ..facts() },
                &holding,
                MANY,
                "hold: DisksNot",
            ),
            (
                "not said",
                VmFacts { live_migratable: LiveMigratable::NotSaid, ..facts() },
                &usual,
                MANY,
                "hold: KubeVirt",
            ),
            ("paused", VmFacts { paused: true, ..facts() }, &usual, MANY, "hold: its guest is paused"),
            ("standalone", VmFacts { vm_uid: None, ..facts() }, &usual, MANY, "hold: it is an instance"),
            ("excluded", facts(), &excluding, MANY, "hold: the plan excludes"),
            ("excluded, leaving", VmFacts { deleting: true, ..facts() }, &excluding, MANY, "leaving"),
            ("ended", VmFacts { ended: true, ..facts() }, &usual, MANY, "leaving"),
        ];
        for (what, facts, policy, targets, expected) in table {
            let said = match classify(&facts, policy, targets) {
                Verdict::Migrate => "migrate".to_owned(),
                Verdict::Leaving => "leaving".to_owned(),
                Verdict::ShutDown { why } => format!("shut down: {why}"),
                Verdict::Hold { why } => format!("hold: {why}"),
            };
            assert!(said.starts_with(expected), "{what}: {said}");
        }
    }
}
