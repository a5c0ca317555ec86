//! The kinds of objects that a judge hears of.

use crate::sim::api::{ApiServer, Subscription};

/// What the judge wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Instance,
    Node,
    Order,
    Upgrade,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Instance, Self::Node, Self::Order, Self::Upgrade];

    /// What was there before is known of instances and nodes: the judge has read them.
    pub(super) fn listen(self, server: &ApiServer) -> Subscription {
        match self {
            Self::Instance => server.follow("kubevirt.io", "virtualmachineinstances"),
            Self::Node => server.follow("", "nodes"),
            Self::Order => server.subscribe("agent.harvesterhci.io", "nodeupgrades"),
            Self::Upgrade => server.subscribe("harvesterhci.io", "upgrades"),
        }
    }
}
