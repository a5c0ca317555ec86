//! Upgrades of Harvester's own in an export: they are not played, which whoever exports one in the middle of it should know.

use serde_json::Value;

use crate::flow::phase::Phase;
use crate::sim::fields::{At as _, condition, label, name, namespace, text};

/// Nodes that are named; a large cluster has more.
const MOST_NODES: usize = 3;

/// A line about an `Upgrade` that has not ended; none about others.
pub(super) fn told(upgrade: &Value) -> Option<String> {
    let state = label(upgrade, "harvesterhci.io/upgradeState").unwrap_or("not begun");
    let completed = condition(upgrade, "Completed").map(|one| text(one, "/status")).unwrap_or_default();
    if matches!(state, "Succeeded" | "Failed") || matches!(completed, "True" | "False") {
        return None;
    }
    let waits = [Phase::ImagesPreloading, Phase::ImagesPreloaded, Phase::Succeeded].map(Phase::as_str);
    let nodes = upgrade.at("/status/nodeStatuses").and_then(Value::as_object).into_iter().flatten();
    let states = nodes.map(|(node, status)| (node, text(status, "/state")));
    let busy = states.filter(|(_, state)| !state.is_empty() && !waits.contains(state));
    let busy: Vec<String> = busy.take(MOST_NODES).map(|(node, state)| format!("{node} {state}")).collect();
    let busy = if busy.is_empty() { String::new() } else { format!(": {}", busy.join(", ")) };
    Some(format!(
        "Upgrade {}/{} is under way ({state}{busy}); it is not played: what it has cordoned, tainted or shut down stays so, and nodes \
         that are through with it are upgraded again",
        namespace(upgrade),
        name(upgrade),
    ))
}
