//! Pre-drain: the ledger first, then every VM leaves: driven by watches, decided by `flow::evacuate`.

use std::pin::Pin;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};

use crate::agent::run::Run;
use crate::agent::step_error::{Reaction, StepError};
use crate::agent::steps::ledger;
use crate::agent::steps::migration_watch::MigrationWatch;
use crate::agent::steps::pre_drain_world::World;
use crate::agent::steps::vm_actions::Said;
use crate::agent::steps::{reconsider, targets, vm_actions};
use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::vms;
use crate::cluster::watch_pace::WatchPace;
use crate::flow::evacuate::{self, VmAction};
use crate::flow::plan::MigrationFailure;
use crate::flow::record::Record;
use crate::flow::report::{Blocker, NOBODY};
use crate::flow::vms::{Fate, VmKey};
use crate::host::fs::Fs;
use crate::host::process;
use crate::mutation::{self, Mutation};

/// A watch that is silent, because the API is away or a line was lost, is checked against a fresh list this often.
const RESYNC: Duration = Duration::from_mins(1);

/// What the watch has shown so lately is new enough to stop a VM by.
const FRESH: Duration = Duration::from_secs(5);
/// How long the first list of the watch may take.
const FIRST_LIST: Duration = Duration::from_secs(30);

/// How long the pods of VMs that have left may take to end.
const LAUNCHERS_DEADLINE: Duration = Duration::from_mins(10);
/// While only such pods are left they are listed again, first after this, then twice as long each time.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The longest pause between two such looks.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// Between two questions whether a stop was heard.
const ASK_AGAIN: Duration = Duration::from_secs(10);

type Watch<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

/// Gets every VM off the node; records each fact as it happens, and at last that none is left.
///
/// # Errors
/// Retries while the API is away; needs an operator for VMs that the plan or a deadline holds.
pub async fn evacuate_vms(run: &mut Run) -> Result<(), StepError> {
    let begun = run.now();
    let mut world = World::new(run.plan.upgrade_uid.clone(), run.plan.node_name.clone(), run.now());
    let mut empty_since: Option<Timestamp> = None;
    ledger::write_first(run).await?;
    let client = run.cluster.client.clone();
    let selector = vms::on_node_selector(&run.plan.node_name);
    let instances: Api<VirtualMachineInstance> = Api::all(client.clone());
    let mut migrations = MigrationWatch::new(client, &run.plan.node_name);
    let on_node = watcher::Config::default().labels(&selector);
    let pace = WatchPace::of(&run.plan.node_name);
    let mut instances: Watch<_> = Box::pin(watcher(instances, on_node).backoff(pace));
    first_list(run, &mut instances, &mut world).await?;
    resend_stops(run, &world).await?;
    let mut listed = run.journal.progress().ledger().stopped_names();
    let mut look_soon = FIRST_LOOK;
    let mut decided: Option<Decided> = None;
    loop {
        if !decided.as_ref().is_some_and(|decided| decided.still_holds(run, &world)) {
            ledger::enter(run, &world.instances, false, false).await?;
            let names = run.journal.progress().ledger().on_node().map(|line| line.entry.vm.name.as_str());
            if migrations.cover(names) {
                world.unlist(run.now());
            }
            let names = run.journal.progress().ledger().stopped_names();
            if names != listed {
                ledger::sync_list(run).await?;
                listed = names;
            }
            decided = Some(act(run, &mut world, begun).await?);
            if run.journal.progress().ledger().on_node().next().is_none() {
                decided = None;
                let since = *empty_since.get_or_insert(run.now());
                if nothing_left(run, &mut world, since).await? {
                    // Whoever Harvester's own helper has stopped beside us is off by now.
                    ledger::sync_list_and_adopt(run).await?;
                    return Ok(run.record(Record::PreDrained)?);
                }
                // What the fresh look has shown decides now, not an event that may never come.
                run.pause(look_soon).await?;
                look_soon = (look_soon * 2).min(LONGEST_LOOK);
                continue;
            }
            (empty_since, look_soon) = (None, FIRST_LOOK);
        }
        let again = decided.as_ref().and_then(|decided| decided.look_again);
        let wait = again.map_or(RESYNC, |at| wait_until(at, run.now())).min(RESYNC);
        tokio::select! {
            biased;
            // Cancel-safe: watch streams keep their place, the others only wait.
            () = run.shutdown.cancelled() => return Err(StepError::interrupted()),
            event = instances.next() => world.instance_event(event, run.now())?,
            event = migrations.next() => world.migration_event(event, run.now()),
            () = tokio::time::sleep(wait) => {
                if run.now() >= world.heard + RESYNC
                    && let Err(error) = look_at_instances(run, &mut world).await
                {
                    let error = error.sentence();
                    tracing::warn!(error, "the VMs of the node cannot be listed now; looking again");
                }
                decided = None;
            }
        }
    }
}

/// The watch stands before anybody is told to go: a guest that is off at once is still seen to end, and how.
async fn first_list(
    run: &Run,
    instances: &mut Watch<VirtualMachineInstance>,
    world: &mut World,
) -> Result<(), StepError> {
    let listed = async {
        loop {
            let event = instances.next().await;
            let whole = matches!(event, Some(Ok(Event::InitDone)));
            if let Some(Err(error)) = &event {
                return Err(StepError::retry(format!("could not watch the VMs of the node: {error}")));
            }
            world.instance_event(event, run.now())?;
            if whole {
                return Ok(());
            }
        }
    };
    let late = || StepError::retry("the API server did not list the VMs of the node in time");
    tokio::time::timeout(FIRST_LIST, listed).await.unwrap_or_else(|_| Err(late()))
}

/// What a decision looked at: as long as all of that is the same, another one would say the same.
struct Decided {
    seen: u64,
    line: u64,
    /// Something was to be done, and may have to be done again.
    acted: bool,
    look_again: Option<Timestamp>,
}

impl Decided {
    fn still_holds(&self, run: &Run, world: &World) -> bool {
        !self.acted
            && self.seen == world.changes
            && self.line == run.journal.progress().seq()
            && self.look_again.is_none_or(|at| run.now() < at)
    }
}

/// Not less than a moment, so that a deadline that has just passed cannot spin.
fn wait_until(at: Timestamp, now: Timestamp) -> Duration {
    let left = at.duration_since(now);
    Duration::try_from(left).unwrap_or_default().max(Duration::from_millis(100))
}

/// After a crash between a stop's intent and its request: asks again, but only where nobody has heard the first one. A power
/// cut is asked for again in any case: the instance shows only that the shutdown before it was heard.
async fn resend_stops(run: &mut Run, world: &World) -> Result<(), StepError> {
    let mut stopping: Vec<(VmKey, bool)> = Vec::new();
    for line in run.journal.progress().ledger().on_node() {
        if let Fate::Stopping { forced, .. } = line.fate {
            stopping.push((line.entry.vm.clone(), forced));
        }
    }
    for (vm, forced) in stopping {
        let Some(vmi) = world.instances.get(&vm) else { continue };
        if forced && vms::ended(vmi).is_none() {
            vm_actions::request_stop(run, &vm, Some(0)).await?;
        } else if !forced {
            vm_actions::ask_stop_again(run, &vm).await?;
        }
    }
    Ok(())
}

/// Decides and performs.
async fn act(run: &mut Run, world: &mut World, begun: Timestamp) -> Result<Decided, StepError> {
    let now = run.now();
    let (seen, line) = (world.changes, run.journal.progress().seq());
    let mut policy = run.plan.evacuation.clone();
    if mutation::is_on(Mutation::StopWhatDoesNotMove) {
        policy.on_migration_failure = MigrationFailure::ShutdownAndRestore;
    }
    let decide = |run: &Run, world: &World, now: Timestamp| {
        let ledger = run.journal.progress().ledger();
        evacuate::decide(ledger, &world.seen, &policy, begun, now)
    };
    let mut decision = decide(run, world, now);
    // What a watch showed a while ago is no ground for a stop.
    let stops = decision.actions.iter().any(|action| matches!(action, VmAction::Stop { .. }));
    if stops && now >= world.heard + FRESH {
        look_at_instances(run, world).await?;
        decision = decide(run, world, run.now());
    }
    let doubtful = reconsider::doubtful_stops(run, world, &decision.actions, now);
    if reconsider::reconsider(run, world, &doubtful).await? {
        decision = decide(run, world, run.now());
    }
    if !decision.look_for.is_empty() {
        targets::look(run, world, &decision.look_for).await;
        decision = decide(run, world, run.now());
    }
    let mut look_again = decision.look_again;
    let acted = !decision.actions.is_empty();
    let idle = !acted && decision.blockers.is_empty() && look_again.is_none();
    let mut failed: Option<StepError> = None;
    for action in decision.actions {
        let ends = match &action {
            VmAction::RecordGone { vm } => {
                // A lagging watch may leave the VM in place: look again soon.
                look_again = Some(now + Duration::from_secs(1));
                world.ends.get(vm).copied()
            }
            // One question in ten seconds, however often something else wakes the loop.
            VmAction::AskAgain { vm } => {
                let due = world.asked.get(vm).is_none_or(|asked| now >= *asked + ASK_AGAIN);
                if !due {
                    continue;
                }
                world.asked.insert(vm.clone(), now);
                None
            }
            VmAction::Migrate { .. }
            | VmAction::AwaitTarget { .. }
            | VmAction::Abort { .. }
            | VmAction::Stop { .. }
            | VmAction::ForceOff { .. } => None,
        };
        let vm = action.vm().clone();
        match vm_actions::perform(run, action, ends).await {
            Ok(Said::Refused(why)) => {
                world.changes +=
                    u64::from(world.seen.refused.insert(vm, why.clone()).is_none_or(|old| old != why));
            }
            Ok(Said::Nothing) => world.changes += u64::from(world.seen.refused.remove(&vm).is_some()),
            // One VM whose requests fail does not keep the others from theirs.
            Err(error) if error.reaction == Reaction::Retry => failed = failed.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if acted {
        // What was asked for may have been refused, and no watch would say so.
        let soon = now + ASK_AGAIN;
        look_again = Some(look_again.map_or(soon, |at| at.min(soon)));
    }
    // The others are not held up by a VM that holds: only when nothing else moves does the step give up.
    if idle && !decision.holds.is_empty() {
        let reconsider::MayPass { starting, again } = reconsider::may_pass(run, world, now);
        world.reconsidered.extend(again.iter().cloned());
        let passed = reconsider::reconsider(run, world, &again).await?;
        if passed || starting {
            run.publish_blockers(decision.holds);
            let look_again = Some(now + if passed { Duration::ZERO } else { ASK_AGAIN });
            return Ok(Decided { seen, line, acted: passed, look_again });
        }
        let chains = decision.holds.iter().map(|hold| hold.chain(run.now())).collect::<Vec<_>>();
        return Err(StepError::operator(chains.join(". ")));
    }
    let mut blockers = decision.blockers;
    blockers.extend(decision.holds);
    run.publish_blockers(blockers);
    Ok(Decided { seen, line, acted, look_again })
}

/// A fresh list in the place of the watch's memory.
async fn look_at_instances(run: &Run, world: &mut World) -> Result<(), StepError> {
    world.replace(vms::instances_on(&run.cluster.client, &run.plan.node_name).await?);
    world.heard = run.now();
    Ok(())
}

/// A fresh look, not the watch's memory: instances, launcher pods, and the machine's own processes. A pod without an instance
/// on this node is a VM that is only just starting, or the source of a migration that has just ended.
async fn nothing_left(run: &mut Run, world: &mut World, empty_since: Timestamp) -> Result<bool, StepError> {
    look_at_instances(run, world).await?;
    if world.seen.vmis.values().any(|vmi| vmi.ended.is_none()) {
        return Ok(false);
    }
    let mut left = vms::launchers_on(&run.cluster.client, &run.plan.node_name).await?;
    let root = run.host.root.clone();
    let look = move |_: &Fs| process::vm_processes(&root).map_err(StepError::from);
    let processes = run.host.root.fs().blocking(look).await?;
    left.extend(processes.iter().map(|process| format!("{} (pid {})", process.name, process.pid)));
    if left.is_empty() {
        return Ok(true);
    }
    let deadline = empty_since + LAUNCHERS_DEADLINE;
    let names = left.join(", ");
    if run.now() >= deadline {
        let what = format!("no VM is left, but these stay: {names}; look why they do not end, then resume");
        return Err(StepError::operator(what));
    }
    run.publish_blockers(vec![Blocker {
        what: format!("the last launchers are ending: {names}"),
        since: empty_since,
        owner: NOBODY.to_owned(),
        deadline: Some(deadline),
        then: "hold".to_owned(),
    }]);
    Ok(false)
}
