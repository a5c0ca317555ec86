//! What the watches have shown to pre-drain so far: instances of the node and their migrations.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};

use crate::agent::step_error::StepError;
use crate::agent::steps::migration_watch::MigrationEvent;
use crate::cluster::crd::kubevirt::{VirtualMachineInstance, VirtualMachineInstanceMigration};
use crate::cluster::{migrations, vms};
use crate::flow::evacuate::{MigrationState, Seen, SeenMigration, SeenVmi};
use crate::flow::vms::VmKey;

/// The step's own memory: what the watches have shown so far.
pub(super) struct World {
    pub(super) instances: BTreeMap<VmKey, VirtualMachineInstance>,
    pub(super) seen: Seen,
    /// When the instances were last heard of, by the watch or a list.
    pub(super) heard: Timestamp,
    /// How each instance ended that was seen to end.
    pub(super) ends: BTreeMap<VmKey, bool>,
    incoming: BTreeMap<VmKey, VirtualMachineInstance>,
    /// Those whose hold was looked at once more.
    pub(super) reconsidered: BTreeSet<VmKey>,
    /// When it was last asked whether a stop was heard.
    pub(super) asked: BTreeMap<VmKey, Timestamp>,
    /// Counts the changes of what is `seen`; an event that only repeats what is known is none.
    pub(super) changes: u64,
    /// The list of migrations that is coming in: who is in it, and whether it has brought something new.
    listed: BTreeSet<(VmKey, String)>,
    listed_news: bool,
    upgrade_uid: String,
    node: String,
}

impl World {
    pub(super) fn new(upgrade_uid: String, node: String, now: Timestamp) -> Self {
        Self {
            instances: BTreeMap::new(),
            seen: Seen { unlisted_since: Some(now), ..Seen::default() },
            heard: now,
            ends: BTreeMap::new(),
            incoming: BTreeMap::new(),
            reconsidered: BTreeSet::new(),
            asked: BTreeMap::new(),
            changes: 0,
            listed: BTreeSet::new(),
            listed_news: false,
            upgrade_uid,
            node,
        }
    }

    pub(super) fn put(&mut self, vmi: VirtualMachineInstance) {
        let key = vms::key_of(&vmi);
        let ended = vms::ended(&vmi);
        if let Some(clean) = ended {
            self.ends.insert(key.clone(), clean);
        }
        let deleting = vmi.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        let uid = vmi.uid().unwrap_or_default();
        let now = SeenVmi { uid, deleting, ended };
        if self.seen.vmis.get(&key) != Some(&now) {
            self.changes += 1;
            self.seen.vmis.insert(key.clone(), now);
        }
        self.instances.insert(key, vmi);
    }

    /// A fresh list takes the place of all that was seen of instances.
    pub(super) fn replace(&mut self, listed: impl IntoIterator<Item = VirtualMachineInstance>) {
        let before = std::mem::take(&mut self.seen.vmis);
        let changes = self.changes;
        self.instances.clear();
        for vmi in listed {
            self.put(vmi);
        }
        self.changes = changes + u64::from(self.seen.vmis != before);
    }

    /// The migrations of somebody new have to be listed first.
    pub(super) fn unlist(&mut self, now: Timestamp) {
        self.seen.listed = false;
        self.seen.unlisted_since.get_or_insert(now);
    }

    pub(super) fn instance_event(
        &mut self,
        event: Option<Result<Event<VirtualMachineInstance>, watcher::Error>>,
        now: Timestamp,
    ) -> Result<(), StepError> {
        if matches!(event, Some(Ok(_))) {
            self.heard = now;
        }
        match event {
            Some(Ok(Event::Apply(vmi))) => self.put(vmi),
            Some(Ok(Event::Delete(vmi))) => {
                let key = vms::key_of(&vmi);
                if let Some(clean) = vms::ended(&vmi) {
                    self.ends.insert(key.clone(), clean);
                }
                self.changes += 1;
                self.instances.remove(&key);
                self.seen.vmis.remove(&key);
            }
            Some(Ok(Event::Init)) => self.incoming.clear(),
            Some(Ok(Event::InitApply(vmi))) => {
                self.incoming.insert(vms::key_of(&vmi), vmi);
            }
            Some(Ok(Event::InitDone)) => {
                let listed = std::mem::take(&mut self.incoming);
                self.replace(listed.into_values());
            }
            // The watcher goes on by itself, with a back-off; the API may be away.
            Some(Err(error)) => tracing::debug!(%error, "the watch on VMs broke; it goes on by itself"),
            None => return Err(StepError::retry("the watch on VMs ended")),
        }
        Ok(())
    }

    pub(super) fn migration_event(&mut self, event: Option<MigrationEvent>, now: Timestamp) {
        match event {
            Some(Ok(Event::Apply(migration))) => {
                self.changes += u64::from(self.put_migration(&migration, now));
            }
            // A list is one change, at its end, however long it is.
            Some(Ok(Event::InitApply(migration))) => {
                self.listed.insert((migrations::vm_of(&migration), migration.name_any()));
                self.listed_news |= self.put_migration(&migration, now);
            }
            Some(Ok(Event::InitDone)) => {
                let listed = std::mem::take(&mut self.listed);
                let vanished =
                    self.delete_migrations(|vm, name| !listed.contains(&(vm.clone(), name.to_owned())));
                let is_first = !std::mem::replace(&mut self.seen.listed, true);
                self.seen.unlisted_since = None;
                let news = std::mem::take(&mut self.listed_news);
                self.changes += u64::from(vanished || news || is_first);
            }
            Some(Ok(Event::Delete(migration))) => {
                let (whose, deleted) = (migrations::vm_of(&migration), migration.name_any());
                self.put_migration(&migration, now);
                self.delete_migrations(|vm, name| *vm == whose && name == deleted);
                self.changes += 1;
            }
            Some(Ok(Event::Init)) => self.listed.clear(),
            None => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "the watch on migrations broke; it goes on by itself");
            }
        }
    }

    /// Deleting a migration that is under way aborts it: for the attempt that is a failure. Were there any?
    fn delete_migrations(&mut self, gone: impl Fn(&VmKey, &str) -> bool) -> bool {
        let mut any = false;
        for (vm, all) in &mut self.seen.migrations {
            let unfinished = all.iter_mut().filter(|one| one.state == MigrationState::Unfinished);
            for one in unfinished.filter(|one| gone(vm, &one.name)) {
                one.state = MigrationState::Failed { reason: "somebody deleted it".to_owned() };
                any = true;
            }
        }
        any
    }

    /// Is there anything new in it?
    fn put_migration(&mut self, migration: &VirtualMachineInstanceMigration, now: Timestamp) -> bool {
        let name = migration.name_any();
        let id = migrations::attempt_of(migration, &self.upgrade_uid, &self.node);
        let status = migration.status.as_ref();
        let progress = status.and_then(|status| status.migration_state.as_ref());
        let failure = || progress.and_then(|progress| progress.failure_reason.clone());
        let phase = status.and_then(|status| status.phase.as_deref());
        let state = match phase {
            Some("Succeeded") => MigrationState::Succeeded,
            Some("Failed") => MigrationState::Failed {
                reason: failure().unwrap_or_else(|| "KubeVirt gives no reason".to_owned()),
            },
            _ => MigrationState::Unfinished,
        };
        let is_preparing =
            matches!(phase, Some("Scheduling" | "Scheduled" | "PreparingTarget" | "TargetReady"));
        let all = self.seen.migrations.entry(migrations::vm_of(migration)).or_default();
        // Another one of the same name begins anew.
        let uid = migration.uid().unwrap_or_default();
        let before = all.iter().find(|one| one.name == name && one.uid == uid);
        let target = progress.and_then(|progress| progress.target_node.clone());
        let asked_for = || migration.spec.added_node_selector.values().next().cloned();
        let seen = SeenMigration {
            uid,
            id,
            state,
            since: before.map_or(now, |before| before.since),
            preparing: is_preparing.then(|| before.and_then(|before| before.preparing).unwrap_or(now)),
            running: phase == Some("Running"),
            deleting: migration.metadata.deletion_timestamp.is_some(),
            target: target.or_else(asked_for).or_else(|| before?.target.clone()),
            name,
        };
        if before == Some(&seen) {
            return false;
        }
        all.retain(|one| one.name != seen.name);
        all.push(seen);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn vmi(change: &serde_json::Value) -> VirtualMachineInstance {
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": { "namespace": "default", "name": "db", "uid": "1" },
            "spec": {}, "status": { "phase": "Running" },
        });
        json_patch::merge(&mut object, change);
        serde_json::from_value(object).unwrap()
    }

    fn migration(phase: &str) -> VirtualMachineInstanceMigration {
        serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": { "namespace": "default", "name": "move-db" },
            "spec": { "vmiName": "db" }, "status": { "phase": phase },
        }))
        .unwrap()
    }

    /// Has the event changed what a decision looks at?
    fn is_news(world: &mut World, event: impl FnOnce(&mut World)) -> bool {
        let (before, seen) = (world.changes, world.seen.clone());
        event(world);
        let is_news = world.changes != before;
        assert!(is_news || world.seen == seen, "no change of what is seen goes by unnoticed");
        is_news
    }

    #[test]
    fn only_an_event_that_changes_what_a_decision_looks_at_is_news() {
        let mut world = World::new("uid".to_owned(), "node1".to_owned(), Timestamp::UNIX_EPOCH);
        let table = [
            (json!({}), true),
            (json!({}), false),
            (json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }), false),
            (json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }), true),
            (json!({ "status": { "phase": "Succeeded" } }), true),
            (json!({ "metadata": { "uid": "2" } }), true),
        ];
        for (change, expected) in table {
            let event = Some(Ok(Event::Apply(vmi(&change))));
            let news =
                is_news(&mut world, |world| world.instance_event(event, Timestamp::UNIX_EPOCH).unwrap());
            assert_eq!(news, expected, "{change}");
        }
        for (phase, expected) in [
            ("Pending", true),
            ("Scheduling", true),
            ("PreparingTarget", false),
            ("Running", true),
            ("Failed", true),
            ("Failed", false),
        ] {
            let event = Event::Apply(migration(phase));
            assert_eq!(
                is_news(&mut world, |world| world.migration_event(Some(Ok(event)), NOW)),
                expected,
                "{phase}"
            );
        }
    }

    #[test]
    fn a_list_is_news_at_its_end_and_only_if_it_tells_any() {
        let mut world = World::new("uid".to_owned(), "node1".to_owned(), Timestamp::UNIX_EPOCH);
        for expected in [1, 1] {
            world.migration_event(Some(Ok(Event::Init)), NOW);
            world.migration_event(Some(Ok(Event::InitApply(migration("Running")))), NOW);
            world.migration_event(Some(Ok(Event::InitDone)), NOW);
            assert_eq!(world.changes, expected);
        }
    }

    #[test]
    fn another_migration_of_the_same_name_begins_anew() {
        let mut world = World::new("uid".to_owned(), "node1".to_owned(), NOW);
        let later = NOW + jiff::SignedDuration::from_secs(60);
        for (uid, now) in [("1", NOW), ("2", later)] {
            let mut one = migration("Scheduling");
            one.metadata.uid = Some(uid.to_owned());
            world.migration_event(Some(Ok(Event::Apply(one))), now);
        }
        let all = &world.seen.migrations[&VmKey::new("default", "db")];
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].uid.as_str(), all[0].since, all[0].preparing), ("2", later, Some(later)));
    }

    #[test]
    fn a_migration_that_is_gone_has_failed_whoever_noticed_late() {
        let other = || {
            let mut other = migration("Running");
            other.metadata.namespace = Some("other".to_owned());
            other
        };
        let is_failed = |world: &World, namespace: &str| {
            let all = &world.seen.migrations[&VmKey::new(namespace, "db")];
            matches!(all[0].state, MigrationState::Failed { .. })
        };
        for by_list in [false, true] {
            let mut world = World::new("uid".to_owned(), "node1".to_owned(), Timestamp::UNIX_EPOCH);
            world.migration_event(Some(Ok(Event::Apply(migration("Running")))), NOW);
            world.migration_event(Some(Ok(Event::Apply(other()))), NOW);
            let before = world.changes;
            let events = if by_list {
                vec![Event::Init, Event::InitApply(other()), Event::InitDone]
            } else {
                vec![Event::Delete(migration("Running"))]
            };
            for event in events {
                world.migration_event(Some(Ok(event)), NOW);
            }
            assert!(is_failed(&world, "default") && world.changes > before, "by list: {by_list}");
            assert!(!is_failed(&world, "other"), "the same name elsewhere is another migration");
        }
    }
}
