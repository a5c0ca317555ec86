//! What goes wrong in the field, on real parts: guests that do not listen, migrations that fail, people who act meanwhile, an
//! API server that errs or is away, an agent that is killed. One node of its own for each test, one API server for all.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests"
)]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[path = "field/guests.rs"]
mod guests;
#[path = "field/harvester.rs"]
mod harvester;
#[path = "field/kills.rs"]
mod kills;
#[path = "field/migrations.rs"]
mod migrations;
#[path = "field/people.rs"]
mod people;
#[path = "field/scripts.rs"]
mod scripts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;
#[path = "field/wire.rs"]
mod wire;

use std::process::Output;

use asserts::{Instances, agent, said};
use support::Stage;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::flow::plan::Evacuation;
use upgrade_agent::flow::vms::VmKey;

/// How a run ended.
struct Ran {
    code: Option<i32>,
    said: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self { code: output.status.code(), said: said(&output) }
    }
}

impl Ran {
    /// The run as its operator sees it, from the order to the agent's end.
    async fn through(stage: &Stage, policy: impl FnOnce(&mut Evacuation)) -> Self {
        stage.order_with(Control::Run, policy).await.unwrap();
        stage.run_agent(agent(), &["node", "--once"]).await.unwrap().into()
    }

    fn assert_done(&self, stage: &Stage) {
        assert_eq!(self.code, Some(0), "{}\n{}", self.said, stage.journal());
    }

    /// An operator is asked for, in words that have all of these in them.
    fn assert_names(&self, words: &[&str]) {
        assert_eq!(self.code, Some(4), "{}", self.said);
        let reason =
            self.said.lines().rfind(|line| line.contains("an operator is needed")).expect("a reason");
        for word in words {
            assert!(reason.contains(word), "{reason} should say {word}");
        }
    }

    /// The same, and nothing was swapped.
    fn assert_holds(&self, stage: &Stage, words: &[&str]) {
        self.assert_names(words);
        assert_eq!(stage.records("swapIntent"), 0, "{}", self.said);
    }

    /// The row of a VM in the closing table.
    fn row(&self, stage: &Stage, vm: &str) -> &str {
        let row = format!("{} ", key(stage, vm));
        let found = self.said.lines().find(|line| line.starts_with(&row));
        found.unwrap_or_else(|| panic!("no row of {vm} in:\n{}", self.said))
    }
}

fn key(stage: &Stage, vm: &str) -> VmKey {
    VmKey::new(&stage.namespace, vm)
}

/// They are where they were, or elsewhere, and never were off.
async fn assert_never_off(stage: &Stage, before: &Instances, vms: &[&str]) {
    let after = stage.instances().await.unwrap();
    for vm in vms {
        let key = key(stage, vm);
        let now = after.get(&key).unwrap_or_else(|| panic!("{vm} does not run: {after:?}"));
        assert_eq!(now.0, before[&key].0, "{vm} was never off");
        assert_eq!(stage.requests("update", &format!("/{}/virtualmachines/{vm}/stop", stage.namespace)), 0);
    }
}

/// How often a stop of the VM, or a start, was asked for by the agent and taken.
fn accepted(stage: &Stage, vm: &str, verb: &str) -> usize {
    stage.accepted("update", &format!("/{}/virtualmachines/{vm}/{verb}", stage.namespace))
}

/// Each was stopped once, started once, and runs on its own node again.
async fn assert_stopped_once(stage: &Stage, before: &Instances, vms: &[&str]) {
    let after = stage.instances().await.unwrap();
    for vm in vms {
        let key = key(stage, vm);
        let now = after.get(&key).unwrap_or_else(|| panic!("{vm} does not run: {after:?}"));
        assert_ne!(now.0, before[&key].0, "{vm} was stopped");
        assert_eq!(now.1, stage.node, "{vm} runs where its device is");
        assert_eq!((stage.cluster.stops_of(&key), accepted(stage, vm, "start")), (1, 1), "{vm}");
    }
}

/// What the cluster is told of the run.
async fn reported(stage: &Stage) -> upgrade_agent::cluster::crd::node_upgrade::NodeUpgradeStatus {
    let order = stage.orders().get(&format!("{}-{}", stage.upgrade, stage.node)).await.unwrap();
    order.status.expect("the NodeUpgrade has a status")
}
