//! What is to happen to a VM: a verdict from facts, each with its reason. Unknown is a verdict of its own, and holds.

use crate::flow::plan::{Evacuation, NonMigratable};
use crate::flow::vms::{Verdict, VmEntry, VmKey};

/// What was read about one running instance, and about the VM that it belongs to.
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of the VM")]
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
    /// How far it has come.
    pub guest: Guest,
    /// `KubeVirt`'s own word on live migration.
    pub live_migratable: LiveMigratable,
    /// Resource names of PCI, USB and vGPU devices.
    pub devices: Vec<String>,
    /// Page size of its huge pages.
    pub hugepages: Option<String>,
    /// It has CPUs of its own.
    pub dedicated_cpus: bool,
    /// Names of resource claims that devices come from.
    pub device_claims: Vec<String>,
    /// The guest's termination grace period.
    pub grace_seconds: Option<u32>,
    /// The instance's `evictionStrategy` is `External`: a controller of somebody else moves it.
    pub moved_by_others: bool,
    /// Its disks are being moved to other volumes.
    pub moving_volumes: bool,
    /// What keeps `KubeVirt` or Harvester from stopping it now, or from starting it again.
    pub stop_refused: Option<String>,
    /// It serves the images of an upgrade: its owner makes and removes it.
    pub serves_upgrade: bool,
    /// The guest cluster that it is a node of.
    pub guest_cluster: Option<String>,
    /// Annotation `agent.harvesterhci.io/shutdown-order`: higher ones are shut down later, and started earlier.
    pub shutdown_order: i32,
}

/// How far an instance has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guest {
    /// It runs.
    Running,
    /// Its user has paused it.
    Paused,
    /// `KubeVirt` has paused it because its storage failed.
    StorageFailed,
    /// It has a phase before Running: no guest yet.
    Starting {
        /// The phase.
        phase: String,
    },
    /// The instance is being deleted.
    Deleting,
    /// The instance is Succeeded or Failed.
    Ended,
    /// A phase that this version does not know.
    Unknown {
        /// The phase.
        phase: String,
    },
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

/// The other nodes as places for one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// One of them is open and could be its place: whether it has room is for the placement proof, and for patience.
    Open,
    /// Some could be its place, and none of these is open now.
    Closed {
        /// What keeps them closed.
        why: String,
    },
    /// There are others, and none of them is a place for it whatever is waited for.
    Never {
        /// What none of them has.
        why: String,
    },
    /// There are no others.
    Alone,
}

/// What is to happen to one VM.
#[must_use]
pub fn classify(facts: &VmFacts, policy: &Evacuation, elsewhere: &Elsewhere) -> Verdict {
    if let Some(verdict) = untouchable(facts, policy) {
        return verdict;
    }
    let devices: Vec<&str> = facts.devices.iter().map(String::as_str).collect();
    if !devices.is_empty() {
        return shut_down(facts, policy, &format!("it holds {}", devices.join(", ")));
    }
    match (&facts.live_migratable, elsewhere) {
        (LiveMigratable::No { reason }, _) => shut_down(facts, policy, reason),
        (LiveMigratable::NotSaid, _) => {
            hold("KubeVirt does not say whether it can live-migrate; wait until it does, or stop it by hand")
        }
        // A node that is away for a moment must not cost a VM its uptime: evacuation waits for it.
        (LiveMigratable::Yes, Elsewhere::Open | Elsewhere::Closed { .. }) => Verdict::Migrate,
        (LiveMigratable::Yes, Elsewhere::Never { why }) => {
            shut_down(facts, policy, &format!("no other node can take it ({why})"))
        }
        (LiveMigratable::Yes, Elsewhere::Alone) => shut_down(facts, policy, "there is no other node"),
    }
}

/// What decides before anybody asks how it could leave.
fn untouchable(facts: &VmFacts, policy: &Evacuation) -> Option<Verdict> {
    // Nothing may run under Halted: somebody has stopped it, and KubeVirt ends it.
    let is_halted = facts.run_strategy.as_deref() == Some("Halted");
    if is_halted || matches!(facts.guest, Guest::Deleting | Guest::Ended) {
        return Some(Verdict::Leaving);
    }
    if policy.exclude.contains(&facts.vm) {
        return Some(hold("the plan excludes it; move or stop it by hand, then resume"));
    }
    if facts.vm_uid.is_none() {
        return Some(hold(
            "it is an instance without a VirtualMachine and would be lost; move or delete it by hand",
        ));
    }
    match &facts.guest {
        Guest::Paused => {
            return Some(hold("its guest is paused and would lose its state; unpause or stop it by hand"));
        }
        Guest::StorageFailed => {
            return Some(hold("its guest is paused because its storage failed; mend the volume first"));
        }
        Guest::Starting { phase } => {
            return Some(hold(&format!(
                "it is only just starting ({phase}); wait until it runs, then resume"
            )));
        }
        Guest::Unknown { phase } => {
            return Some(hold(&format!(
                "its phase is `{phase}`, which nothing is known about; look at its events"
            )));
        }
        Guest::Running | Guest::Deleting | Guest::Ended => {}
    }
    if facts.moved_by_others {
        let why = "its evictionStrategy is External: another controller has to move it; let that do so, then resume";
        return Some(hold(why));
    }
    if facts.moving_volumes {
        return Some(hold("its disks are being moved to other volumes; wait for that to end, then resume"));
    }
    if let Some(claim) = facts.device_claims.first() {
        let why = format!(
            "its device comes from resource claim {claim}, of which nobody can say when it is back; stop it by hand"
        );
        return Some(hold(&why));
    }
    None
}

/// The ledger's entry for these facts.
#[must_use]
pub fn enter(facts: &VmFacts, policy: &Evacuation, elsewhere: &Elsewhere) -> VmEntry {
    VmEntry {
        vm: facts.vm.clone(),
        vm_uid: facts.vm_uid.clone(),
        vmi_uid: facts.vmi_uid.clone(),
        run_strategy: facts.run_strategy.clone(),
        devices: facts.devices.clone(),
        hugepages: facts.hugepages.clone(),
        dedicated_cpus: facts.dedicated_cpus,
        grace_seconds: facts.grace_seconds,
        // What serves an upgrade goes last.
        shutdown_order: if facts.serves_upgrade { i32::MAX } else { facts.shutdown_order },
        left_off: facts.serves_upgrade,
        verdict: classify(facts, policy, elsewhere),
    }
}

fn hold(why: &str) -> Verdict {
    Verdict::Hold { why: why.to_owned() }
}

fn shut_down(facts: &VmFacts, policy: &Evacuation, why: &str) -> Verdict {
    let node_of =
        facts.guest_cluster.as_ref().map(|cluster| format!("; it is a node of guest cluster {cluster}"));
    let why = format!("{why}{}", node_of.unwrap_or_default());
    if let Some(refused) = &facts.stop_refused {
        return Verdict::Hold { why: format!("{why}, and cannot be stopped now: {refused}") };
    }
    match policy.non_migratable {
        NonMigratable::ShutdownAndRestore => Verdict::ShutDown { why },
        NonMigratable::Hold => {
            Verdict::Hold { why: format!("{why}, and the plan says to hold for such VMs") }
        }
    }
}

#[cfg(test)]
#[path = "classify_tests/mod.rs"]
mod tests;
