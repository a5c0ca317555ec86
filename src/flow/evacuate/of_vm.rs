//! What is seen of one VM, found by going through what is seen of all beside the ledger: both are in the order of keys.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;

use super::{MigrationState, SeenMigration, SeenVmi};
use crate::flow::vms::{Abort, Awaited, LedgerLine, Trail, VmKey};

/// What is seen of one VM.
#[derive(Clone, Copy)]
pub(super) struct OfVm<'a> {
    pub(super) vm: &'a VmKey,
    pub(super) line: &'a LedgerLine,
    pub(super) trail: Option<&'a Trail>,
    pub(super) vmi: Option<&'a SeenVmi>,
    pub(super) migrations: &'a [SeenMigration],
}

impl<'a> OfVm<'a> {
    /// A migration of this VM that is under way and is not the attempt `ours`.
    pub(super) fn unfinished(self, ours: Option<u64>) -> Option<&'a SeenMigration> {
        let others = self.migrations.iter().filter(|one| one.id.is_none() || one.id != ours);
        others.into_iter().find(|one| one.state == MigrationState::Unfinished)
    }

    /// The migration of one of our attempts.
    pub(super) fn ours(self, id: u64) -> Option<&'a SeenMigration> {
        self.migrations.iter().find(|one| one.id == Some(id))
    }

    /// The nodes on which attempts of ours have failed.
    pub(super) fn failed_on(self) -> BTreeSet<String> {
        let failed = |one: &&SeenMigration| match one.state {
            MigrationState::Failed { .. } => one.id.is_some(),
            MigrationState::Unfinished | MigrationState::Succeeded => false,
        };
        self.migrations.iter().filter(failed).filter_map(|one| one.target.clone()).collect()
    }

    pub(super) fn awaited(self) -> Option<&'a Awaited> {
        self.trail.and_then(|trail| trail.awaited.as_ref())
    }

    pub(super) fn abort(self) -> Option<&'a Abort> {
        self.trail.and_then(|trail| trail.abort.as_ref())
    }
}

/// Goes through a map beside somebody who asks for its keys in ascending order.
pub(super) struct Beside<'a, V>(Peekable<btree_map::Iter<'a, VmKey, V>>);

impl<'a, V> Beside<'a, V> {
    pub(super) fn of(map: &'a BTreeMap<VmKey, V>) -> Self {
        Self(map.iter().peekable())
    }

    pub(super) fn at(&mut self, key: &VmKey) -> Option<&'a V> {
        while self.0.next_if(|(known, _)| *known < key).is_some() {}
        self.0.next_if(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_look_up_would_find() {
        let key = |name: &str| VmKey::new("default", name);
        let map: BTreeMap<VmKey, u8> =
            [("b", 1), ("c", 2), ("e", 3), ("f", 4)].map(|(name, at)| (key(name), at)).into();
        for asked in [vec!["a", "b", "c", "d", "e", "f", "g"], vec!["c", "f"], vec!["a", "g"], vec![]] {
            let mut beside = Beside::of(&map);
            for name in asked {
                assert_eq!(beside.at(&key(name)), map.get(&key(name)), "{name}");
            }
        }
    }
}
