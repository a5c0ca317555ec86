//! What the watches have shown to pre-drain so far: instances of the node and their migrations.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};

use crate::agent::step_error::StepError;
use crate::cluster::crd::kubevirt::{VirtualMachineInstance, VirtualMachineInstanceMigration};
use crate::cluster::vms;
use crate::flow::evacuate::{MigrationState, Seen, SeenMigration, SeenVmi};
use crate::flow::vms::VmKey;

/// The step's own memory: what the watches have shown so far.
pub(super) struct World {
    pub(super) instances: BTreeMap<VmKey, VirtualMachineInstance>,
    pub(super) seen: Seen,
    /// How each instance ended that was seen to end.
    pub(super) ends: BTreeMap<VmKey, bool>,
    incoming: BTreeMap<VmKey, VirtualMachineInstance>,
    /// When it was last asked whether a stop was heard.
    pub(super) asked: BTreeMap<VmKey, Timestamp>,
    upgrade_uid: String,
}

impl World {
    pub(super) fn new(upgrade_uid: String) -> Self {
        Self {
            instances: BTreeMap::new(),
            seen: Seen::default(),
            ends: BTreeMap::new(),
            incoming: BTreeMap::new(),
            asked: BTreeMap::new(),
            upgrade_uid,
        }
    }

    pub(super) fn put(&mut self, vmi: VirtualMachineInstance) {
        let key = vms::key_of(&vmi);
        let ended = vms::ended(&vmi);
        if let Some(clean) = ended {
            self.ends.insert(key.clone(), clean);
        }
        let deleting = vmi.metadata.deletion_timestamp.is_some();
        let uid = vmi.uid().unwrap_or_default();
        self.seen.vmis.insert(key.clone(), SeenVmi { uid, deleting, ended });
        self.instances.insert(key, vmi);
    }

    pub(super) fn instance_event(
        &mut self,
        event: Option<Result<Event<VirtualMachineInstance>, watcher::Error>>,
    ) -> Result<(), StepError> {
        match event {
            Some(Ok(Event::Apply(vmi))) => self.put(vmi),
            Some(Ok(Event::Delete(vmi))) => {
                let key = vms::key_of(&vmi);
                if let Some(clean) = vms::ended(&vmi) {
                    self.ends.insert(key.clone(), clean);
                }
                self.instances.remove(&key);
                self.seen.vmis.remove(&key);
            }
            Some(Ok(Event::Init)) => self.incoming.clear(),
            Some(Ok(Event::InitApply(vmi))) => {
                self.incoming.insert(vms::key_of(&vmi), vmi);
            }
            Some(Ok(Event::InitDone)) => {
                self.instances.clear();
                self.seen.vmis.clear();
                for vmi in std::mem::take(&mut self.incoming).into_values() {
                    self.put(vmi);
                }
            }
            // The watcher goes on by itself, with a back-off; the API may be away.
            Some(Err(error)) => tracing::debug!(%error, "the watch on VMs broke; it goes on by itself"),
            None => return Err(StepError::retry("the watch on VMs ended")),
        }
        Ok(())
    }

    pub(super) fn migration_event(
        &mut self,
        event: Option<Result<Event<VirtualMachineInstanceMigration>, watcher::Error>>,
    ) {
        match event {
            Some(Ok(Event::Apply(migration) | Event::InitApply(migration))) => self.put_migration(&migration),
            // Deleting a migration that is under way aborts it: for the attempt that is a failure.
            Some(Ok(Event::Delete(migration))) => {
                let name = migration.name_any();
                for one in self.seen.migrations.values_mut().flatten().filter(|one| one.name == name) {
                    if one.state == MigrationState::Unfinished {
                        one.state = MigrationState::Failed { reason: "somebody deleted it".to_owned() };
                    }
                }
            }
            Some(Ok(Event::Init | Event::InitDone)) | None => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "the watch on migrations broke; it goes on by itself");
            }
        }
    }

    fn put_migration(&mut self, migration: &VirtualMachineInstanceMigration) {
        let name = migration.name_any();
        let id = vms::attempt_of(migration, &self.upgrade_uid);
        let vm = VmKey {
            namespace: migration.namespace().unwrap_or_default(),
            name: migration.spec.vmi_name.clone(),
        };
        let status = migration.status.clone().unwrap_or_default();
        let state = match status.phase.as_deref() {
            Some("Succeeded") => MigrationState::Succeeded,
            Some("Failed") => MigrationState::Failed {
                reason: status
                    .migration_state
                    .and_then(|state| state.failure_reason)
                    .unwrap_or_else(|| "KubeVirt gives no reason".to_owned()),
            },
            _ => MigrationState::Unfinished,
        };
        let all = self.seen.migrations.entry(vm).or_default();
        all.retain(|one| one.name != name);
        all.push(SeenMigration { name, id, state });
    }
}
