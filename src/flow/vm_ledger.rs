//! `VmLedger`: a line for everybody who was on the node. Total: nobody leaves it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::vms::{Fate, LedgerLine, Trail, Verdict, VmEntry, VmKey};

/// Who was here, how each left, what each is owed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmLedger {
    lines: BTreeMap<VmKey, LedgerLine>,
    trails: BTreeMap<VmKey, Trail>,
}

impl VmLedger {
    /// Adds a VM. One that came back (a new instance after it had left) starts a new line.
    pub(crate) fn enter(&mut self, entry: VmEntry) {
        // What is to be put right for it at the end stays to be done.
        let before = self.trails.remove(&entry.vm);
        if before.is_some_and(|trail| trail.foreign_abort) {
            self.trail_mut(&entry.vm).foreign_abort = true;
        }
        self.put(LedgerLine::new(entry, Fate::Here));
    }

    /// Adds a line, or puts it in the place of that VM's old one.
    pub(crate) fn put(&mut self, line: LedgerLine) {
        self.lines.insert(line.entry.vm.clone(), line);
    }

    /// Moves a VM's fate; `None` when the ledger does not know it.
    pub(crate) fn line_mut(&mut self, vm: &VmKey) -> Option<&mut LedgerLine> {
        self.lines.get_mut(vm)
    }

    /// What a VM's way out left behind; made when there is none yet.
    pub(crate) fn trail_mut(&mut self, vm: &VmKey) -> &mut Trail {
        self.trails.entry(vm.clone()).or_default()
    }

    /// What a VM's way out has left behind so far; none when nothing worth a note has happened.
    #[must_use]
    pub fn trail(&self, vm: &VmKey) -> Option<&Trail> {
        self.trails.get(vm)
    }

    /// One VM's line.
    #[must_use]
    pub fn line(&self, vm: &VmKey) -> Option<&LedgerLine> {
        self.lines.get(vm)
    }

    /// All lines, by namespace and name.
    pub fn lines(&self) -> impl Iterator<Item = &LedgerLine> {
        self.lines.values()
    }

    /// Those that the agent still has to bring back.
    pub fn owed(&self) -> impl Iterator<Item = &LedgerLine> {
        self.lines().filter(|line| line.fate.is_owed())
    }

    /// Those still on the node.
    pub fn on_node(&self) -> impl Iterator<Item = &LedgerLine> {
        self.lines().filter(|line| line.fate.is_on_node())
    }

    /// Those that were shut down for this upgrade, in Harvester's list form (`namespace/name`).
    #[must_use]
    pub fn stopped_names(&self) -> Vec<String> {
        let restored = self.lines().filter(|line| !line.entry.left_off);
        restored
            .filter(|line| match line.fate {
                Fate::Stopping { .. }
                | Fate::ShutDown { .. }
                | Fate::Restoring { .. }
                | Fate::Restored { .. } => true,
                Fate::Here => match line.entry.verdict {
                    Verdict::ShutDown { .. } => true,
                    Verdict::Migrate | Verdict::Leaving | Verdict::Hold { .. } => false,
                },
                Fate::Migrating { .. } | Fate::Migrated { .. } | Fate::Left { .. } | Fate::Struck { .. } => {
                    false
                }
            })
            .map(|line| line.entry.vm.to_string())
            .collect()
    }

    /// Numbers for the status.
    #[must_use]
    pub fn counts(&self) -> VmCounts {
        let mut counts = VmCounts::default();
        for line in self.lines() {
            counts.total += 1;
            counts.left_on_node += u32::from(line.fate.is_on_node());
            counts.owed += u32::from(line.fate.is_owed());
            match line.fate {
                Fate::Migrated { .. } => counts.migrated += 1,
                Fate::ShutDown { .. } | Fate::Restoring { .. } => counts.shut_down += 1,
                Fate::Restored { .. } => {
                    counts.shut_down += 1;
                    counts.restored += 1;
                }
                Fate::Here
                | Fate::Migrating { .. }
                | Fate::Stopping { .. }
                | Fate::Left { .. }
                | Fate::Struck { .. } => {}
            }
        }
        counts
    }
}

/// Numbers for `status.vms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VmCounts {
    /// All that were on the node.
    pub total: u32,
    /// Live-migrated, never stopped.
    pub migrated: u32,
    /// Shut down by the agent.
    pub shut_down: u32,
    /// Of those, running again.
    pub restored: u32,
    /// Shut down or being shut down, and not yet running again.
    pub owed: u32,
    /// Still on the node.
    pub left_on_node: u32,
}
