//! How evenly pods are spread: kube-scheduler's filter `PodTopologySpread`, by the constraints that say `DoNotSchedule`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::company::{domain, is_picked};
use super::schedule::{is_selected, untolerated};
use crate::sim::fields::{At as _, name, namespace, text};
use crate::sim::view::{Kind, View, spread_terms};

/// A constraint of a pod, and how many of those whom it is about are where.
pub(super) struct Spread<'a> {
    topology: &'a str,
    counts: BTreeMap<&'a str, u64>,
    /// Whether the pod is one of them.
    counts_itself: bool,
    max_skew: u64,
    min_domains: u64,
}

impl<'a> Spread<'a> {
    /// All constraints of a pod that keep it off nodes.
    pub(super) fn all_of(view: &'a View, pod: &'a Value) -> Vec<Self> {
        let terms: Vec<&Value> = spread_terms(pod).collect();
        if terms.is_empty() {
            return Vec::new();
        }
        let mut all: Vec<Self> = terms.iter().map(|term| Self::of(pod, term)).collect();
        for (_, node) in view.all(Kind::Node) {
            let node = &*node.object;
            // A node that lacks any of the labels counts for none of them.
            if terms.iter().any(|term| domain(node, text(term, "/topologyKey")).is_none()) {
                continue;
            }
            for (spread, term) in all.iter_mut().zip(&terms) {
                let Some(place) = domain(node, spread.topology).filter(|_| counts(term, pod, node)) else {
                    continue;
                };
                let there = view.on(Kind::Pod, name(node)).filter(|other| {
                    let is_there = !other.filed.ended && !other.facts.is_deleting();
                    is_there
                        && namespace(&other.object) == namespace(pod)
                        && is_picked(term, pod, &other.object)
                });
                *spread.counts.entry(place).or_insert(0) += there.count() as u64;
            }
        }
        all
    }

    fn of(pod: &Value, term: &'a Value) -> Self {
        let number = |field: &str| term.at(field).and_then(Value::as_u64).unwrap_or(1);
        Self {
            topology: text(term, "/topologyKey"),
            counts: BTreeMap::new(),
            counts_itself: is_picked(term, pod, pod),
            max_skew: number("/maxSkew"),
            min_domains: number("/minDomains"),
        }
    }

    /// The scheduler's word for why the pod would make it too uneven on a node.
    pub(super) fn misfit(&self, node: &Value) -> Option<&'static str> {
        let Some(place) = domain(node, self.topology) else {
            return Some("node(s) didn't match pod topology spread constraints (missing required label)");
        };
        let too_few = (self.counts.len() as u64) < self.min_domains;
        let fewest = self.counts.values().min().copied().filter(|_| !too_few).unwrap_or(0);
        let there = self.counts.get(place).copied().unwrap_or(0) + u64::from(self.counts_itself);
        (there.saturating_sub(fewest) > self.max_skew)
            .then_some("node(s) didn't match pod topology spread constraints")
    }
}

/// Whether a node counts: by default one with the pod's labels, whatever its taints.
fn counts(term: &Value, pod: &Value, node: &Value) -> bool {
    let is_honoured = |field: &str, default: &str| match text(term, field) {
        "" => default == "Honor",
        policy => policy == "Honor",
    };
    (!is_honoured("/nodeAffinityPolicy", "Honor") || is_selected(pod, node))
        && (!is_honoured("/nodeTaintsPolicy", "Ignore") || untolerated(pod, node).is_none())
}
