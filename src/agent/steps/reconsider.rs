//! Verdicts that may be others by now: looked at anew before a VM is shut down, or holds the node, by them.

use std::mem::discriminant;
use std::time::Duration;

use jiff::Timestamp;

use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::agent::steps::ledger;
use crate::agent::steps::pre_drain_world::World;
use crate::cluster::vm_facts;
use crate::flow::classify::{Guest, LiveMigratable};
use crate::flow::evacuate::VmAction;
use crate::flow::record::Record;
use crate::flow::vms::{Fate, LedgerLine, Verdict, VmKey};

/// A verdict so old is looked at again before a VM is shut down by it.
const OLD: Duration = Duration::from_mins(1);
/// So long a VM that is only just starting is waited for before it holds the node.
const STARTS: Duration = Duration::from_mins(2);

/// Those that are to be shut down by an old verdict, and of which `KubeVirt` says now that they can move.
pub(super) fn doubtful_stops(run: &Run, world: &World, actions: &[VmAction], now: Timestamp) -> Vec<VmKey> {
    let ledger = run.journal.progress().ledger();
    let is_doubtful = |vm: &&VmKey| {
        let age = ledger.trail(vm).and_then(|trail| trail.since);
        let line = ledger.line(vm).filter(|line| line.fate == Fate::Here && line.entry.devices.is_empty());
        let by_verdict = line.is_some_and(|line| matches!(line.entry.verdict, Verdict::ShutDown { .. }));
        let says_it_moves = || {
            let facts = world.instances.get(*vm).map(|vmi| vm_facts::of(vmi, None));
            facts.is_some_and(|facts| facts.live_migratable == LiveMigratable::Yes)
        };
        by_verdict && age.is_none_or(|since| now >= since + OLD) && says_it_moves()
    };
    let stops = actions.iter().filter(|action| matches!(action, VmAction::Stop { .. }));
    stops.map(VmAction::vm).filter(is_doubtful).cloned().collect()
}

/// Holds by verdicts of the ledger that may pass.
pub(super) struct MayPass {
    /// Somebody is only just starting, and has time left for that.
    pub(super) starting: bool,
    /// Those that are looked at once more.
    pub(super) again: Vec<VmKey>,
}

/// What of the holds by verdict may pass by itself, or has passed.
pub(super) fn may_pass(run: &Run, world: &World, now: Timestamp) -> MayPass {
    let ledger = run.journal.progress().ledger();
    let held =
        |line: &&LedgerLine| matches!(line.entry.verdict, Verdict::Hold { .. }) && line.fate == Fate::Here;
    let mut found = MayPass { starting: false, again: Vec::new() };
    for line in ledger.on_node().filter(held) {
        let vm = &line.entry.vm;
        let Some(facts) = world.instances.get(vm).map(|vmi| vm_facts::of(vmi, None)) else { continue };
        let silent = facts.live_migratable == LiveMigratable::NotSaid;
        let since = ledger.trail(vm).and_then(|trail| trail.since);
        if matches!(facts.guest, Guest::Starting { .. }) || (silent && facts.guest == Guest::Running) {
            found.starting |= since.is_some_and(|since| now < since + STARTS);
        } else if !world.reconsidered.contains(vm) {
            found.again.push(vm.clone());
        }
    }
    found
}

/// Classifies these anew and writes down whose verdict is another one. Tells whether there was any.
///
/// # Errors
/// Retries while the API is away.
pub(super) async fn reconsider(run: &mut Run, world: &World, vms: &[VmKey]) -> Result<bool, StepError> {
    let present: Vec<_> = vms.iter().filter_map(|vm| world.instances.get(vm)).collect();
    if present.is_empty() {
        return Ok(false);
    }
    let mut others = ledger::classified(run, &present).await?;
    let known = run.journal.progress().ledger();
    others.retain(|entry| {
        let line = known.line(&entry.vm);
        line.is_some_and(|line| discriminant(&line.entry.verdict) != discriminant(&entry.verdict))
    });
    let any = !others.is_empty();
    if any {
        run.record(Record::LedgerWritten { vms: others })?;
    }
    Ok(any)
}
