//! Into the ledger: everybody on the node, before anything is done to them; and Harvester's list beside it.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::agent::placement::Surroundings;
use crate::agent::run::Run;
use crate::agent::step_error::StepError;
use crate::agent::steps::vm_actions;
use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::restore_list::{self, Listed};
use crate::cluster::vm_mark::{self, Marked};
use crate::cluster::{vm_facts, vm_state, vms};
use crate::flow::classify;
use crate::flow::record::Record;
use crate::flow::restore::adopt;
use crate::flow::vms::{Fate, LedgerLine, Verdict, VmEntry, VmKey};
use crate::mutation::{self, Mutation};

/// Writes the first ledger, once, even when nobody is on the node; after a hold, classifies anew those that were held.
///
/// # Errors
/// Retries while the API is away.
pub async fn write_first(run: &mut Run) -> Result<(), StepError> {
    let present = vms::instances_on(&run.cluster.client, &run.plan.node_name).await?;
    let present = present.into_iter().map(|vmi| (vms::key_of(&vmi), vmi)).collect();
    let first =
        run.journal.entries().iter().all(|entry| !matches!(entry.record, Record::LedgerWritten { .. }));
    let resumed = run.journal.entries().iter().rev().take(3).any(|entry| entry.record == Record::Resumed);
    enter(run, &present, first, resumed).await?;
    sync_list_and_adopt(run).await
}

/// Enters those who are not in the ledger, or came back. With `afresh`, those as well whose verdict or attempts an operator
/// has been asked about: the facts may be others by now.
///
/// # Errors
/// Retries while the API is away.
pub async fn enter(
    run: &mut Run,
    present: &BTreeMap<VmKey, VirtualMachineInstance>,
    even_if_empty: bool,
    afresh: bool,
) -> Result<(), StepError> {
    let ledger = run.journal.progress().ledger();
    let mut newcomers: Vec<&VirtualMachineInstance> = present
        .iter()
        .filter(|(vm, vmi)| match ledger.line(vm).filter(|line| line.fate.is_on_node()) {
            Some(line) => afresh && is_stuck(line) && vmi.uid().is_some(),
            None => vms::ended(vmi).is_none(),
        })
        .map(|(_, vmi)| vmi)
        .collect();
    if mutation::is_on(Mutation::ForgetOneVm) {
        newcomers.pop();
    }
    if newcomers.is_empty() && !even_if_empty {
        return Ok(());
    }
    let entries = classified(run, &newcomers).await?;
    Ok(run.record(Record::LedgerWritten { vms: entries })?)
}

/// What is to happen to each of these, by what is so now.
///
/// # Errors
/// Retries while the API is away.
pub(super) async fn classified(
    run: &Run,
    instances: &[&VirtualMachineInstance],
) -> Result<Vec<VmEntry>, StepError> {
    let mut surroundings = Surroundings::of(&run.cluster.client, &run.plan.node_name, instances).await?;
    let mut entries = Vec::new();
    for vmi in instances {
        let facts = vm_facts::facts(&run.cluster.client, vmi).await?;
        let elsewhere = surroundings.elsewhere(&facts.vm).await?;
        entries.push(classify::enter(&facts, &run.plan.evacuation, &elsewhere));
    }
    Ok(entries)
}

fn is_stuck(line: &LedgerLine) -> bool {
    match &line.entry.verdict {
        Verdict::Hold { .. } | Verdict::Leaving | Verdict::Migrate => line.fate == Fate::Here,
        Verdict::ShutDown { .. } => false,
    }
}

/// Why this VM holds the node; none when it does not.
#[must_use]
pub fn held(line: &LedgerLine) -> Option<String> {
    match &line.entry.verdict {
        Verdict::Hold { why } => Some(format!("VM {} holds the node: {why}", line.entry.vm)),
        Verdict::Migrate | Verdict::ShutDown { .. } | Verdict::Leaving => None,
    }
}

/// Harvester's `ConfigMap` names every VM that is, or is about to be, shut down. Reads it each time: it is not ours alone,
/// and the journal puts right what somebody else has shortened. Says whom it named before.
///
/// # Errors
/// Retries while the API is away, and when another node's agent wrote at the same moment.
pub async fn sync_list(run: &Run) -> Result<Listed, StepError> {
    let stopped = run.journal.progress().ledger().stopped_names();
    let (upgrade, uid, node) = (&run.plan.upgrade_name, &run.plan.upgrade_uid, &run.plan.node_name);
    Ok(restore_list::add(&run.cluster, upgrade, uid, node, &stopped).await?)
}

/// The same, and whoever is on the list by somebody else's hand, off, and not accounted for, is owed a start from now on:
/// Harvester's own helper has shut it down before, or beside, this agent.
///
/// # Errors
/// As [`sync_list`].
pub async fn sync_list_and_adopt(run: &mut Run) -> Result<(), StepError> {
    let listed = sync_list(run).await?;
    for vm in listed.vms {
        let line = run.journal.progress().ledger().line(&vm);
        if !adopt::is_unexplained(line) {
            continue;
        }
        let found = vm_state::listed(&run.cluster.client, &vm, &run.plan.upgrade_uid).await?;
        match adopt::adopt(&vm, &found, listed.since) {
            Ok(entry) => run.record(Record::VmAdopted { vm: Box::new(entry) })?,
            Err(why) => tracing::info!(%vm, why, "Harvester's list names the VM; nothing is owed to it"),
        }
    }
    mark_adopted(run).await
}

/// Marks them as ours, and writes down how they were left: from here on the same rules hold as for all others. Those that a
/// crash has kept from that are made up for.
async fn mark_adopted(run: &mut Run) -> Result<(), StepError> {
    let off = run.journal.progress().ledger().owed().filter(|line| line.as_left.is_none());
    let off = off.filter(|line| matches!(line.fate, Fate::ShutDown { .. }));
    let lines: Vec<LedgerLine> = off.cloned().collect();
    for line in lines {
        let (vm, Some(vm_uid)) = (&line.entry.vm, &line.entry.vm_uid) else { continue };
        match vm_mark::put(&run.cluster.client, vm, vm_uid, &run.plan.upgrade_uid).await? {
            Marked::Yes(_) => vm_actions::record_as_left(run, &line).await?,
            // Its user, or the next look, has the word.
            Marked::No(_) => {}
        }
    }
    Ok(())
}
