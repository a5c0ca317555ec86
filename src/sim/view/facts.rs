//! What decisions read of an object again and again, read once for each of its versions. Whatever is here says the same
//! as the object that it was read from; what only writes need is read from the object when it comes to a write.

use serde_json::Value;

use super::Kind;
use super::parts::{Fields, Parts};
use crate::sim::fields::{AWAY, EVACUATION, MIGRATION_JOB, OFF};
use crate::sim::longhorn;
use crate::sim::script::Script;

/// The phase of a VMI, a migration or a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sim) enum Phase {
    #[default]
    Unset,
    Pending,
    Scheduling,
    Scheduled,
    PreparingTarget,
    TargetReady,
    Running,
    Succeeded,
    Failed,
    Other,
}

impl Phase {
    fn of(text: &str) -> Self {
        match text {
            "" => Self::Unset,
            "Pending" => Self::Pending,
            "Scheduling" => Self::Scheduling,
            "Scheduled" => Self::Scheduled,
            "PreparingTarget" => Self::PreparingTarget,
            "TargetReady" => Self::TargetReady,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Other,
        }
    }
}

/// What a VMI is to do when it has to leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sim) enum Strategy {
    #[default]
    Other,
    LiveMigrate,
    LiveMigrateIfPossible,
}

/// A VMI's migration, the last one or the one under way.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Copying {
    pub(in crate::sim) job: Box<str>,
    pub(in crate::sim) target_pod: Box<str>,
    pub(in crate::sim) completed: bool,
    pub(in crate::sim) failed: bool,
    /// Its target listens.
    pub(in crate::sim) is_prepared: bool,
    started: Option<Box<str>>,
}

impl Copying {
    pub(in crate::sim) fn has_started(&self) -> bool {
        self.started.as_ref().is_some_and(|started| !started.is_empty())
    }
}

/// Where an engine or a replica has come to rest, in spec and status alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sim) enum Rest {
    #[default]
    Nowhere,
    /// It runs, and is to, in the instance manager of its node.
    Runs,
    Stopped,
    /// It is to be stopped, and is in error.
    Broken,
}

/// What an engine does with a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim) enum Mode {
    /// Reads and writes.
    Whole,
    /// Writes only: it is being built again.
    Building,
    Other,
}

impl Mode {
    pub(in crate::sim) fn word(self) -> &'static str {
        match self {
            Self::Whole => "RW",
            Self::Building => "WO",
            Self::Other => "",
        }
    }
}

/// How redundant a volume is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sim) enum Robustness {
    #[default]
    Other,
    Unknown,
    Faulted,
    Degraded,
    Healthy,
}

impl Robustness {
    pub(in crate::sim) fn word(self) -> &'static str {
        match self {
            Self::Other => "",
            Self::Unknown => "unknown",
            Self::Faulted => "faulted",
            Self::Degraded => "degraded",
            Self::Healthy => "healthy",
        }
    }
}

/// A volume of Longhorn.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Storage {
    /// Where it is to be, and is; `None` where the field is missing.
    pub(in crate::sim) wanted_on: Option<Box<str>>,
    pub(in crate::sim) is_on: Option<Box<str>>,
    /// Whether it is attached; `None` on its way.
    pub(in crate::sim) attached: Option<bool>,
    pub(in crate::sim) robustness: Robustness,
    pub(in crate::sim) replicas: u64,
}

/// A node's machine.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Host {
    pub(in crate::sim) boot: Option<Box<str>>,
    /// It has no power.
    pub(in crate::sim) is_off: bool,
    /// Its kubelet does not run.
    pub(in crate::sim) is_away: bool,
    pub(in crate::sim) is_cordoned: bool,
}

/// What is known of one version of an object.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Facts {
    pub(in crate::sim) phase: Phase,
    /// When it was deleted.
    pub(super) deleted: Option<Box<str>>,
    pub(in crate::sim) is_ready: bool,
    /// The migration that a pod is the target of.
    pub(in crate::sim) job: Option<Box<str>>,
    /// A migration that an evacuation asked for.
    pub(in crate::sim) is_evacuation: bool,
    pub(in crate::sim) host: Host,
    pub(in crate::sim) strategy: Strategy,
    pub(in crate::sim) is_migratable: bool,
    pub(in crate::sim) copying: Option<Box<Copying>>,
    /// The containers of a pod that were started by a simulated kubelet, by what their ids say; 0 for nonsense.
    pub(in crate::sim) containers: Vec<u64>,
    pub(in crate::sim) rest: Rest,
    /// What an engine does with its replicas, by their names in order.
    pub(in crate::sim) modes: Vec<(Box<str>, Mode)>,
    pub(in crate::sim) storage: Option<Box<Storage>>,
    /// What is to go wrong with a VM.
    pub(in crate::sim) script: Option<Box<Script>>,
}

impl Facts {
    pub(in crate::sim) fn is_deleting(&self) -> bool {
        self.deleted.is_some()
    }

    /// The uid of the migration that a VMI was last told of; empty when there was none.
    pub(in crate::sim) fn copy_job(&self) -> &str {
        self.copying.as_ref().map_or("", |copying| &copying.job)
    }

    pub(super) fn copy_start(&self) -> Option<&str> {
        self.copying.as_ref()?.started.as_deref()
    }

    pub(super) fn of(kind: Kind, parts: Parts<'_>) -> Self {
        let Parts { metadata, spec, status } = parts;
        let deleted = metadata.owned("deletionTimestamp").filter(|stamp| !stamp.is_empty());
        let mut facts = Self { deleted, ..Self::default() };
        match kind {
            Kind::Vm => facts.script = script(metadata),
            Kind::ReplicaSet | Kind::Budget | Kind::InstanceManager => {}
            Kind::Node => {
                let annotations = metadata.within("annotations");
                facts.is_ready = is_true(status, "Ready");
                facts.host = Host {
                    boot: status.within("nodeInfo").owned("bootID"),
                    is_off: annotations.str(OFF).is_some(),
                    is_away: annotations.str(AWAY).is_some(),
                    is_cordoned: spec.on("unschedulable"),
                };
            }
            Kind::Vmi => {
                facts.script = script(metadata);
                facts.read_vmi(spec, status);
            }
            Kind::Vmim => {
                facts.phase = Phase::of(status.text("phase"));
                facts.is_evacuation = metadata.within("annotations").str(EVACUATION).is_some();
            }
            Kind::Pod => {
                facts.phase = Phase::of(status.text("phase"));
                facts.is_ready = is_true(status, "Ready");
                facts.job = metadata.within("labels").owned(MIGRATION_JOB);
                let ids = status.list("containerStatuses").iter();
                let ids = ids.map(|one| Fields::of(one).text("containerID"));
                facts.containers = ids.filter_map(|id| id.strip_prefix(RUNTIME)).map(number).collect();
            }
            Kind::Volume => facts.storage = Some(Box::new(storage(spec, status))),
            Kind::Engine | Kind::Replica => {
                facts.rest = rest(spec, status);
                let modes = status.within("replicaModeMap").all();
                let mode = |mode: &Value| match mode.as_str() {
                    Some("RW") => Mode::Whole,
                    Some("WO") => Mode::Building,
                    Some(_) | None => Mode::Other,
                };
                facts.modes = modes.map(|(name, word)| (name.as_str().into(), mode(word))).collect();
            }
        }
        facts
    }

    fn read_vmi(&mut self, spec: Fields<'_>, status: Fields<'_>) {
        self.phase = Phase::of(status.text("phase"));
        self.is_migratable = is_true(status, "LiveMigratable");
        self.strategy = match spec.text("evictionStrategy") {
            "LiveMigrate" => Strategy::LiveMigrate,
            "LiveMigrateIfPossible" => Strategy::LiveMigrateIfPossible,
            _ => Strategy::Other,
        };
        let state = status.within("migrationState");
        self.copying = state.is_there().then(|| {
            Box::new(Copying {
                job: state.text("migrationUid").into(),
                target_pod: state.text("targetPod").into(),
                completed: state.on("completed"),
                failed: state.on("failed"),
                is_prepared: !state.text("targetNodeAddress").is_empty(),
                started: state.owned("startTimestamp"),
            })
        });
    }
}

fn script(metadata: Fields<'_>) -> Option<Box<Script>> {
    let annotations = metadata.within("annotations");
    if annotations.is_there() { Script::of(|key| annotations.str(key)).map(Box::new) } else { None }
}

/// What the ids of containers begin with that a simulated kubelet has started.
pub(in crate::sim) const RUNTIME: &str = "containerd://sim-";

fn number(id: &str) -> u64 {
    u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16).unwrap_or(0)
}

fn is_true(status: Fields<'_>, kind: &str) -> bool {
    let conditions = status.list("conditions").iter().map(Fields::of);
    conditions
        .into_iter()
        .find(|one| one.text("type") == kind)
        .is_some_and(|one| one.text("status") == "True")
}

fn rest(spec: Fields<'_>, status: Fields<'_>) -> Rest {
    let (Some(node), Some(desired)) = (spec.str("nodeID"), spec.str("desireState")) else {
        return Rest::Nowhere;
    };
    let (Some(current), Some(manager)) = (status.str("currentState"), status.str("instanceManagerName"))
    else {
        return Rest::Nowhere;
    };
    match (desired, current, status.get("started")) {
        ("running", "running", Some(Value::Bool(true))) if longhorn::runs_on(manager, node) => Rest::Runs,
        ("stopped", "stopped", Some(Value::Bool(false))) if manager.is_empty() => Rest::Stopped,
        ("stopped", "error", Some(Value::Bool(false))) if manager.is_empty() => Rest::Broken,
        _ => Rest::Nowhere,
    }
}

fn storage(spec: Fields<'_>, status: Fields<'_>) -> Storage {
    Storage {
        wanted_on: spec.owned("nodeID"),
        is_on: status.owned("currentNodeID"),
        attached: match status.text("state") {
            "attached" => Some(true),
            "detached" => Some(false),
            _ => None,
        },
        robustness: match status.text("robustness") {
            "unknown" => Robustness::Unknown,
            "faulted" => Robustness::Faulted,
            "degraded" => Robustness::Degraded,
            "healthy" => Robustness::Healthy,
            _ => Robustness::Other,
        },
        replicas: spec.get("numberOfReplicas").and_then(Value::as_u64).unwrap_or(1),
    }
}
