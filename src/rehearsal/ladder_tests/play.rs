//! One evacuation on the whole agent in virtual time, with somebody who plays the trouble once the node has been cordoned.

use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::driver::Ended;
use crate::flow::plan::Evacuation;
use crate::flow::record::{Entry, Record};
use crate::flow::report::NodeReport;
use crate::flow::vms::{Fate, VmKey};
use crate::rehearsal::life::{Listener, Lived, NAMESPACE, Stage, live, plan_of};
use crate::rehearsal::wire::LifeWire;
use crate::rehearsal::world::{Ground, World};
use crate::rehearsal::{Order, Scene, in_own_time};
use crate::sim::api::ApiServer;
use crate::sim::machine::life::Life;
use crate::sim::seed::{Preset, Storage};
use crate::sim::world::DIRTY_ANNOTATION;

/// Plays once, when the node has been cordoned; hears every line.
struct Player<F> {
    play: F,
    lines: Mutex<Vec<Entry>>,
    blockers: Mutex<Option<watch::Receiver<NodeReport>>>,
}

impl<F: Fn() + Send + Sync> Listener for Player<F> {
    fn line(&self, _: &str, entry: &Entry) {
        if entry.record == Record::Cordoned {
            (self.play)();
        }
        self.lines.lock().unwrap().push(entry.clone());
    }

    fn begins(&self, report: watch::Receiver<NodeReport>) {
        self.blockers.lock().unwrap().replace(report);
    }

    fn lives(&self, _: &Life, _: &LifeWire) {}

    fn ends(&self) {}
}

/// What is to be asked afterwards.
pub(super) struct Played {
    pub(super) ended: Ended,
    pub(super) lines: Vec<Entry>,
    pub(super) server: ApiServer,
    pub(super) fates: Vec<(VmKey, Fate)>,
    pub(super) requests: u64,
}

impl Played {
    /// What all lines that are of some kind say.
    pub(super) fn all<T>(&self, which: impl Fn(&Record) -> Option<T>) -> Vec<T> {
        self.lines.iter().filter_map(|entry| which(&entry.record)).collect()
    }

    pub(super) fn count(&self, which: impl Fn(&Record) -> bool) -> usize {
        self.lines.iter().filter(|entry| which(&entry.record)).count()
    }

    /// When the first such line was written, in seconds after the node was cordoned.
    pub(super) fn second_of(&self, which: impl Fn(&Record) -> bool) -> i64 {
        let at = |which: &dyn Fn(&Record) -> bool| {
            self.lines.iter().find(|entry| which(&entry.record)).unwrap().at
        };
        at(&which).duration_since(at(&|record| *record == Record::Cordoned)).as_secs()
    }

    pub(super) fn fate(&self, vm: &VmKey) -> &Fate {
        &self.fates.iter().find(|(one, _)| one == vm).unwrap().1
    }

    /// Migrations of ours that go on.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let all = self.server.list_objects("kubevirt.io", "virtualmachineinstancemigrations", "", "");
        let open = |one: &&crate::sim::object::Object| {
            let ours = one.pointer("/metadata/labels/agent.harvesterhci.io~1upgrade-uid").is_some();
            ours && !matches!(
                one.pointer("/status/phase").and_then(Value::as_str),
                Some("Succeeded" | "Failed")
            )
        };
        all.iter().filter(open).map(|one| one["metadata"]["name"].to_string()).collect()
    }

    /// Reason and message of every event of ours.
    pub(super) fn events(&self) -> Vec<(String, String)> {
        let all = self.server.list_objects("", "events", NAMESPACE, "");
        let ours = all.iter().filter(|event| event["source"]["component"] == "upgrade-agent");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ours.map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
    }
}

/// Three nodes, six VMs on the first that can move; `play` gets the cluster.
pub(super) fn played<P>(
    evacuation: Evacuation,
    before: impl Fn(&ApiServer),
    play: fn(ApiServer) -> P,
) -> Played
where
    P: Future<Output = ()> + Send + 'static,
{
    played_with(6, evacuation, before, play)
}

/// The same with so many VMs.
pub(super) fn played_with<P>(
    vms: usize,
    evacuation: Evacuation,
    before: impl Fn(&ApiServer),
    play: fn(ApiServer) -> P,
) -> Played
where
    P: Future<Output = ()> + Send + 'static,
{
    let preset = Preset { crowded: true, storage: Storage::None, ..Preset::sized(3, vms, 0) };
    let order = Order {
        scene: Scene::Preset(preset),
        seed: 1,
        faults: Vec::new(),
        evacuation,
        from: "v1.34.2+rke2r1".parse().unwrap(),
        to: "v1.35.6+rke2r1".parse().unwrap(),
        only: Vec::new(),
        changes: Vec::new(),
        immutable_binary: false,
    };
    in_own_time(async {
        let world = World::build(Ground::build(&order).unwrap(), &order, |_, _| {}).unwrap();
        let server = world.server.clone();
        before(&server);
        let seat = world.seat("node1").unwrap();
        let (cluster, playing) = (server.clone(), Arc::new(Mutex::new(JoinSet::new())));
        let plays = playing.clone();
        let player = Arc::new(Player {
            play: move || drop(plays.lock().unwrap().spawn(play(cluster.clone()))),
            lines: Mutex::default(),
            blockers: Mutex::default(),
        });
        let listener: Arc<dyn Listener> = player.clone();
        let troubles = world.troubles.clone();
        let stage = Stage { server: server.clone(), clock: world.clock, listener, troubles };
        let blows = plan_of(&[], 1, 0);
        let account = live(&stage, &seat.machine, seat.plan.clone(), blows, None).await;
        let Lived::Ended(carried) = account.lived else { panic!("the agent did not end") };
        while let Some(played) = playing.lock().unwrap().try_join_next() {
            played.unwrap();
        }
        let lines = player.lines.lock().unwrap().clone();
        let fates = carried.progress.ledger().lines().map(|line| (line.entry.vm.clone(), line.fate.clone()));
        let fates = fates.collect();
        Played { ended: carried.ended, lines, server, fates, requests: account.requests }
    })
    .unwrap()
}

pub(super) fn patch(server: &ApiServer, path: &str, body: &Value) {
    server.call(&Method::PATCH, path, body).unwrap();
}

/// What an operator may do to the last open node as well, which Harvester lets nobody cordon.
pub(super) fn taint(server: &ApiServer, node: u32, is: bool) {
    let taints = is.then(|| json!([{"key": "busy", "effect": "NoSchedule"}]));
    patch(server, &format!("/api/v1/nodes/node{node}"), &json!({"spec": {"taints": taints}}));
}

pub(super) fn cordon(server: &ApiServer, node: u32, is: bool) {
    patch(
        server,
        &format!("/api/v1/nodes/node{node}"),
        &json!({"spec": {"unschedulable": is.then_some(true)}}),
    );
}

/// The first VM of the world.
pub(super) fn vm(server: &ApiServer) -> VmKey {
    let all = server.list_objects("kubevirt.io", "virtualmachineinstances", "", "");
    let text = |field: &str| all[0]["metadata"][field].as_str().unwrap().to_owned();
    VmKey::new(&text("namespace"), &text("name"))
}

/// Its guest writes to its memory faster than that can be copied; or no more.
pub(super) fn dirty(server: &ApiServer, vm: &VmKey, is: bool) {
    let path =
        format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}", vm.namespace, vm.name);
    patch(server, &path, &json!({"metadata": {"annotations": {DIRTY_ANNOTATION: is.then_some("1000000")}}}));
}

/// `KubeVirt` itself moves nobody: the agent is alone with the VMs.
pub(super) fn no_evacuations(server: &ApiServer) {
    for vmi in server.list_objects("kubevirt.io", "virtualmachineinstances", "", "") {
        let text = |field: &str| vmi["metadata"][field].as_str().unwrap().to_owned();
        let path = format!(
            "/apis/kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}",
            text("namespace"),
            text("name")
        );
        patch(server, &path, &json!({"spec": {"evictionStrategy": "None"}}));
    }
}
