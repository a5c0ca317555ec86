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

    pub(super) fn subscribe(self, server: &ApiServer) -> Subscription {
        let (group, plural) = match self {
            Self::Instance => ("kubevirt.io", "virtualmachineinstances"),
            Self::Node => ("", "nodes"),
            Self::Order => ("agent.harvesterhci.io", "nodeupgrades"),
            Self::Upgrade => ("harvesterhci.io", "upgrades"),
        };
        server.subscribe(group, plural)
    }
}
