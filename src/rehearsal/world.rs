//! The world of one rehearsal: API server, simulators, and the machines of the nodes that are upgraded, wired together.
//! Everything in it follows from the scene, the seed and the flaws; nothing waits for anything but virtual time. `machines` ties the
//! machines to the cluster.

mod machines;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::crd::node_upgrade::{Control, NodeUpgrade, NodeUpgradeSpec};
use crate::cluster::names::safe_concat;
use crate::flow::plan::{Artifacts, NodePlan, Role, VersionChange};
use crate::host::clock::Clock;
use crate::rehearsal::afflict::afflict;
use crate::rehearsal::life::NAMESPACE;
use crate::rehearsal::roles::NodeRoles;
use crate::rehearsal::{Order, RehearsalError, Scene};
use crate::sim::api::{ApiServer, Webhooks};
use crate::sim::machine::SimMachine;
use crate::sim::machine::image::{ARTIFACT, MachineImage, MachineSpec};
use crate::sim::machine::release::release;
use crate::sim::troubles::Troubles;
use crate::sim::virt_api::{self, VirtApi};
use crate::sim::{self, Guests, Known, SimError, Timing, Wire, seed, world};

/// The `Upgrade` that rehearsals are about.
pub(super) const UPGRADE: &str = "hvst-upgrade-rehearsal";
/// Its uid.
const UPGRADE_UID: &str = "5eed0000-0000-4000-8000-000000000001";
/// Every rehearsal begins at this moment of its own time.
const START: &str = "2026-01-01T00:00:00Z";

/// One world.
pub(super) struct World {
    pub(super) server: ApiServer,
    pub(super) clock: Clock,
    pub(super) start: Timestamp,
    pub(super) nodes: Vec<String>,
    pub(super) guests: Guests,
    pub(super) notes: Vec<String>,
    pub(super) troubles: Troubles,
    stop: CancellationToken,
    /// Why the simulators have ended before their time.
    pub(super) ended: Arc<OnceLock<SimError>>,
    roles: NodeRoles,
    order: Order,
}

/// One node's machine, and the plan for it.
pub(super) struct Seat {
    pub(super) machine: SimMachine,
    pub(super) plan: NodePlan,
    /// A VM process that the API does not know of.
    pub(super) stray: Arc<AtomicBool>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.disaggregate();
    }
}

/// The cluster of a scene and a seed as it is before a rehearsal begins in it: rehearsals that differ only in what goes
/// wrong can all begin from one.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    server: ApiServer,
    /// In the order of an upgrade.
    nodes: Vec<String>,
    roles: NodeRoles,
    notes: Vec<String>,
    /// Of a cluster that is at rest.
    known: Option<Known>,
}

impl Ground {
    /// Builds it; on a clock that stands still, or what it says of time would not repeat.
    pub(super) fn build(order: &Order) -> Result<Self, RehearsalError> {
        let start = beginning();
        let server = ApiServer::new(Clock::from(start, Instant::now()), order.seed);
        let (mut notes, mut known) = (Vec::new(), None);
        match &order.scene {
            Scene::Preset(preset) => {
                let preset =
                    seed::Preset { seed: order.seed, version: order.from.to_string(), ..preset.clone() };
                let (_, at_rest) = seed::seed(&server, &preset, start).map_err(RehearsalError::from)?;
                known = Some(at_rest);
            }
            Scene::Objects(objects) => {
                let (_, oddities) = seed::adopt(&server, objects.as_ref().clone(), start);
                notes.extend(oddities);
            }
        }
        let (roles, taken_for_servers) = NodeRoles::settle(&server)?;
        notes.extend(taken_for_servers);
        let names = roles.in_order();
        if names.is_empty() {
            return Err(RehearsalError::NoNodes);
        }
        Ok(Self { server, nodes: names, roles, notes, known })
    }
}

fn beginning() -> Timestamp {
    START.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

impl World {
    /// Begins a world on its ground, with what is special about this order, and starts the simulators in it.
    pub(super) fn build(
        ground: Ground,
        order: &Order,
        stop_heard: impl Fn(&str, &str) + Send + Sync + 'static,
    ) -> Result<Self, RehearsalError> {
        let start = beginning();
        let clock = Clock::from(start, Instant::now());
        let Ground { server: ground, nodes: names, roles, notes, known } = ground;
        let server = ground.fork(clock);
        // Where nobody else begins on this ground, what is written from now on need not be kept apart from it.
        drop(ground);
        let begun = known.map(|known| known.begin(&server));
        own_upgrade(&server, &names, order)?;
        for fault in &order.faults {
            afflict(&server, fault)?;
        }
        for change in &order.changes {
            change.put(&server)?;
        }
        server.ask(Webhooks::Up);
        let troubles = Troubles::default();
        let timing = Timing::virtual_time(start);
        let guests = Guests::default();
        let stop = CancellationToken::new();
        let api = VirtApi { wire: Wire::from(server.clone()), timing: timing.clone() };
        let (stop_heard, up) = (Arc::new(stop_heard), troubles.virt_api.clone());
        server.aggregate(
            "/apis/subresources.kubevirt.io",
            Arc::new(move |request| {
                let (api, stop_heard, up) = (api.clone(), Arc::clone(&stop_heard), up.clone());
                Box::pin(async move {
                    if !up.is_on() {
                        return virt_api::unreachable();
                    }
                    let path = request.uri().path().to_owned();
                    let response = api.respond(request).await;
                    if response.status().is_success() && path.ends_with("/stop") {
                        let mut parts = path.rsplit('/').skip(1);
                        let (name, _, namespace) = (parts.next(), parts.next(), parts.next());
                        stop_heard(namespace.unwrap_or_default(), name.unwrap_or_default());
                    }
                    response
                })
            }),
        );
        let running = sim::run_on(
            server.clone(),
            begun,
            timing,
            guests.clone(),
            troubles.virt_controller.clone(),
            stop.clone(),
        );
        let (order, ended) = (order.clone(), Arc::new(OnceLock::new()));
        let told = Arc::clone(&ended);
        tokio::spawn(async move {
            if let Err(error) = running.await {
                told.get_or_init(|| error);
            }
        });
        Ok(Self { server, clock, start, nodes: names, guests, notes, troubles, stop, ended, roles, order })
    }

    /// What was rehearsed counts only while the simulators went on.
    pub(super) fn is_sound(&self) -> Result<(), RehearsalError> {
        self.ended.get().map_or(Ok(()), |error| {
            let why = format!("{error}; leave that object out of the files and report it");
            Err(RehearsalError::World { what: "the cluster".to_owned(), why })
        })
    }

    /// The machine of a node, switched on, with the plan for it and its order in the cluster.
    pub(super) fn seat(&self, node: &str) -> Result<Seat, RehearsalError> {
        let object = self.node(node)?;
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let role = if self.roles.is_server(node) { Role::Server } else { Role::Agent };
        let release =
            release(&self.order.to.to_string()).map_err(|source| RehearsalError::Machine { source })?;
        let spec = MachineSpec {
            seed: self.order.seed ^ world::number_of(node),
            role,
            from: self.order.from.to_string(),
            to: self.order.to.to_string(),
            machine_id: text("/status/nodeInfo/machineID"),
            boot_id: text("/status/nodeInfo/bootID"),
            is_only_server: self.roles.is_only_api_server(node),
            ..MachineSpec::default()
        };
        let image = MachineImage::new(spec).map_err(|source| RehearsalError::Machine { source })?;
        let machine = SimMachine::start(&image);
        let stray = Arc::new(AtomicBool::new(false));
        self.plug(node, &machine, &stray);
        self.spoil(node, &machine);
        let source = ARTIFACT.rsplit_once('/').map_or(ARTIFACT, |(folder, _)| folder);
        let plan = NodePlan {
            upgrade_name: UPGRADE.to_owned(),
            upgrade_uid: UPGRADE_UID.to_owned(),
            node_name: node.to_owned(),
            role: None,
            rke2: VersionChange { from: self.order.from.clone(), to: self.order.to.clone() },
            artifacts: Artifacts {
                source: format!("file://{source}"),
                sha256: release.sha256.clone(),
                sums: None,
                images: Vec::new(),
            },
            swap: crate::flow::plan::SwapMode::Direct,
            evacuation: self.order.evacuation.clone(),
            immutable_binary: self.order.immutable_binary,
            os: None,
        };
        self.order_for(&plan)?;
        Ok(Seat { machine, plan, stray })
    }

    pub(super) fn node(&self, name: &str) -> Result<crate::sim::object::Object, RehearsalError> {
        self.server
            .call(&Method::GET, &format!("/api/v1/nodes/{name}"), &Value::Null)
            .map_err(|status| refused(&format!("node {name}"), &status))
    }

    /// The `NodeUpgrade` that the controller would make.
    fn order_for(&self, plan: &NodePlan) -> Result<(), RehearsalError> {
        let name = safe_concat(&[&plan.upgrade_name, &plan.node_name]);
        let mut order = NodeUpgrade::new(&name, NodeUpgradeSpec::of(plan, Control::Run));
        order.metadata.namespace = Some(NAMESPACE.to_owned());
        let object = serde_json::to_value(&order).unwrap_or_default();
        let path = format!("/apis/agent.harvesterhci.io/v1alpha1/namespaces/{NAMESPACE}/nodeupgrades");
        self.server
            .call(&Method::POST, &path, &object)
            .map(drop)
            .map_err(|status| refused(&format!("NodeUpgrade {name}"), &status))
    }
}

/// The `Upgrade` that is rehearsed; an export may have others, which are left alone.
fn own_upgrade(server: &ApiServer, nodes: &[String], order: &Order) -> Result<(), RehearsalError> {
    let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let object = world::upgrade(UPGRADE, &order.to.to_string(), &order.from.to_string(), &names);
    let mut object = serde_json::to_value(&object).unwrap_or_default();
    if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), json!(UPGRADE_UID));
    }
    server.load(object).map(drop).map_err(|status| refused("the Upgrade", &status))
}

/// The API server in memory said no.
pub(super) fn refused(what: &str, status: &crate::sim::api::Status) -> RehearsalError {
    RehearsalError::World { what: what.to_owned(), why: status.message.clone() }
}

impl From<SimError> for RehearsalError {
    fn from(error: SimError) -> Self {
        let why = crate::agent::step_error::chain(&error);
        Self::World { what: "the cluster".to_owned(), why }
    }
}
