//! Name changes that the running kernel shows and the platter may not have, each with those that must get there first.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::Arc;

use super::inode::{Body, Table};

/// One directory entry that changes.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub(super) dir: u64,
    pub(super) name: OsString,
    pub(super) to: Option<u64>,
}

/// Edits that reach the platter together or not at all.
#[derive(Debug, Clone)]
pub(super) struct Change {
    id: u64,
    edits: Vec<Edit>,
    needs: BTreeSet<u64>,
}

impl Change {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    fn touches(&self, dir: u64) -> bool {
        self.edits.iter().any(|edit| edit.dir == dir)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    changes: Vec<Change>,
    next: u64,
}

impl Pending {
    /// Remembers a change that comes after all earlier ones of the same names, after those in the directory `emptied`,
    /// and after `also`. Returns its id.
    pub(super) fn add(&mut self, edits: Vec<Edit>, emptied: Option<u64>, also: Option<u64>) -> u64 {
        let id = self.next;
        self.next += 1;
        let same_name = |change: &Change| {
            change.edits.iter().any(|old| edits.iter().any(|new| old.dir == new.dir && old.name == new.name))
        };
        let mut needs: BTreeSet<u64> = self
            .changes
            .iter()
            .filter(|change| same_name(change) || emptied.is_some_and(|dir| change.touches(dir)))
            .map(Change::id)
            .collect();
        needs.extend(also);
        self.changes.push(Change { id, edits, needs });
        id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The oldest change that is still open and may reach the platter now, from `from` on.
    pub(super) fn next_free(&self, from: u64) -> Option<u64> {
        let open: BTreeSet<u64> = self.changes.iter().map(Change::id).collect();
        let free = |change: &&Change| change.id >= from && change.needs.is_disjoint(&open);
        self.changes.iter().find(free).map(Change::id)
    }

    /// Writes one change.
    pub(super) fn write(&mut self, id: u64, platter: &mut Table) {
        let Some(at) = self.changes.iter().position(|change| change.id == id) else { return };
        for edit in self.changes.remove(at).edits {
            let Some(dir) = platter.get_mut(edit.dir) else { continue };
            if let Body::Dir(names) = &mut Arc::make_mut(dir).body {
                match edit.to {
                    Some(ino) => names.insert(edit.name, ino),
                    None => names.remove(&edit.name),
                };
            }
        }
    }

    /// Writes all changes in a directory, and those that they need.
    pub(super) fn write_dir(&mut self, dir: u64, platter: &mut Table) {
        let mut wanted: BTreeSet<u64> = BTreeSet::new();
        // What a change needs is older than itself.
        for change in self.changes.iter().rev() {
            if wanted.contains(&change.id) || change.touches(dir) {
                wanted.insert(change.id);
                wanted.extend(&change.needs);
            }
        }
        for id in wanted {
            self.write(id, platter);
        }
    }
}
