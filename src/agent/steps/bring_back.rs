//! One owed VM, from "is it still ours to start?" to "it runs", within its own deadline. What is missing for the start is
//! waited for, and named when time is up.

use std::pin::pin;
use std::time::Duration;

use kube::api::Api;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use crate::agent::step_error::chain;
use crate::agent::steps::node_watch::NodeWatch;
use crate::agent::steps::premises::Premises;
use crate::agent::steps::waits::Waits;
use crate::cluster::brief::BriefNode;
use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::vm_state::{self, VmState};
use crate::cluster::vms::{self, Answer};
use crate::cluster::{ClusterError, places, vm_mark};
use crate::flow::restore;
use crate::flow::restore::claim::{Whose, whose};
use crate::flow::vms::{LedgerLine, VmKey};

/// How long one VM may take from its start to running, with its devices' plugins coming back first.
pub(super) const VM_DEADLINE: Duration = Duration::from_mins(15);
/// Device plugins and the queue of `KubeVirt` have no watch that says "ready": asked again this often.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// What is said of one that has been started.
const STARTED: &str = "it was started and does not run yet";
/// A start that was taken and shows nothing is asked for again after this.
const PATIENCE: Duration = Duration::from_mins(3);
/// Who is not up after this lets the next one begin.
const TURN: Duration = Duration::from_secs(30);
/// Times that what is left of a VM of run strategy Once is removed, so that it starts again.
const MOST_CLEARED: u32 = 3;
/// The longest pause between two looks at what is missing beside the node: what other pods hold, volumes, `KubeVirt`'s word.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A node that its watch does not show to be fit is looked at this often all the same.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

/// What became of one VM.
pub(super) enum Fared {
    Running(String),
    Struck(String),
    Failed(String),
}

/// One try.
enum Tried {
    Fared(Fared),
    NotYet(String),
    /// What its start needs is not there; the VM itself need not be looked at before it is.
    NoGround {
        why: String,
        claims: Vec<String>,
    },
}

/// One owed VM and all that its start needs.
pub(super) struct Return<'a> {
    pub(super) client: &'a Client,
    pub(super) upgrade_uid: &'a str,
    pub(super) premises: &'a Premises,
    pub(super) watch: &'a NodeWatch,
    pub(super) turns: &'a Semaphore,
    pub(super) waits: &'a Waits,
    pub(super) line: LedgerLine,
    /// A start was asked for in an earlier life of the agent.
    pub(super) asked: bool,
}

/// What was done for it in this life.
struct Tries {
    asked: bool,
    /// When a start was last taken.
    at: Option<Instant>,
    cleared: u32,
}

impl Return<'_> {
    /// Starts it, unless its user has taken it over; to its deadline, with the last reason why not. Only what is being started
    /// takes a turn: who waits for something keeps nobody off.
    pub(super) async fn bring_back(&self) -> Fared {
        let mut turn = self.turns.acquire().await.ok();
        let deadline = Instant::now() + VM_DEADLINE;
        let mut pause = ASK_AGAIN;
        let mut tries = Tries { asked: self.asked, at: None, cleared: 0 };
        loop {
            let outcome = {
                let mut trying = pin!(timeout_at(deadline, self.try_once(&mut tries)));
                tokio::select! {
                    biased;
                    // Goes on below when its turn is over.
                    outcome = &mut trying => outcome,
                    () = tokio::time::sleep(TURN) => {
                        drop(turn.take());
                        trying.await
                    }
                }
            };
            match outcome {
                Ok(Ok(Tried::Fared(fared))) => return fared,
                Ok(Ok(Tried::NotYet(why))) => self.waits.say(self.key(), &why),
                Ok(Ok(Tried::NoGround { why, claims })) if Instant::now() < deadline => {
                    drop(turn.take());
                    self.waits.say(self.key(), &why);
                    self.wait_for_ground(&claims, deadline).await;
                    turn = self.next_turn(deadline).await;
                    continue;
                }
                Ok(Err(error)) if error.is_passing() => self.waits.say(self.key(), &chain(&error)),
                Ok(Err(error)) => return Fared::Failed(chain(&error)),
                Ok(Ok(Tried::NoGround { .. })) | Err(_) => return self.too_late().await,
            }
            drop(turn.take());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE * 2);
            turn = self.next_turn(deadline).await;
        }
    }

    async fn too_late(&self) -> Fared {
        let minutes = VM_DEADLINE.as_secs() / 60;
        let waits_for = self.waits.of(self.key()).map_or_else(|| STARTED.to_owned(), |(_, what)| what);
        let unsure = self.premises.unsure(&self.line.entry).await;
        let unsure = unsure.map(|what| format!("; {what}")).unwrap_or_default();
        Fared::Failed(format!("it did not run within {minutes} min; last seen: {waits_for}{unsure}"))
    }

    /// None when its time is over before.
    async fn next_turn(&self, deadline: Instant) -> Option<SemaphorePermit<'_>> {
        timeout_at(deadline, self.turns.acquire()).await.ok()?.ok()
    }

    fn key(&self) -> &VmKey {
        &self.line.entry.vm
    }

    async fn try_once(&self, tries: &mut Tries) -> Result<Tried, ClusterError> {
        let vm = vm_state::read(self.client, self.key(), self.upgrade_uid).await?;
        let instance = match &vm {
            Some(_) => vms::instance(self.client, self.key()).await?,
            None => None,
        };
        let instance = instance.as_ref().map(vm_state::instance_now);
        let ended = instance.as_ref().filter(|one| one.ended.is_some()).map(|one| one.uid.clone());
        let now = vm.as_ref().map(|vm| &vm.now);
        match (whose(&self.line, now, instance.as_ref(), tries.asked), vm) {
            (Whose::Taken { why }, vm) => {
                if let Some(vm) = vm.filter(|vm| vm.now.marked && vm.now.uid == self.line.entry.vm_uid) {
                    self.unmark(&vm).await?;
                }
                Ok(Tried::Fared(Fared::Struck(why)))
            }
            (Whose::StillEnding, _) => Ok(Tried::NotYet("its old instance is still ending".to_owned())),
            (Whose::Barred { why }, _) => Ok(Tried::NotYet(why)),
            (Whose::Comes, Some(vm)) => self.wait_running(&vm, None).await,
            (Whose::Ours, Some(vm))
                if tries.at.is_some_and(|at| at.elapsed() < PATIENCE) && ended.is_none() =>
            {
                self.wait_running(&vm, None).await
            }
            (Whose::Ours, Some(vm)) => match self.premises.missing(&self.line.entry, &vm.claims).await? {
                Some(why) => Ok(Tried::NoGround { why, claims: vm.claims }),
                None => self.start(&vm, ended.as_deref(), tries).await,
            },
            // Whose it is was told of a VM that is there.
            (Whose::Comes | Whose::Ours, None) => Ok(Tried::NotYet("it was not there".to_owned())),
        }
    }

    /// `ended` is the uid of an instance that has ended and stays.
    async fn start(
        &self,
        vm: &VmState,
        ended: Option<&str>,
        tries: &mut Tries,
    ) -> Result<Tried, ClusterError> {
        let recorded = self.line.entry.run_strategy.as_deref();
        tries.asked = true;
        match (recorded, vm.now.run_strategy.as_deref(), ended) {
            (_, Some("Once"), Some(_)) if tries.cleared >= MOST_CLEARED => {
                let times = tries.cleared + 1;
                return Ok(Tried::NotYet(format!(
                    "it was started {times} times and failed; its events say why"
                )));
            }
            // It has run once; virt-api starts it no second time, and KubeVirt does when nothing is left of the first.
            (_, Some("Once"), Some(uid)) => {
                vms::clear_ended(self.client, self.key(), uid).await?;
                tries.cleared += 1;
            }
            // A stop turns Always and Once into Halted, and a start would make Always of both: write back what was there.
            (Some(strategy @ ("Always" | "Once")), Some("Halted"), _) if vm.has_run_strategy => {
                match vms::set_run_strategy(self.client, self.key(), "Halted", strategy).await {
                    Ok(()) => {}
                    // Somebody else was quicker, or has removed it: the next look tells.
                    Err(
                        error @ (ClusterError::Conflict { .. }
                        | ClusterError::Rejected { .. }
                        | ClusterError::Gone { .. }),
                    ) => return Ok(Tried::NotYet(chain(&error))),
                    Err(error) => return Err(error),
                }
            }
            _ => match vms::start(self.client, self.key()).await? {
                Answer::Accepted => {}
                Answer::NoSuchVm => return Ok(Tried::NotYet("virt-api does not know it".to_owned())),
                // Running already, or its stop is still queued: the next look tells.
                Answer::LookAgain { why } => {
                    let failure = self.failure().await?;
                    // It is KubeVirt's to try again, which it does.
                    tries.at = failure.is_some().then(Instant::now);
                    return Ok(Tried::NotYet(failure.unwrap_or_else(|| format!("virt-api says: {why}"))));
                }
            },
        }
        tries.at = Some(Instant::now());
        self.wait_running(vm, ended).await
    }

    /// Looks at what is missing until it is there, cannot be read, or time is up. What is asked then tells more.
    async fn wait_for_ground(&self, claims: &[String], deadline: Instant) {
        let is_fit = |node: Option<&BriefNode>| {
            let place = node.map(places::shown);
            restore::missing(&self.line.entry, self.premises.node(), place.as_ref()).is_none()
        };
        let mut pause = ASK_AGAIN;
        while Instant::now() < deadline {
            if self.watch.shows(is_fit) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                // Shown, or late, or never: the node itself tells.
                let until = (Instant::now() + LOOK_ANYWAY).min(deadline);
                timeout_at(until, self.watch.until(is_fit)).await.ok();
            }
            match timeout_at(deadline, self.premises.missing(&self.line.entry, claims)).await {
                Ok(Ok(Some(why))) => self.waits.say(self.key(), &why),
                Ok(Ok(None) | Err(_)) | Err(_) => return,
            }
        }
    }

    /// `before` is the uid of an instance that had ended before this start.
    async fn wait_running(&self, vm: &VmState, before: Option<&str>) -> Result<Tried, ClusterError> {
        let key = self.key();
        let api: Api<VirtualMachineInstance> = Api::namespaced(self.client.clone(), &key.namespace);
        let is_old = |vmi: &VirtualMachineInstance| {
            let uid = vmi.uid();
            uid.as_deref() == Some(&self.line.entry.vmi_uid) || (before.is_some() && uid.as_deref() == before)
        };
        let settled = |vmi: Option<&VirtualMachineInstance>| {
            let new = vmi.filter(|vmi| !is_old(vmi));
            new.is_some_and(|vmi| phase(vmi) == "Running" || vms::ended(vmi).is_some())
        };
        // What KubeVirt had to say about that is not taken back.
        if !self.waits.of(key).is_some_and(|(_, what)| what.starts_with(STARTED)) {
            self.waits.say(key, STARTED);
        }
        let Ok(outcome) = timeout(LOOK_ANYWAY, await_condition(api, &key.name, settled)).await else {
            // Its user may have taken it over meanwhile, and KubeVirt says on the VM why no instance is made.
            return Ok(Tried::NotYet(self.failure().await?.unwrap_or_else(|| STARTED.to_owned())));
        };
        match outcome {
            Ok(Some(vmi)) if phase(&vmi) == "Running" => {
                if vm.now.marked {
                    self.unmark(vm).await?;
                }
                let node = vmi.status.and_then(|status| status.node_name).unwrap_or_default();
                Ok(Tried::Fared(Fared::Running(node)))
            }
            // KubeVirt tries again by itself under most strategies; the deadline ends this.
            Ok(_) => Ok(Tried::NotYet("it was started and ended at once; its events say why".to_owned())),
            Err(error) => Err(ClusterError::NoAnswer { what: format!("watch VM {key} start ({error})") }),
        }
    }

    /// Why `KubeVirt` makes no instance of what was started, in its own words; none when it says nothing.
    async fn failure(&self) -> Result<Option<String>, ClusterError> {
        let failure = vm_state::failure(self.client, self.key()).await?;
        Ok(failure.map(|why| format!("{STARTED}; KubeVirt says: {why}")))
    }

    /// The mark goes before the journal's line does: who looks again in between finds the VM running, or its user's.
    async fn unmark(&self, vm: &VmState) -> Result<(), ClusterError> {
        let Some(uid) = &vm.now.uid else { return Ok(()) };
        match vm_mark::take_off(self.client, self.key(), uid).await? {
            Answer::Accepted | Answer::NoSuchVm => {}
            // Its state says that it is accounted for; a mark that stays is told, and harms nobody.
            Answer::LookAgain { why } => {
                tracing::warn!(vm = %self.key(), why, "the mark of the upgrade stays on the VM");
            }
        }
        Ok(())
    }
}

fn phase(vmi: &VirtualMachineInstance) -> &str {
    vmi.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
