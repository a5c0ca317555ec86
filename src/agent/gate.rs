//! The gate: a durable receipt and a fresh look become a permit, or a refusal. Pure. "Could not tell" is "no".

use thiserror::Error;

use crate::agent::observe::{Observed, Reading};
use crate::journal::receipt::PreDrainReceipt;
use crate::mutation::{self, Mutation};

/// Fresh leave to swap once. Minted only here, spent by value, dies with the process.
///
/// It cannot be forged:
///
/// ```compile_fail,E0451
/// use upgrade_agent::agent::gate::SwapPermit;
/// let forged = SwapPermit { live_sha256: String::new() };
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct SwapPermit {
    live_sha256: String,
}

impl SwapPermit {
    /// sha256 of the binary that was live when the permit was given.
    #[must_use]
    pub fn live_sha256(&self) -> &str {
        &self.live_sha256
    }
}

/// Why the gate says no.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing durable says that pre-drain of this upgrade is done.
    #[error(
        "the journal of upgrade {upgrade} has no valid pre-drain record; run the whole upgrade instead of this step"
    )]
    NoReceipt {
        /// uid.
        upgrade: String,
    },
    /// The receipt is of another upgrade.
    #[error("the pre-drain record is of upgrade {found}, not of {upgrade}; a record is never carried over")]
    OtherUpgrade {
        /// uid of this run.
        upgrade: String,
        /// uid in the record.
        found: String,
    },
    /// A VM is on the node.
    #[error("VMs are on the node after pre-drain: {}; move or stop them, then run again", .0.join(", "))]
    VmsPresent(Vec<String>),
    /// New VMs could arrive.
    #[error(
        "node is open to new pods again, so VMs may come back; somebody took its cordon or taint off: run again"
    )]
    Open,
    /// Somebody took the fence down.
    #[error("the fence on the RKE2 unit is gone, so somebody else may restart it; run again")]
    NotFenced,
    /// The live binary is not the one that preflight saw.
    #[error(
        "the live rke2 binary changed since preflight ({found}, was {expected}); another installer is at work: stop it"
    )]
    AlienBinary {
        /// sha256 at preflight.
        expected: String,
        /// sha256 now.
        found: String,
    },
    /// Something could not be read.
    #[error("could not tell {what}: {why}; that counts as no")]
    CouldNotTell {
        /// What.
        what: &'static str,
        /// The error in one line.
        why: String,
    },
}

/// Decides whether the swap may happen now.
///
/// # Errors
/// [`Refusal`], the first reason found.
pub fn check(
    upgrade: &str,
    receipt: Option<&PreDrainReceipt>,
    expected_live: &str,
    now: &Observed,
) -> Result<SwapPermit, Refusal> {
    let receipt = receipt.ok_or_else(|| Refusal::NoReceipt { upgrade: upgrade.to_owned() })?;
    if receipt.upgrade_uid() != upgrade {
        let found = receipt.upgrade_uid().to_owned();
        return Err(Refusal::OtherUpgrade { upgrade: upgrade.to_owned(), found });
    }
    if mutation::is_on(Mutation::SwapWithoutGate) {
        return Ok(SwapPermit { live_sha256: expected_live.to_owned() });
    }
    let looks = [
        ("which VMs the API shows on the node", &now.instances),
        ("which launcher pods are on the node", &now.launchers),
        ("which VM processes run on the machine", &now.processes),
    ];
    for (what, look) in looks {
        let present = known(what, look)?;
        if !present.is_empty() {
            return Err(Refusal::VmsPresent(present.clone()));
        }
    }
    if !*known("whether the node is closed to new pods", &now.closed)? {
        return Err(Refusal::Open);
    }
    if !*known("whether the fence is up", &now.fenced)? {
        return Err(Refusal::NotFenced);
    }
    let found = known("what the live binary is", &now.live_sha256)?;
    if found != expected_live {
        let (expected, found) = (expected_live.to_owned(), found.clone());
        return Err(Refusal::AlienBinary { expected, found });
    }
    Ok(SwapPermit { live_sha256: found.clone() })
}

/// Decides whether the new binary, in place already, may be started: a VM may have come back since the swap.
///
/// With `RKE2` at rest the API of a single server is away, and the machine's own processes have the only word.
///
/// # Errors
/// [`Refusal`], the first reason found.
pub fn check_restart(now: &Observed, rke2_at_rest: bool) -> Result<(), Refusal> {
    if mutation::is_on(Mutation::SwapWithoutGate) {
        return Ok(());
    }
    let api = [
        ("which VMs the API shows on the node", &now.instances),
        ("which launcher pods are on the node", &now.launchers),
    ];
    let machine = ("which VM processes run on the machine", &now.processes);
    let looks = api.into_iter().filter(|_| !rke2_at_rest).chain([machine]);
    for (what, look) in looks {
        let present = known(what, look)?;
        if !present.is_empty() {
            return Err(Refusal::VmsPresent(present.clone()));
        }
    }
    if !*known("whether the fence is up", &now.fenced)? {
        return Err(Refusal::NotFenced);
    }
    Ok(())
}

fn known<'a, T>(what: &'static str, reading: &'a Reading<T>) -> Result<&'a T, Refusal> {
    match reading {
        Reading::Known(value) => Ok(value),
        Reading::CouldNotTell(why) => Err(Refusal::CouldNotTell { what, why: why.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::plan::tests::plan;
    use crate::flow::progress::tests::whole_run;
    use crate::flow::record::Record;
    use crate::host::clock::Clock;
    use crate::host::fs::Fs;
    use crate::journal::Journal;

    fn empty() -> Observed {
        Observed {
            instances: Reading::Known(vec![]),
            launchers: Reading::Known(vec![]),
            processes: Reading::Known(vec![]),
            closed: Reading::Known(true),
            fenced: Reading::Known(true),
            live_sha256: Reading::Known("old".into()),
        }
    }

    /// A journal that stops right after its `PreDrained` line.
    fn receipt() -> PreDrainReceipt {
        let dir = tempfile::tempdir().unwrap();
        let mut journal =
            Journal::open(&Fs::kernel(), dir.path(), &plan(), "boot-1", Clock::system()).unwrap();
        for entry in &whole_run()[1..] {
            journal.append(entry.record.clone()).unwrap();
            if entry.record == Record::PreDrained {
                break;
            }
        }
        journal.pre_drain_receipt().unwrap()
    }

    #[test]
    fn a_receipt_and_an_empty_node_give_a_permit() {
        let uid = plan().upgrade_uid;
        assert_eq!(check(&uid, Some(&receipt()), "old", &empty()).unwrap().live_sha256(), "old");
    }

    #[test]
    fn a_vm_that_came_back_after_the_swap_keeps_rke2_from_restarting() {
        let unknown = || Reading::CouldNotTell("timeout".to_owned());
        let vm = || Reading::Known(vec!["default/db".to_owned()]);
        assert_eq!(check_restart(&empty(), false), Ok(()));
        assert!(check_restart(&Observed { instances: vm(), ..empty() }, false).is_err());
        assert!(check_restart(&Observed { processes: vm(), ..empty() }, true).is_err());
        assert!(check_restart(&Observed { instances: unknown(), ..empty() }, false).is_err());
        // A single server whose RKE2 is stopped has no API to ask.
        assert_eq!(
            check_restart(&Observed { instances: unknown(), launchers: unknown(), ..empty() }, true),
            Ok(())
        );
        assert!(check_restart(&Observed { processes: unknown(), ..empty() }, true).is_err());
        let open = Observed { fenced: Reading::Known(false), ..empty() };
        assert_eq!(check_restart(&open, true), Err(Refusal::NotFenced), "the guard has to be asked");
    }

    #[test]
    fn everything_else_is_refused() {
        let uid = plan().upgrade_uid;
        let no = || Reading::CouldNotTell("timeout".to_owned());
        let some = |name: &str| Reading::Known(vec![name.to_owned()]);
        let table: Vec<(&str, Observed)> = vec![
            ("default/db", Observed { instances: some("default/db"), ..empty() }),
            ("launcher", Observed { launchers: some("default/virt-launcher-db"), ..empty() }),
            ("qemu", Observed { processes: some("qemu-system-x86_64 (pid 7)"), ..empty() }),
            ("open to new pods", Observed { closed: Reading::Known(false), ..empty() }),
            ("fence", Observed { fenced: Reading::Known(false), ..empty() }),
            ("another installer", Observed { live_sha256: Reading::Known("alien".into()), ..empty() }),
            ("could not tell which VMs", Observed { instances: no(), ..empty() }),
            ("could not tell which launcher", Observed { launchers: no(), ..empty() }),
            ("could not tell which VM processes", Observed { processes: no(), ..empty() }),
            (
                "could not tell whether the node",
                Observed { closed: Reading::CouldNotTell("x".into()), ..empty() },
            ),
            (
                "could not tell whether the fence",
                Observed { fenced: Reading::CouldNotTell("x".into()), ..empty() },
            ),
            (
                "could not tell what the live",
                Observed { live_sha256: Reading::CouldNotTell("x".into()), ..empty() },
            ),
        ];
        for (expected, observed) in table {
            let refusal = check(&uid, Some(&receipt()), "old", &observed).unwrap_err().to_string();
            assert!(refusal.contains(expected), "{refusal} should name {expected}");
        }
        assert!(matches!(check(&uid, None, "old", &empty()), Err(Refusal::NoReceipt { .. })));
        assert!(matches!(
            check("another", Some(&receipt()), "old", &empty()),
            Err(Refusal::OtherUpgrade { .. })
        ));
    }
}
