//! Crash schedules: every single blow that a world can be given, and random sets of several by seed. Pure: it only says
//! which faults; [`super::check`] runs them.

mod scripts;

use crate::flow::record::Record;
use crate::rehearsal::faults::{Blow, Fault};
use crate::sim::machine::random::Dice;
use crate::sim::machine::strangers::Deed;
pub use scripts::Cast;

/// The kinds of effects that a blow can fall on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectKind {
    /// A file operation or a sync.
    File,
    /// A request to the API server.
    Request,
    /// A call to systemd, or a program.
    Call,
}

impl EffectKind {
    /// The blows that mean something here.
    #[must_use]
    pub fn blows(self) -> &'static [Blow] {
        match self {
            Self::File => &[
                Blow::Kill,
                Blow::KillAfter,
                Blow::Power,
                Blow::PowerAfter,
                Blow::PowerTorn,
                Blow::Full,
                Blow::Broken,
            ],
            Self::Request => {
                &[Blow::Kill, Blow::KillAfter, Blow::PowerAfter, Blow::Full, Blow::Lost, Blow::Away(40)]
            }
            Self::Call => &[Blow::Kill, Blow::KillAfter, Blow::PowerAfter, Blow::Broken],
        }
    }
}

/// Where a world can be hit, found by running it once unharmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The kind of each effect; the first has number 1.
    pub effects: Vec<EffectKind>,
    /// How often the agent waited.
    pub awaits: u64,
    /// The lines of the journals that say how far a node is.
    pub lines: Vec<LineAt>,
}

/// A line of a journal that says how far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineAt {
    /// The number of the first effect that found it on the disk.
    pub effect: u64,
    /// What it says, as the journal calls it.
    pub name: &'static str,
}

impl LineAt {
    /// None for what is said of single VMs, or is no step of its own.
    #[must_use]
    pub fn of(effect: u64, record: &Record) -> Option<Self> {
        let name = match record {
            Record::Opened { .. } => "opened",
            Record::Preflighted { .. } => "preflighted",
            Record::Staged { .. } => "staged",
            Record::FenceIntent { .. } => "fenceIntent",
            Record::Fenced => "fenced",
            Record::CordonIntent { .. } => "cordonIntent",
            Record::Cordoned => "cordoned",
            Record::PreDrained => "preDrained",
            Record::Drained { .. } => "drained",
            Record::SnapshotTaken { .. } | Record::NoSnapshot { .. } => "snapshot",
            Record::SwapIntent { .. } => "swapIntent",
            Record::Swapped => "swapped",
            Record::RestartIntent { .. } => "restartIntent",
            Record::Restarted { .. } => "restarted",
            Record::RollbackIntent { .. } => "rollbackIntent",
            Record::RolledBack => "rolledBack",
            Record::Verified { .. } => "verified",
            Record::PostDrained => "postDrained",
            Record::Finished { .. } => "finished",
            Record::InstallerHoldIntent { .. }
            | Record::InstallerReleased
            | Record::LedgerWritten { .. }
            | Record::VmAdopted { .. }
            | Record::MigrationIntent { .. }
            | Record::TargetAwaited { .. }
            | Record::AbortIntent { .. }
            | Record::VmMigrated { .. }
            | Record::StopIntent { .. }
            | Record::ForceOffIntent { .. }
            | Record::VmStopped { .. }
            | Record::VmAsLeft { .. }
            | Record::VmLeft { .. }
            | Record::GateRefused { .. }
            | Record::SwapAbsent
            | Record::AlienFound { .. }
            | Record::RestoreIntent { .. }
            | Record::VmRestored { .. }
            | Record::VmStruck { .. }
            | Record::Held { .. }
            | Record::Resumed
            | Record::CancelRequested => return None,
        };
        Some(Self { effect, name })
    }
}

impl Places {
    /// What somebody else may do at each of them.
    pub const STRANGERS: [Deed; 5] =
        [Deed::Kills, Deed::Restarts, Deed::Reboots, Deed::Unpacks, Deed::UnpacksAndKills];

    /// Every single blow.
    pub fn singles(&self) -> impl Iterator<Item = Vec<Fault>> + '_ {
        let at_effects = (1..)
            .zip(&self.effects)
            .flat_map(|(number, kind)| kind.blows().iter().map(move |blow| vec![Fault::At(number, *blow)]));
        at_effects.chain((1..=self.awaits).map(|number| vec![Fault::KillAtAwait(number)]))
    }

    /// Every deed of somebody else at every place.
    pub fn strangers(&self) -> impl Iterator<Item = Vec<Fault>> + '_ {
        let places = 1..=self.effects.len() as u64;
        places.flat_map(|number| Self::STRANGERS.map(|deed| vec![Fault::At(number, Blow::Stranger(deed))]))
    }

    /// Two to five blows, most of them where the world is known to have effects, some past its end: a resumed run is longer.
    #[must_use]
    pub fn random(&self, seed: u64) -> Vec<Fault> {
        let mut dice = Dice::new(seed ^ 0x5eed_0fb1_0075_0000);
        let count = 2 + dice.below(4);
        let (length, awaits) = (self.effects.len(), usize::try_from(self.awaits).unwrap_or(usize::MAX));
        let mut faults: Vec<Fault> = (0..count)
            .map(|_| {
                if dice.below(6) == 0 {
                    return Fault::KillAtAwait(1 + dice.below(awaits.saturating_mul(3) / 2 + 1) as u64);
                }
                let index = dice.below(length.saturating_mul(3) / 2 + 1);
                let known = self.effects.get(index);
                let blows = known.copied().unwrap_or(EffectKind::File).blows();
                let pick = dice.below(blows.len());
                Fault::At(index as u64 + 1, blows.get(pick).copied().unwrap_or(Blow::Kill))
            })
            .collect();
        faults.sort_by_key(|fault| match fault {
            Fault::At(number, _) | Fault::KillAtAwait(number) => *number,
            Fault::Node(..) | Fault::Vm(..) => 0,
        });
        faults.dedup();
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            effects: vec![EffectKind::File, EffectKind::Request, EffectKind::Call],
            awaits: 2,
            lines: Vec::new(),
        }
    }

    #[test]
    fn singles_are_every_blow_at_every_place() {
        let all: Vec<String> = places().singles().map(|faults| faults[0].to_string()).collect();
        assert_eq!(all.len(), 7 + 6 + 4 + 2);
        for expected in ["kill@1", "full@1", "lost@2", "away@2+40", "broken@3", "await@2"] {
            assert!(all.iter().any(|one| one == expected), "{expected} is not among {all:?}");
        }
    }

    #[test]
    fn others_do_each_of_their_deeds_at_every_place() {
        let all: Vec<String> = places().strangers().map(|faults| faults[0].to_string()).collect();
        assert_eq!(all.len(), 15);
        assert!(all.contains(&"others-unpack-kill@3".to_owned()), "{all:?}");
    }

    #[test]
    fn random_sets_follow_from_their_seed_and_differ() {
        assert_eq!(places().random(7), places().random(7));
        let different: std::collections::BTreeSet<String> =
            (0..50).map(|seed| format!("{:?}", places().random(seed))).collect();
        assert!(different.len() > 40, "{}", different.len());
    }
}
