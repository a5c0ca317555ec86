//! Pre-drain: the ledger first, then every VM leaves: driven by watches, decided by `flow::evacuate`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::agent::steps::vm_actions;
use crate::cluster::crd::kubevirt::{VirtualMachineInstance, VirtualMachineInstanceMigration};
use crate::cluster::{nodes, restore_list, vms};
use crate::flow::classify;
use crate::flow::evacuate::{self, MigrationState, Seen, SeenMigration, SeenVmi, VmAction};
use crate::flow::record::Record;
use crate::flow::vms::{Fate, VmEntry, VmKey};

/// A watch that is silent, because the API is away or a line was lost, is checked against a fresh list this often.
const RESYNC: Duration = Duration::from_mins(1);

type Watch<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

/// The step's own memory: what the watches have shown so far.
struct World {
    instances: BTreeMap<VmKey, VirtualMachineInstance>,
    seen: Seen,
    /// How each instance ended that was seen to end.
    ends: BTreeMap<VmKey, bool>,
    incoming: BTreeMap<VmKey, VirtualMachineInstance>,
}

/// Gets every VM off the node; records each fact as it happens, and at last that none is left.
///
/// # Errors
/// Retries while the API is away; needs an operator for VMs that the plan or a deadline holds.
pub async fn evacuate_vms(run: &mut Run) -> Result<(), StepError> {
    let begun = run.now();
    let mut world = World::new();
    let listed = vms::instances_on(&run.cluster.client, &run.plan.node_name).await?;
    for vmi in listed {
        world.put(vmi);
    }
    resend_stops(run, &world).await?;
    let client = run.cluster.client.clone();
    let selector = vms::on_node_selector(&run.plan.node_name);
    let instances: Api<VirtualMachineInstance> = Api::all(client.clone());
    let migrations: Api<VirtualMachineInstanceMigration> = Api::all(client);
    let ours = format!("harvesterhci.io/upgrade={}", run.plan.upgrade_name);
    let mut instances: Watch<_> = Box::pin(watcher(instances, watcher::Config::default().labels(&selector)));
    let mut migrations: Watch<_> = Box::pin(watcher(migrations, watcher::Config::default().labels(&ours)));
    loop {
        enter_newcomers(run, &world).await?;
        let look_again = act(run, &world, begun).await?;
        if run.journal.progress().ledger().on_node().next().is_none() && nothing_left(run, &mut world).await?
        {
            return Ok(run.record(Record::PreDrained)?);
        }
        let wait = look_again.map_or(RESYNC, |at| wait_until(at, run.now())).min(RESYNC);
        tokio::select! {
            // Cancel-safe: watch streams keep their place, the others only wait.
            () = run.shutdown.cancelled() => return Err(StepError::interrupted()),
            event = instances.next() => world.instance_event(event)?,
            event = migrations.next() => world.migration_event(event),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Not less than a moment, so that a deadline that has just passed cannot spin.
fn wait_until(at: Timestamp, now: Timestamp) -> Duration {
    let left = at.duration_since(now);
    Duration::try_from(left).unwrap_or_default().max(Duration::from_millis(100))
}

/// After a crash between a stop's intent and its request: asks again, but only where nobody has heard the first one.
async fn resend_stops(run: &mut Run, world: &World) -> Result<(), StepError> {
    let stopping: Vec<(VmKey, bool)> = run
        .journal
        .progress()
        .ledger()
        .lines()
        .filter_map(|line| match line.fate {
            Fate::Stopping { forced, .. } => Some((line.entry.vm.clone(), forced)),
            Fate::Here
            | Fate::Migrating { .. }
            | Fate::Migrated { .. }
            | Fate::ShutDown { .. }
            | Fate::Left { .. }
            | Fate::Restoring { .. }
            | Fate::Restored { .. }
            | Fate::Struck { .. } => None,
        })
        .collect();
    for (key, forced) in stopping {
        let Some(vmi) = world.instances.get(&key) else {
            continue;
        };
        if vmi.metadata.deletion_timestamp.is_some() || vms::ended(vmi).is_some() {
            continue;
        }
        let Some(vm) = vms::vm(&run.cluster.client, &key).await? else {
            continue;
        };
        let uid = vmi.uid().unwrap_or_default();
        let queued = vm.status.iter().flat_map(|status| &status.state_change_requests).any(|request| {
            request.action == "Stop" && request.uid.as_deref().is_none_or(|queued| queued == uid)
        });
        if queued || vm.spec.effective_strategy() == Some("Halted") {
            continue;
        }
        vm_actions::request_stop(run, &key, forced.then_some(0)).await?;
    }
    Ok(())
}

/// Everybody on the node who is not in the ledger goes into it before anything is done to them.
async fn enter_newcomers(run: &mut Run, world: &World) -> Result<(), StepError> {
    let ledger = run.journal.progress().ledger();
    let first =
        run.journal.entries().iter().all(|entry| !matches!(entry.record, Record::LedgerWritten { .. }));
    let newcomers: Vec<&VirtualMachineInstance> = world
        .instances
        .values()
        .filter(|vmi| {
            let known = ledger.line(&vms::key_of(*vmi)).is_some_and(|line| line.fate.is_on_node());
            !known && vms::ended(vmi).is_none()
        })
        .collect();
    if newcomers.is_empty() && !first {
        return Ok(());
    }
    let targets = nodes::count_targets(&run.cluster.client, &run.plan.node_name).await?;
    let mut entries: Vec<VmEntry> = Vec::new();
    for vmi in newcomers {
        let facts = vms::facts(&run.cluster.client, vmi).await?;
        entries.push(classify::enter(&facts, &run.plan.evacuation, targets));
    }
    run.record(Record::LedgerWritten { vms: entries })?;
    let stopped = run.journal.progress().ledger().stopped_names();
    if !stopped.is_empty() {
        let (upgrade, uid, node) = (&run.plan.upgrade_name, &run.plan.upgrade_uid, &run.plan.node_name);
        restore_list::add(&run.cluster, upgrade, uid, node, &stopped).await?;
    }
    Ok(())
}

/// Decides and performs; the time of the next look.
async fn act(run: &mut Run, world: &World, begun: Timestamp) -> Result<Option<Timestamp>, StepError> {
    let now = run.now();
    let decision = evacuate::decide(
        run.journal.progress().ledger(),
        &world.seen,
        &run.plan.evacuation,
        &run.plan.upgrade_uid,
        begun,
        now,
    );
    let mut look_again = decision.look_again;
    for action in decision.actions {
        let ends = match &action {
            VmAction::RecordGone { vm } => {
                // A lagging watch may leave the VM in place: look again soon.
                look_again = Some(now + Duration::from_secs(1));
                world.ends.get(vm).copied()
            }
            VmAction::Migrate { .. } | VmAction::Stop { .. } | VmAction::ForceOff { .. } => None,
        };
        vm_actions::perform(run, action, ends).await?;
    }
    if decision.holds.is_empty() {
        run.publish_blockers(decision.blockers);
        return Ok(look_again);
    }
    // The others are not held up by a VM that holds: only when nothing else moves does the step give up.
    let moving = run.journal.progress().ledger().on_node().any(|line| match line.fate {
        Fate::Migrating { .. } | Fate::Stopping { .. } => {
            decision.blockers.iter().any(|b| b.what.contains(&line.entry.vm.to_string()))
        }
        Fate::Here
        | Fate::Migrated { .. }
        | Fate::ShutDown { .. }
        | Fate::Left { .. }
        | Fate::Restoring { .. }
        | Fate::Restored { .. }
        | Fate::Struck { .. } => false,
    });
    if moving {
        run.publish_blockers(decision.blockers);
        Ok(look_again)
    } else {
        Err(StepError::operator(decision.holds.join(". ")))
    }
}

/// A fresh look, not the watch's memory: instances and launcher pods.
async fn nothing_left(run: &Run, world: &mut World) -> Result<bool, StepError> {
    let listed = vms::instances_on(&run.cluster.client, &run.plan.node_name).await?;
    world.instances.clear();
    world.seen.vmis.clear();
    for vmi in listed {
        world.put(vmi);
    }
    let launchers = vms::launchers_on(&run.cluster.client, &run.plan.node_name).await?;
    if world.seen.vmis.values().any(|vmi| vmi.ended.is_none()) {
        return Ok(false);
    }
    if !launchers.is_empty() {
        run.pause(Duration::from_millis(500)).await?;
        return Ok(false);
    }
    Ok(true)
}

impl World {
    fn new() -> Self {
        Self {
            instances: BTreeMap::new(),
            seen: Seen::default(),
            ends: BTreeMap::new(),
            incoming: BTreeMap::new(),
        }
    }

    fn put(&mut self, vmi: VirtualMachineInstance) {
        let key = vms::key_of(&vmi);
        let ended = vms::ended(&vmi);
        if let Some(clean) = ended {
            self.ends.insert(key.clone(), clean);
        }
        self.seen.vmis.insert(key.clone(), SeenVmi { uid: vmi.uid().unwrap_or_default(), ended });
        self.instances.insert(key, vmi);
    }

    fn instance_event(
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
            // The watcher goes on by itself after an error; the API may be away.
            Some(Err(error)) => return Err(StepError::retry(format!("the watch on VMs broke: {error}"))),
            None => return Err(StepError::retry("the watch on VMs ended")),
        }
        Ok(())
    }

    fn migration_event(
        &mut self,
        event: Option<Result<Event<VirtualMachineInstanceMigration>, watcher::Error>>,
    ) {
        match event {
            Some(Ok(Event::Apply(migration) | Event::InitApply(migration))) => self.put_migration(&migration),
            Some(Ok(Event::Delete(migration))) => {
                let name = migration.name_any();
                for all in self.seen.migrations.values_mut() {
                    all.retain(|one| one.name != name);
                }
            }
            Some(Ok(Event::Init)) => self.seen.migrations.clear(),
            Some(Ok(Event::InitDone)) | None => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "the watch on migrations broke; it goes on by itself");
            }
        }
    }

    fn put_migration(&mut self, migration: &VirtualMachineInstanceMigration) {
        let name = migration.name_any();
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
        all.push(SeenMigration { name, state });
    }
}
