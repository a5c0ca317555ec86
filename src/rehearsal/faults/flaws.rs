//! What may be wrong with one VM or one node, from the beginning or at its moment: the words, what they do, and which of the
//! failure scripts of `kubevirt.md` §8.4 they are. Knows nothing about how it is done.

/// Something that is wrong with a VM or a node, or that somebody does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A guest that never reacts to its power button.
    GuestIgnoresShutdown,
    /// A VMI that stays Terminating for ever.
    StuckTerminating,
    /// A VMI that stays Terminating for ten minutes.
    SlowTerminating,
    /// Two migrations fail, later ones work.
    MigrationFailsTwice,
    /// Every migration fails.
    MigrationAlwaysFails,
    /// A guest whose memory changes faster than it can be copied.
    MigrationNeverConverges,
    /// No target pod of a migration finds a node.
    TargetUnschedulable,
    /// Its user deletes it once it is in the ledger.
    UserDeletes,
    /// Its user deletes it while it is off.
    UserDeletesWhileOff,
    /// Its user deletes it while it is off, and makes it anew.
    UserRecreates,
    /// A VM that its user starts, as soon as it is off.
    UserStarts,
    /// Its user shuts it down once it is in the ledger.
    UserStops,
    /// Its user halts it while it is off.
    UserHalts,
    /// Its user live-migrates it onto the node just before that is closed.
    UserMigratesHere,
    /// The agent is killed once virt-api has accepted its shutdown.
    AgentDiesAtStop,
    /// It is in a crash loop from the beginning.
    CrashLoops,
    /// Another VM takes its device while it is off.
    DeviceTaken,
    /// Its device has another name after the restart.
    DeviceRenamed,
    /// Its guest has failed before the upgrade, and its VMI stays.
    LingersFailed,
    /// A webhook refuses its new VMI for some minutes.
    StartRefused,
    /// A webhook refuses its new VMI for ever.
    StartAlwaysRefused,
    /// Somebody else evicts its launcher pod once it is in the ledger.
    EvictedByOthers,
    /// A node that nothing new is scheduled to, by its operator's wish.
    Cordoned,
    /// A node without room for another VM.
    NoRoom,
    /// virt-api, and with it its webhooks, is away for two minutes from the node's ledger on.
    VirtApiAway,
    /// virt-api answers the first request about each VM with a lost race.
    VirtApiRaces,
    /// The API server turns every other request away for two minutes.
    ApiThrottles,
    /// Every write meets a conflict at first, for two minutes.
    WritesConflict,
    /// Watches break, and have nothing to go on from, every twenty seconds for three minutes.
    WatchesExpire,
    /// virt-controller is away for five minutes from the node's ledger on.
    VirtControllerAway,
    /// A node whose devices are gone after the restart of RKE2.
    DeviceLost,
    /// One device of each kind is gone after the restart.
    DeviceShort,
    /// Its kubelet never says anything again once RKE2 was stopped.
    NodeNeverReturns,
    /// Harvester takes the drain taint off, each time.
    TaintRemoved,
    /// A machine with a VM process that the API does not know, once pre-drain is done.
    StrayGuest,
    /// The new RKE2 ends at once, each time it is started.
    Rke2Crashes,
    /// The new RKE2 never becomes ready.
    Rke2Hangs,
    /// systemd cannot execute the new RKE2 (status 203), each time.
    Rke2NotExecutable,
    /// The new RKE2 comes up and reports the old version.
    Rke2WrongVersion,
    /// The new RKE2 comes up and dies a minute later, each time.
    Rke2Dies,
    /// RKE2 saves no snapshot of etcd.
    SnapshotFails,
    /// RKE2 says that it has saved a snapshot of etcd, which is cut off.
    SnapshotTorn,
    /// systemd cannot execute what is below the agent's state directory.
    GuardNotExecutable,
}

/// What a flaw can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Any VM.
    Vm,
    /// A VM that can live-migrate.
    Mover,
    /// A VM that is shut down for the upgrade.
    Stayer,
    /// Such a one with a device.
    Device,
    /// A node.
    Node,
}

impl Of {
    pub(super) fn is_vm(self) -> bool {
        match self {
            Self::Vm | Self::Mover | Self::Stayer | Self::Device => true,
            Self::Node => false,
        }
    }
}

/// What has to come of a rehearsal with nothing but this flaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The upgrade goes through.
    Through,
    /// It may wait for an operator, who is told of every VM that is owed a start.
    MayHold,
}

/// One flaw, described.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// What it is called on the command line.
    pub word: &'static str,
    /// Which.
    pub flaw: Flaw,
    /// What it is about.
    pub of: Of,
    /// The number of its failure script; 0 for those that are none.
    pub script: u8,
    /// What has to come of it.
    pub ends: Ends,
    /// What it does.
    pub does: &'static str,
}

const fn flaw(
    (script, word): (u8, &'static str),
    flaw: Flaw,
    of: Of,
    ends: Ends,
    does: &'static str,
) -> Described {
    Described { word, flaw, of, script, ends, does }
}

use Ends::{MayHold, Through};
use Flaw as F;
use Of::{Device, Mover, Node, Stayer, Vm};

/// All of them, in the order of the scripts.
#[rustfmt::skip]
pub const ALL: [Described; 43] = [
    flaw((1, "guest-ignores-shutdown"), F::GuestIgnoresShutdown, Stayer, Through, "its guest never reacts to the power button"),
    flaw((2, "stuck-terminating"), F::StuckTerminating, Stayer, MayHold, "its VMI stays Terminating for ever after its guest has ended"),
    flaw((2, "slow-terminating"), F::SlowTerminating, Stayer, MayHold, "its VMI stays Terminating for ten minutes"),
    flaw((3, "migration-fails-twice"), F::MigrationFailsTwice, Mover, MayHold, "its first two migrations fail, later ones work"),
    flaw((3, "migration-always-fails"), F::MigrationAlwaysFails, Mover, MayHold, "each of its migrations fails"),
    flaw((3, "migration-never-converges"), F::MigrationNeverConverges, Mover, MayHold, "its memory changes faster than it is copied"),
    flaw((4, "target-unschedulable"), F::TargetUnschedulable, Mover, MayHold, "no target pod of its migrations finds a node"),
    flaw((5, "user-deletes"), F::UserDeletes, Vm, Through, "its user deletes it once it is in the ledger"),
    flaw((5, "user-deletes-while-off"), F::UserDeletesWhileOff, Stayer, Through, "its user deletes it while it is off"),
    flaw((5, "user-recreates"), F::UserRecreates, Stayer, Through, "its user deletes it while it is off and makes it anew"),
    flaw((6, "user-starts"), F::UserStarts, Stayer, Through, "its user starts it as soon as it is off"),
    flaw((7, "user-stops"), F::UserStops, Vm, Through, "its user shuts it down once it is in the ledger"),
    flaw((7, "user-halts"), F::UserHalts, Stayer, Through, "its user halts it while it is off"),
    flaw((8, "user-migrates-here"), F::UserMigratesHere, Mover, Through, "its user live-migrates it onto each node that is about to be closed"),
    flaw((9, "virt-api-away"), F::VirtApiAway, Node, Through, "virt-api and its webhooks are away for 2 min from its ledger on (503, 500)"),
    flaw((9, "virt-api-races"), F::VirtApiRaces, Node, Through, "virt-api answers the first request about each VM with a lost race (500)"),
    flaw((9, "api-throttles"), F::ApiThrottles, Node, Through, "the API server turns every other request away for 2 min (429)"),
    flaw((9, "writes-conflict"), F::WritesConflict, Node, Through, "every write meets a conflict at first, for 2 min (409)"),
    flaw((9, "watches-expire"), F::WatchesExpire, Node, Through, "watches break and start anew every 20 s for 3 min (410)"),
    flaw((10, "agent-dies-at-stop"), F::AgentDiesAtStop, Stayer, Through, "the agent is killed once virt-api has accepted its shutdown"),
    flaw((11, "virt-controller-away"), F::VirtControllerAway, Node, MayHold, "virt-controller is away for 5 min from its ledger on"),
    flaw((12, "crash-loops"), F::CrashLoops, Vm, MayHold, "its guest dies before it has booted, again and again, from the beginning"),
    flaw((13, "device-lost"), F::DeviceLost, Node, MayHold, "its devices are gone after the restart"),
    flaw((13, "device-taken"), F::DeviceTaken, Device, MayHold, "another VM takes its device while it is off"),
    flaw((13, "device-renamed"), F::DeviceRenamed, Device, MayHold, "its device has another name after the restart"),
    flaw((14, "lingers-failed"), F::LingersFailed, Vm, MayHold, "its guest has failed before the upgrade, and its VMI stays"),
    flaw((15, "node-never-returns"), F::NodeNeverReturns, Node, MayHold, "its kubelet is not heard of again once RKE2 was stopped"),
    flaw((16, "device-short"), F::DeviceShort, Node, MayHold, "of each device one is gone after the restart: two VMs want the same"),
    flaw((17, "start-refused"), F::StartRefused, Stayer, Through, "a webhook refuses its new VMI for some minutes"),
    flaw((17, "start-always-refused"), F::StartAlwaysRefused, Stayer, MayHold, "a webhook refuses its new VMI for ever"),
    flaw((18, "evicted-by-others"), F::EvictedByOthers, Vm, Through, "somebody else evicts its launcher pod once it is in the ledger"),
    flaw((19, "taint-removed"), F::TaintRemoved, Node, Through, "Harvester takes the drain taint off it, each time"),
    flaw((0, "cordoned"), F::Cordoned, Node, MayHold, "its operator has cordoned it"),
    flaw((0, "no-room"), F::NoRoom, Node, MayHold, "it has no memory left for another VM"),
    flaw((0, "stray-guest"), F::StrayGuest, Node, MayHold, "a VM process stays that the API does not know, once pre-drain is done"),
    flaw((0, "rke2-crashes"), F::Rke2Crashes, Node, MayHold, "the new RKE2 ends at once, each time"),
    flaw((0, "rke2-hangs"), F::Rke2Hangs, Node, MayHold, "the new RKE2 never becomes ready"),
    flaw((0, "rke2-not-executable"), F::Rke2NotExecutable, Node, MayHold, "systemd cannot execute the new RKE2 (status 203), each time"),
    flaw((0, "rke2-wrong-version"), F::Rke2WrongVersion, Node, MayHold, "the new RKE2 comes up and reports the old version"),
    flaw((0, "rke2-dies"), F::Rke2Dies, Node, MayHold, "the new RKE2 dies a minute after each start"),
    flaw((0, "snapshot-fails"), F::SnapshotFails, Node, MayHold, "its RKE2 saves no snapshot of etcd"),
    flaw((0, "snapshot-torn"), F::SnapshotTorn, Node, MayHold, "the snapshot of etcd that its RKE2 saves is cut off"),
    flaw((0, "guard-not-executable"), F::GuardNotExecutable, Node, MayHold, "systemd cannot execute the boot guard"),
];

impl Flaw {
    /// What is known of it.
    #[must_use]
    pub fn described(self) -> Option<&'static Described> {
        ALL.iter().find(|one| one.flaw == self)
    }

    pub(super) fn word(self) -> &'static str {
        self.described().map_or("", |one| one.word)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_script_has_a_flaw_and_every_flaw_a_word_of_its_own() {
        let scripts: BTreeSet<u8> = ALL.iter().map(|one| one.script).filter(|script| *script > 0).collect();
        assert_eq!(scripts, (1..=19).collect());
        let words: BTreeSet<&str> = ALL.iter().map(|one| one.word).collect();
        let flaws: BTreeSet<Flaw> = ALL.iter().map(|one| one.flaw).collect();
        assert_eq!((words.len(), flaws.len()), (ALL.len(), ALL.len()));
    }
}
