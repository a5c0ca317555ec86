//! The run in sentences: one line for each journal entry that a person wants to read, and the closing table.

use std::fmt::Write as _;

use crate::flow::progress::Progress;
use crate::flow::record::{Entry, Outcome, Record};
use crate::flow::vms::{Cut, Fate, LedgerLine, Verdict, VmKey};

/// The entry as a sentence; none for those that only machines need.
#[must_use]
pub fn sentence(entry: &Entry) -> Option<String> {
    Some(match &entry.record {
        Record::Opened { plan, .. } => format!("upgrade of {plan}"),
        Record::Preflighted { unit, live, .. } => format!("preflight passed: {unit} runs {live}"),
        Record::Staged { binary, sha256 } => format!("staged {binary} (sha256 {})", short(sha256)),
        Record::Fenced => "fence up: nobody else restarts RKE2 now".to_owned(),
        Record::Cordoned => "node closed to new pods, drain taint set".to_owned(),
        Record::LedgerWritten { vms } => ledger_sentence(vms.len(), vms.iter().map(|vm| &vm.verdict)),
        Record::MigrationIntent { vm, attempt, to } => migration_sentence(vm, *attempt, to.as_deref()),
        Record::TargetAwaited { vm, why } => format!("{vm}: waits for a target, {why}"),
        Record::AbortIntent { vm, migration, why, .. } => {
            format!("{vm}: aborting migration {migration}, {why}")
        }
        Record::VmMigrated { vm, to } => format!("{vm}: runs on {to}, never stopped"),
        Record::InstallerHoldIntent { .. } => "holding rancher-system-agent back".to_owned(),
        Record::InstallerReleased => "rancher-system-agent may run again".to_owned(),
        Record::StopIntent { vm } => format!("{vm}: guest told to shut down"),
        Record::ForceOffIntent { vm } => {
            format!("{vm}: did not shut down in time, cutting its power by policy")
        }
        Record::VmStopped { vm, graceful } => format!("{vm}: {}", end_of(*graceful)),
        Record::VmLeft { vm, reason } => format!("{vm}: left the node ({reason})"),
        Record::VmAdopted { vm } => {
            format!("{}: off already by Harvester's own hand for this upgrade, owed a start", vm.vm)
        }
        Record::PreDrained => "no VM is left on the node".to_owned(),
        Record::Drained { evicted: 1 } => "1 other pod evicted".to_owned(),
        Record::Drained { evicted } => format!("{evicted} other pods evicted"),
        Record::SnapshotTaken { file, bytes } => format!("etcd snapshot {file}, {} MiB", bytes >> 20),
        Record::NoSnapshot { why } => format!("no etcd snapshot: {why}"),
        Record::GateRefused { refusal } => format!("the gate refused: {refusal}"),
        Record::Swapped => "new rke2 in place, the old one is kept".to_owned(),
        Record::RestartIntent { .. } => "restarting RKE2".to_owned(),
        Record::Restarted { pid, .. } => format!("RKE2 runs again, pid {pid}"),
        Record::AlienFound { put_back: true, .. } => {
            "somebody else replaced rke2; the approved one is put back".to_owned()
        }
        Record::AlienFound { put_back: false, .. } => "rke2 here is not the approved one".to_owned(),
        Record::RollbackIntent { why } => format!("going back to the old rke2: {why}"),
        Record::RolledBack => "the old rke2 is in place again".to_owned(),
        Record::Verified { kubelet_version } => format!("verified: the node reports {kubelet_version}"),
        Record::PostDrained => "fence, taints and cordon taken away".to_owned(),
        Record::RestoreIntent { vm } => format!("{vm}: starting again"),
        Record::VmRestored { vm, node } => format!("{vm}: runs again on {node}"),
        Record::VmStruck { vm, reason } => format!("{vm}: no start is owed, {reason}"),
        Record::Held { reason, .. } => format!("HOLD: {reason}"),
        Record::Resumed => "going on after a hold or a pause".to_owned(),
        Record::CancelRequested => "called off by the operator: putting everything back".to_owned(),
        Record::Finished { outcome: Outcome::Succeeded } => "done: Succeeded".to_owned(),
        Record::Finished { outcome: Outcome::Cancelled } => {
            "done: cancelled, what was changed is put back; VMs that were moved stay where they are"
                .to_owned()
        }
        Record::Finished { outcome: Outcome::RolledBack { why } } => {
            format!("done: rolled back, the node runs the old version; {why}")
        }
        Record::FenceIntent { .. }
        | Record::CordonIntent { .. }
        | Record::VmAsLeft { .. }
        | Record::SwapIntent { .. }
        | Record::SwapAbsent => return None,
    })
}

fn migration_sentence(vm: &VmKey, attempt: u32, to: Option<&str>) -> String {
    let to = to.map(|node| format!(" to {node}")).unwrap_or_default();
    let attempt = if attempt == 1 { String::new() } else { format!(", attempt {attempt}") };
    format!("{vm}: live-migrating{to}{attempt}")
}

fn ledger_sentence<'a>(count: usize, verdicts: impl Iterator<Item = &'a Verdict>) -> String {
    let (mut migrate, mut shut, mut other) = (0, 0, 0);
    for verdict in verdicts {
        match verdict {
            Verdict::Migrate => migrate += 1,
            Verdict::ShutDown { .. } => shut += 1,
            Verdict::Leaving | Verdict::Hold { .. } => other += 1,
        }
    }
    format!("{count} VMs entered in the ledger: {migrate} to migrate, {shut} to shut down, {other} other")
}

/// The first digits of a digest.
#[must_use]
pub fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

fn end_of(graceful: Option<bool>) -> &'static str {
    match graceful {
        Some(true) => "shut down by its guest",
        Some(false) => "powered off by force",
        None => "off (nobody saw how it ended)",
    }
}

/// The closing table: VM, how it left, how long it was away, where it runs now.
#[must_use]
pub fn closing_table(progress: &Progress) -> String {
    let header = ["VM".to_owned(), "LEFT BY".to_owned(), "AWAY".to_owned(), "RUNS ON".to_owned()];
    let rows: Vec<[String; 4]> =
        std::iter::once(header).chain(progress.ledger().lines().map(|line| row(line, progress))).collect();
    table(&rows)
}

fn row(line: &LedgerLine, progress: &Progress) -> [String; 4] {
    let cut = progress.ledger().trail(&line.entry.vm).and_then(|trail| trail.cut);
    let end_of = |graceful: Option<bool>| match cut {
        Some(Cut::Policy) => "power cut by onShutdownTimeout".to_owned(),
        Some(Cut::KubeVirt { seconds }) => format!("power cut by KubeVirt after its {seconds} s"),
        Some(Cut::Before) => "ended badly while it was shutting down".to_owned(),
        None => end_of(graceful).to_owned(),
    };
    let node = progress.plan().map(|plan| plan.node_name.clone()).unwrap_or_default();
    let (left, away, runs) = match &line.fate {
        Fate::Here => ("-".to_owned(), "-".to_owned(), node),
        Fate::Migrating { .. } => ("live migration, under way".to_owned(), "-".to_owned(), node),
        Fate::Migrated { to } => ("live migration".to_owned(), "never stopped".to_owned(), to.clone()),
        Fate::Stopping { .. } => ("shutting down".to_owned(), "-".to_owned(), node),
        Fate::ShutDown { graceful, .. } => {
            (end_of(*graceful), "still off".to_owned(), "OWED A START".to_owned())
        }
        Fate::Restoring { graceful, .. } => {
            (end_of(*graceful), "starting".to_owned(), "OWED A START".to_owned())
        }
        Fate::Left { reason } => (reason.clone(), "-".to_owned(), "not ours".to_owned()),
        Fate::Restored { node, graceful, away_seconds } => {
            (end_of(*graceful), format!("{away_seconds} s"), node.clone())
        }
        Fate::Struck { reason } => ("-".to_owned(), "-".to_owned(), format!("no start owed: {reason}")),
    };
    [line.entry.vm.to_string(), left, away, runs]
}

/// Rows in aligned columns; the first row is the header.
#[must_use]
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            write!(line, "{cell:<width$}  ").unwrap_or_default();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::{replay, whole_run};

    #[test]
    fn the_closing_table_accounts_for_every_vm() {
        let text = closing_table(&replay(&whole_run()));
        assert_eq!(
            text,
            "VM           LEFT BY                 AWAY           RUNS ON\n\
             default/gpu  shut down by its guest  11 s           node1\n\
             default/web  live migration          never stopped  node2\n"
        );
    }

    #[test]
    fn a_run_can_be_read_aloud() {
        let lines: Vec<String> = whole_run().iter().filter_map(sentence).collect();
        assert!(lines.iter().any(|line| line == "default/web: runs on node2, never stopped"));
        assert_eq!(lines.last().map(String::as_str), Some("done: Succeeded"));
    }
}
