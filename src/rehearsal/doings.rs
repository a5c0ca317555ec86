//! How each flaw is carried out: an annotation that the simulators act on, a change of the beginning, somebody's deed at its
//! moment, trouble on the way to the API server, or a machine that does not work. Says what, does nothing.

use std::time::Duration;

use crate::rehearsal::faults::Flaw;
use crate::sim::people;
use crate::sim::troubles::Trouble;
use crate::sim::world;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// The simulators read it from the VM.
    Annotation(&'static str, &'static str),
    /// So from the beginning.
    Setup(Setup),
    /// Somebody does it when its moment comes.
    Deed(Moment, Deed),
    /// The machine or its RKE2.
    Machine(Machine),
}

/// How something is before the upgrade begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// A VM in a crash loop.
    CrashLoops,
    /// A VM whose failed instance stays.
    LingersFailed,
    /// A node that its operator has cordoned.
    Cordoned,
    /// A node without memory for another VM.
    NoRoom,
}

/// When somebody does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Just before the turn of any node.
    TurnBegins,
    /// It is in the ledger of its node, on disk; for a node: its ledger is.
    Listed,
    /// virt-api has accepted its shutdown.
    StopAccepted,
    /// Its VMI is gone.
    Gone,
    /// A node changed.
    NodeChanged,
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A user, to the VM.
    User(people::Deed),
    /// A user live-migrates the VM onto the node.
    MigrateHere,
    /// Somebody else evicts its launcher pods.
    Evict,
    /// The agent is killed.
    KillAgent,
    /// Harvester takes the drain taint off.
    RemoveTaint,
    /// The cluster's servers are in trouble for so long.
    Trouble(Trouble, Duration),
}

/// What does not work about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Its devices are gone after the restart.
    LosesDevices,
    /// One of each of its devices is.
    LosesOneOfEach,
    /// The devices of one VM are, under that name.
    RenamesDevices,
    /// Its kubelet is not heard of again.
    NeverReturns,
    /// A VM process stays that nobody knows.
    HasStrayGuest,
    /// The new RKE2 ends at once.
    Rke2Crashes,
    /// It never becomes ready.
    Rke2Hangs,
    /// systemd cannot execute it.
    Rke2IsNotExecutable,
    /// It says that it is the old one.
    Rke2ReportsTheOldVersion,
    /// It ends a minute after each start.
    Rke2Dies,
    /// No snapshot of etcd.
    SavesNoSnapshot,
    /// Half of one.
    TearsSnapshots,
    /// systemd executes nothing below the agent's state directory.
    BarsTheGuard,
}

const TWO_MINUTES: Duration = Duration::from_mins(2);

impl Flaw {
    /// How it is carried out.
    #[must_use]
    pub fn doing(self) -> Doing {
        use Doing::{Annotation, Deed as At, Machine as On, Setup as Begins};
        use people::Deed as User;
        let trouble = |trouble, length| At(Moment::Listed, Deed::Trouble(trouble, length));
        match self {
            Self::GuestIgnoresShutdown => Annotation(world::SHUTDOWN_ANNOTATION, "ignore"),
            Self::StuckTerminating => Annotation(world::TERMINATING_ANNOTATION, "forever"),
            Self::SlowTerminating => Annotation(world::TERMINATING_ANNOTATION, "600"),
            Self::MigrationFailsTwice => Annotation(world::MIGRATION_FAILURES_ANNOTATION, "2"),
            Self::MigrationAlwaysFails => Annotation(world::MIGRATION_FAILURES_ANNOTATION, "always"),
            Self::MigrationNeverConverges => Annotation(world::DIRTY_ANNOTATION, "1000000"),
            Self::TargetUnschedulable => Annotation(world::NO_TARGET_ANNOTATION, "always"),
            Self::StartRefused => Annotation(world::START_REFUSALS_ANNOTATION, "15"),
            Self::StartAlwaysRefused => Annotation(world::START_REFUSALS_ANNOTATION, "always"),
            Self::CrashLoops => Begins(Setup::CrashLoops),
            Self::LingersFailed => Begins(Setup::LingersFailed),
            Self::Cordoned => Begins(Setup::Cordoned),
            Self::NoRoom => Begins(Setup::NoRoom),
            Self::UserDeletes => At(Moment::Listed, Deed::User(User::Delete)),
            Self::UserDeletesWhileOff => At(Moment::Gone, Deed::User(User::Delete)),
            Self::UserRecreates => At(Moment::Gone, Deed::User(User::Recreate)),
            Self::UserStarts => At(Moment::Gone, Deed::User(User::Start)),
            Self::UserStops => At(Moment::Listed, Deed::User(User::Stop)),
            Self::UserHalts => At(Moment::Gone, Deed::User(User::Halt)),
            Self::UserMigratesHere => At(Moment::TurnBegins, Deed::MigrateHere),
            Self::AgentDiesAtStop => At(Moment::StopAccepted, Deed::KillAgent),
            Self::DeviceTaken => At(Moment::Gone, Deed::User(User::TakeDevice)),
            Self::EvictedByOthers => At(Moment::Listed, Deed::Evict),
            Self::TaintRemoved => At(Moment::NodeChanged, Deed::RemoveTaint),
            Self::VirtApiAway => trouble(Trouble::VirtApiAway, TWO_MINUTES),
            Self::VirtApiRaces => trouble(Trouble::Races, Duration::from_hours(1)),
            Self::ApiThrottles => trouble(Trouble::Throttles, TWO_MINUTES),
            Self::WritesConflict => trouble(Trouble::Conflicts, TWO_MINUTES),
            Self::WatchesExpire => trouble(Trouble::Expires, Duration::from_mins(3)),
            Self::VirtControllerAway => trouble(Trouble::VirtControllerAway, Duration::from_mins(5)),
            Self::DeviceLost => On(Machine::LosesDevices),
            Self::DeviceShort => On(Machine::LosesOneOfEach),
            Self::DeviceRenamed => On(Machine::RenamesDevices),
            Self::NodeNeverReturns => On(Machine::NeverReturns),
            Self::StrayGuest => On(Machine::HasStrayGuest),
            Self::Rke2Crashes => On(Machine::Rke2Crashes),
            Self::Rke2Hangs => On(Machine::Rke2Hangs),
            Self::Rke2NotExecutable => On(Machine::Rke2IsNotExecutable),
            Self::Rke2WrongVersion => On(Machine::Rke2ReportsTheOldVersion),
            Self::Rke2Dies => On(Machine::Rke2Dies),
            Self::SnapshotFails => On(Machine::SavesNoSnapshot),
            Self::SnapshotTorn => On(Machine::TearsSnapshots),
            Self::GuardNotExecutable => On(Machine::BarsTheGuard),
        }
    }
}
