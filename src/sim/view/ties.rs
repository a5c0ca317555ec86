//! What pods ask of the company of other pods: required affinity and anti-affinity, and constraints that keep them off nodes.

use serde_json::Value;

use crate::sim::fields::{CREATED_BY, HOSTNAME, label, list, text};

/// How a pod is tied to others: few are, and the scheduler looks at those alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sim) enum Ties {
    #[default]
    None,
    /// It keeps others off its node.
    OwnNode,
    /// It keeps others off a wider place as well.
    Farther,
    /// It has no node, and whether one takes it depends on where others are.
    Seeks,
}

impl Ties {
    /// Of a pod that has not ended.
    pub(super) fn of(pod: &Value, is_bound: bool) -> Self {
        if !is_bound {
            let seeks = !together_terms(pod).is_empty() || spread_terms(pod).next().is_some();
            return if seeks { Self::Seeks } else { Self::None };
        }
        // The pods of one VMI all say so themselves.
        let mut apart = apart_terms(pod).iter().filter(|term| !is_of_own_guest(term, pod)).peekable();
        match (apart.peek().is_none(), apart.all(|term| text(term, "/topologyKey") == HOSTNAME)) {
            (true, _) => Self::None,
            (false, true) => Self::OwnNode,
            (false, false) => Self::Farther,
        }
    }
}

/// Whom a pod must be apart from.
pub(in crate::sim) fn apart_terms(pod: &Value) -> &[Value] {
    list(pod, "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution")
}

/// Whom a pod has to be with.
pub(in crate::sim) fn together_terms(pod: &Value) -> &[Value] {
    list(pod, "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution")
}

/// How evenly a pod and others have to be spread; a constraint that only says `ScheduleAnyway` keeps nobody off.
pub(in crate::sim) fn spread_terms(pod: &Value) -> impl Iterator<Item = &Value> {
    let all = list(pod, "/spec/topologySpreadConstraints").iter();
    all.filter(|term| matches!(text(term, "/whenUnsatisfiable"), "" | "DoNotSchedule"))
}

/// Whether a term keeps a pod off the nodes of its own VMI's other pods: that of every target of a migration.
pub(in crate::sim) fn is_of_own_guest(term: &Value, pod: &Value) -> bool {
    let guest = label(pod, CREATED_BY);
    let named = term.get("labelSelector").and_then(|all| all.get("matchLabels")?.get(CREATED_BY)?.as_str());
    guest.is_some() && guest == named && text(term, "/topologyKey") == HOSTNAME
}
