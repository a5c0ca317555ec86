//! Plays the rehearsal's failure scripts, by the same words, on a real API server and a real machine: what a VM or a node has
//! from the beginning, and what people, servers and RKE2 do when their moment comes. A deed whose moment never came is told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use kube::api::{Api, DynamicObject};
use kube::core::GroupVersionKind;
use testbed::proxy::{Fate, Proxy};
use testbed::stand_in::FAULT;
use tokio::sync::Notify;
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::rehearsal::afflict::afflictions;
use upgrade_agent::rehearsal::doings::{Deed, Doing, Machine, Moment};
use upgrade_agent::rehearsal::faults::Fault;
use upgrade_agent::sim::troubles::Place;
use upgrade_agent::sim::{Wire, people, world};

use super::{Stage, TO};

/// How often the player looks whether a moment has come.
const LOOK: Duration = Duration::from_millis(25);

/// The scripts of one stage.
pub struct Script {
    faults: Vec<Fault>,
    proxy: Option<Arc<Proxy>>,
    /// Told when the agent is to die.
    pub kill: Arc<Notify>,
    done: Mutex<BTreeSet<usize>>,
}

impl Script {
    /// Puts in what is there from the beginning; the rest comes while [`Script::play`] runs.
    pub async fn begin(stage: &mut Stage, words: &[&str]) -> Result<Self> {
        let faults: Vec<Fault> =
            words.iter().map(|word| word.parse()).collect::<Result<_, _>>().context("a script's word")?;
        let mut machine = Vec::new();
        let mut is_wire = false;
        for fault in &faults {
            match fault {
                Fault::Vm(vm, flaw) => {
                    if flaw.doing() == Doing::Machine(Machine::RenamesDevices) {
                        machine.extend(
                            devices_of(stage, vm).await?.iter().map(|name| format!("no-device:{name}")),
                        );
                    }
                }
                Fault::Node(_, flaw) => match flaw.doing() {
                    Doing::Machine(wrong) => machine.push(stand_in_word(wrong, &stage.from)?),
                    Doing::Deed(_, Deed::Trouble(..)) => is_wire = true,
                    Doing::Deed(..) | Doing::Annotation(..) | Doing::Setup(_) => {}
                },
                Fault::At(..) | Fault::KillAtAwait(_) => {}
            }
            for change in afflictions(fault) {
                let patch = http::Request::patch(&change.path)
                    .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
                    .body(change.body.to_string().into_bytes())?;
                stage.client.request_text(patch).await.with_context(|| format!("{fault}"))?;
            }
        }
        if !machine.is_empty() {
            let from = stage.from.as_str();
            let lines = machine.iter().flat_map(|word| {
                let versions = match word.as_str() {
                    "hang" => vec![TO, from],
                    // The one that is there yet saves it.
                    "no-snapshot" | "torn-snapshot" => vec![from],
                    _ => vec![TO],
                };
                versions.into_iter().map(move |version| format!("{version} {word}\n"))
            });
            let file = stage.machine.root().join(FAULT.trim_start_matches('/'));
            std::fs::write(file, lines.collect::<String>())?;
        }
        let mut proxy = None;
        if is_wire {
            let troubles = stage.cluster.troubles.clone();
            let started = stage.behind_proxy(move |method, uri, _| match troubles.meets(method, uri) {
                Some(status) => {
                    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    Fate::Said(code, status.json().to_string().into())
                }
                None => Fate::Answered,
            });
            let started = started.await?;
            started.spoil(true);
            proxy = Some(Arc::new(started));
        }
        let script = Self { faults, proxy, kill: Arc::default(), done: Mutex::default() };
        script.turn_begins(stage).await?;
        Ok(script)
    }

    /// Does what is due, until it is dropped.
    pub async fn play(&self, stage: &Stage) -> Result<()> {
        loop {
            for (number, fault) in self.faults.iter().enumerate() {
                let (Fault::Vm(_, flaw) | Fault::Node(_, flaw)) = fault else { continue };
                let Doing::Deed(moment, deed) = flaw.doing() else { continue };
                // Who takes the taint off does so each time.
                let again = deed == Deed::RemoveTaint;
                if (again || !self.is_done(number)) && self.has_come(stage, moment, fault).await? {
                    self.do_it(stage, deed, fault).await?;
                    self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Each deed was done.
    pub fn assert_played(&self) -> Result<()> {
        for (number, fault) in self.faults.iter().enumerate() {
            let (Fault::Vm(_, flaw) | Fault::Node(_, flaw)) = fault else { continue };
            let is_deed = matches!(flaw.doing(), Doing::Deed(..));
            ensure!(!is_deed || self.is_done(number), "the moment of {fault} never came");
        }
        if let Some(proxy) = &self.proxy {
            let spoils =
                self.faults.iter().any(|fault| !fault.to_string().starts_with("virt-controller-away"));
            ensure!(!spoils || proxy.spoiled() > 0, "no request met any trouble");
        }
        Ok(())
    }

    fn is_done(&self, number: usize) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(&number)
    }

    /// Who migrates a VM onto the node does so before its turn.
    async fn turn_begins(&self, stage: &Stage) -> Result<()> {
        for (number, fault) in self.faults.iter().enumerate() {
            let Fault::Vm(vm, flaw) = fault else { continue };
            if flaw.doing() == Doing::Deed(Moment::TurnBegins, Deed::MigrateHere) {
                let goes = people::migrate_here(&wire(stage), vm, &stage.node).await?;
                ensure!(goes, "{vm} runs on {} already", stage.node);
                self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
            }
        }
        Ok(())
    }

    async fn has_come(&self, stage: &Stage, moment: Moment, fault: &Fault) -> Result<bool> {
        let listed = || stage.records("ledgerWritten") > 0;
        Ok(match (moment, fault) {
            (Moment::Listed, _) => listed(),
            (Moment::StopAccepted, Fault::Vm(vm, _)) => stage.cluster.stops_of(vm) > 0,
            (Moment::Gone, Fault::Vm(vm, _)) => {
                let vmis = Api::<DynamicObject>::namespaced_with(
                    stage.client.clone(),
                    &vm.namespace,
                    &world::vmi_resource(),
                );
                listed() && vmis.get_opt(&vm.name).await?.is_none()
            }
            (Moment::NodeChanged, Fault::Node(node, _)) => {
                let node = Api::<DynamicObject>::all_with(stage.client.clone(), &nodes()).get(node).await?;
                people::is_tainted(&serde_json::to_value(node)?)
            }
            (Moment::TurnBegins | Moment::StopAccepted | Moment::Gone | Moment::NodeChanged, _) => false,
        })
    }

    async fn do_it(&self, stage: &Stage, deed: Deed, fault: &Fault) -> Result<()> {
        let scale = stage.cluster.timing.scale;
        match (deed, fault) {
            (Deed::User(own), Fault::Vm(vm, _)) => {
                let pace = people::PEOPLE.div_f64(scale);
                tokio::spawn(people::act(wire(stage), pace, own, vm.clone()));
            }
            (Deed::Evict, Fault::Vm(vm, _)) => drop(people::evict(&wire(stage), vm).await?),
            (Deed::KillAgent, _) => self.kill.notify_one(),
            (Deed::RemoveTaint, Fault::Node(node, _)) => people::remove_taint(&wire(stage), node).await?,
            (Deed::Trouble(trouble, length), _) => {
                let proxy = self.proxy.clone();
                let hang_up = move || {
                    if let Some(proxy) = &proxy {
                        proxy.hang_up();
                    }
                };
                stage.cluster.troubles.begin(Place::Proxy, trouble, length.div_f64(scale), hang_up);
            }
            (Deed::User(_) | Deed::Evict | Deed::RemoveTaint | Deed::MigrateHere, _) => {}
        }
        Ok(())
    }
}

fn wire(stage: &Stage) -> Wire {
    stage.client.clone().into()
}

fn nodes() -> kube::core::ApiResource {
    kube::core::ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Node"), "nodes")
}

/// The resource names of a VM's devices.
async fn devices_of(stage: &Stage, vm: &VmKey) -> Result<Vec<String>> {
    let vms =
        Api::<DynamicObject>::namespaced_with(stage.client.clone(), &vm.namespace, &world::vm_resource());
    let vm = vms.get(&vm.name).await?;
    let devices = vm.data.pointer("/spec/template/spec/domain/devices/hostDevices");
    let devices = devices.and_then(serde_json::Value::as_array).into_iter().flatten();
    Ok(devices.filter_map(|device| device["deviceName"].as_str().map(str::to_owned)).collect())
}

/// How the stand-in for RKE2 is told so.
fn stand_in_word(wrong: Machine, from: &str) -> Result<String> {
    let word = match wrong {
        Machine::LosesDevices => "no-devices",
        Machine::LosesOneOfEach => "fewer-devices",
        Machine::NeverReturns | Machine::Rke2Hangs => "hang",
        Machine::Rke2Crashes => "crash",
        Machine::Rke2Dies => "die-after:3",
        Machine::SavesNoSnapshot => "no-snapshot",
        Machine::TearsSnapshots => "torn-snapshot",
        Machine::Rke2ReportsTheOldVersion => return Ok(format!("wrong-version:{from}")),
        Machine::RenamesDevices
        | Machine::HasStrayGuest
        | Machine::Rke2IsNotExecutable
        | Machine::BarsTheGuard => {
            anyhow::bail!("{wrong:?} is no fault of the stand-in")
        }
    };
    Ok(word.to_owned())
}
