//! What evacuation sees of the world, and what it would see by the journal alone.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::flow::vms::{Fate, VmKey, VmLedger};

/// An instance on the node, as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenVmi {
    /// Its uid.
    pub uid: String,
    /// It is being deleted since then: somebody has heard a stop.
    pub deleting: Option<Timestamp>,
    /// None while it lives, else how it ended: `true` for Succeeded.
    pub ended: Option<bool>,
}

/// A migration object of a VM, as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenMigration {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Which of our attempts it is; none when somebody else created it.
    pub id: Option<u64>,
    /// How far it is.
    pub state: MigrationState,
    /// When it was first seen.
    pub since: Timestamp,
    /// Its target is being made ready, first seen so then; none before that, and once the guest is copied.
    pub preparing: Option<Timestamp>,
    /// The guest is being copied.
    pub running: bool,
    /// Its deletion was asked for: it is being aborted.
    pub deleting: bool,
    /// The node that it goes to, as far as that is known.
    pub target: Option<String>,
}

/// How far a migration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationState {
    /// Not final.
    Unfinished,
    /// The guest runs on the target.
    Succeeded,
    /// It did not work.
    Failed {
        /// Why, as far as `KubeVirt` says.
        reason: String,
    },
}

/// What the last look at the other nodes says about one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A node may take it.
    Open {
        /// One that takes it and on which no attempt has failed; only looked for when one has.
        other: Option<String>,
    },
    /// It is certain that none does now.
    None {
        /// Every node and what keeps the VM from it.
        why: String,
        /// The smallest change that would be enough.
        cure: Option<String>,
    },
    /// The look gave no answer, or one that need not be `KubeVirt`'s.
    Unknown,
}

/// The world as far as evacuation looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Instances on the node.
    pub vmis: BTreeMap<VmKey, SeenVmi>,
    /// The migrations of the ledger's VMs were listed: whoever shows none has none.
    pub listed: bool,
    /// Since when they are waited for, as long as they were not.
    pub unlisted_since: Option<Timestamp>,
    /// What `KubeVirt` said to the last request about a VM, when that was a no.
    pub refused: BTreeMap<VmKey, String>,
    /// Migration objects of any VM.
    pub migrations: BTreeMap<VmKey, Vec<SeenMigration>>,
    /// When the other nodes were last looked at.
    pub looked: Option<Timestamp>,
    /// How many nodes that look had to read: the more, the rarer the next ones.
    pub nodes_read: u32,
    /// What came of it.
    pub targets: BTreeMap<VmKey, Target>,
}

impl Seen {
    /// What the journal alone says of the world: enough to tell, without the API, who is waited for and how long.
    #[must_use]
    pub fn as_recorded(ledger: &VmLedger, now: Timestamp) -> Self {
        let mut seen = Self { listed: true, looked: Some(now), ..Self::default() };
        for line in ledger.on_node() {
            let vm = &line.entry.vm;
            let deleting = match line.fate {
                Fate::Stopping { since, .. } => Some(since),
                Fate::Here
                | Fate::Migrating { .. }
                | Fate::Migrated { .. }
                | Fate::ShutDown { .. }
                | Fate::Left { .. }
                | Fate::Restoring { .. }
                | Fate::Restored { .. }
                | Fate::Struck { .. } => None,
            };
            let uid = line.entry.vmi_uid.clone();
            seen.vmis.insert(vm.clone(), SeenVmi { uid, deleting, ended: None });
            let trail = ledger.trail(vm);
            if let Some(awaited) = trail.and_then(|trail| trail.awaited.as_ref()) {
                let target = Target::None { why: awaited.why.clone(), cure: None };
                seen.targets.insert(vm.clone(), target);
            } else if let Fate::Migrating { id, asked, to, .. } = &line.fate {
                let abort = trail.and_then(|trail| trail.abort.as_ref());
                let migration = SeenMigration {
                    name: abort.map(|abort| abort.migration.clone()).unwrap_or_default(),
                    uid: String::new(),
                    id: Some(*id),
                    state: MigrationState::Unfinished,
                    since: *asked,
                    preparing: None,
                    running: false,
                    deleting: abort.is_some(),
                    target: to.clone(),
                };
                seen.migrations.insert(vm.clone(), vec![migration]);
            }
        }
        seen
    }
}
