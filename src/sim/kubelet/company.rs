//! Whom a pod may be near: kube-scheduler's filter `InterPodAffinity`, by what pods require; what they would merely like better is not
//! played. A pod keeps off those whom it wants to be apart from, and off those who want to be apart from it.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::sim::fields::{At as _, HOSTNAME, is_final, label, list, name, namespace, text, uid};
use crate::sim::view::{Entry, Kind, View, apart_terms, is_of_own_guest, together_terms, vmi_of_pod};

use super::schedule::holds;

/// What a pod asks of the company of others, read once for all nodes.
pub(super) struct Company<'a> {
    view: &'a View,
    pod: &'a Value,
    /// Where somebody is whom it must be apart from: nodes that share a label.
    barred: OnceCell<BTreeSet<Domain<'a>>>,
    /// Where those are whom it wants to be with.
    near: OnceCell<BTreeSet<Domain<'a>>>,
}

/// A label of nodes and its value.
type Domain<'a> = (&'a str, &'a str);

impl<'a> Company<'a> {
    pub(super) fn of(view: &'a View, pod: &'a Value) -> Self {
        Self { view, pod, barred: OnceCell::new(), near: OnceCell::new() }
    }

    /// The scheduler's word for what keeps the pod off a node because of who is where.
    pub(super) fn misfit(&self, node: &Value) -> Option<&'static str> {
        if !self.has_those_it_needs(node) {
            return Some("node(s) didn't match pod affinity rules");
        }
        if apart_terms(self.pod).iter().any(|term| self.keeps_off(term, node)) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        self.is_kept_off(node).then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }

    /// The first of a group may be anywhere.
    fn has_those_it_needs(&self, node: &Value) -> bool {
        let terms = together_terms(self.pod);
        if terms.is_empty() {
            return true;
        }
        let near = self.near.get_or_init(|| self.all_near(terms));
        let own = |term: &'a Value| {
            let topology = text(term, "/topologyKey");
            domain(node, topology).map(|value| near.contains(&(topology, value)))
        };
        let is_first = || near.is_empty() && terms.iter().all(|term| self.is_meant(term, self.pod));
        terms.iter().all(|term| own(term).is_some())
            && (terms.iter().all(|term| own(term) == Some(true)) || is_first())
    }

    /// Only who meets all terms counts for any of them.
    fn all_near(&self, terms: &'a [Value]) -> BTreeSet<Domain<'a>> {
        let there = everywhere(self.view)
            .filter(|(other, _)| terms.iter().all(|term| self.is_meant(term, &other.object)));
        there.flat_map(|(_, node)| terms.iter().filter_map(|term| place(node, term))).collect()
    }

    /// Whether the pod itself wants to be apart from somebody there.
    fn keeps_off(&self, term: &'a Value, node: &Value) -> bool {
        let topology = text(term, "/topologyKey");
        if topology != HOSTNAME {
            let barred = self.barred.get_or_init(|| self.all_barred());
            return domain(node, topology).is_some_and(|value| barred.contains(&(topology, value)));
        }
        // Migrations keep away from their own VMI: its few pods are looked at, not all of the node.
        if let Some(vmi) = vmi_of_pod(self.pod).filter(|_| is_of_own_guest(term, self.pod)) {
            let mut own = self.view.owned(Kind::Pod, &vmi);
            return own.any(|other| other.filed.node == name(node) && self.is_foe(term, other));
        }
        self.view.on(Kind::Pod, name(node)).any(|other| self.is_foe(term, other))
    }

    fn all_barred(&self) -> BTreeSet<Domain<'a>> {
        let terms = apart_terms(self.pod).iter().filter(|term| text(term, "/topologyKey") != HOSTNAME);
        let terms: Vec<&Value> = terms.collect();
        let met = |other: &'a Entry| terms.iter().copied().filter(|term| self.is_foe(term, other));
        everywhere(self.view)
            .flat_map(|(other, node)| met(other).filter_map(|term| place(node, term)).collect::<Vec<_>>())
            .collect()
    }

    fn is_foe(&self, term: &Value, other: &Entry) -> bool {
        !is_final(&other.object) && uid(&other.object) != uid(self.pod) && self.is_meant(term, &other.object)
    }

    /// Whether somebody who is there already wants to be apart from the pod.
    fn is_kept_off(&self, node: &Value) -> bool {
        self.view.keeping_off(name(node)).any(|other| {
            let host = self.view.node(&other.filed.node).map(|host| &*host.object);
            let terms = apart_terms(&other.object).iter();
            let mut near = terms.filter(|term| {
                let here = place(node, term);
                here.is_some() && here == host.and_then(|host| place(host, term))
            });
            near.any(|term| is_about(term, &other.object, self.pod))
        })
    }

    fn is_meant(&self, term: &Value, other: &Value) -> bool {
        is_about(term, self.pod, other)
    }
}

/// All pods that have a place and have not ended, each with its node.
fn everywhere(view: &View) -> impl Iterator<Item = (&Entry, &Value)> {
    view.all(Kind::Node).flat_map(|(_, node)| {
        let there = view.on(Kind::Pod, name(&node.object)).filter(|pod| !pod.filed.ended);
        there.map(|pod| (pod, &*node.object))
    })
}

/// Where a node is by the topology of a term.
fn place<'a>(node: &'a Value, term: &'a Value) -> Option<Domain<'a>> {
    let topology = text(term, "/topologyKey");
    domain(node, topology).map(|value| (topology, value))
}

/// Where a node is in a topology: nowhere without its label. One without a host name is a place of its own all the same.
pub(super) fn domain<'a>(node: &'a Value, topology: &str) -> Option<&'a str> {
    label(node, topology).or_else(|| (topology == HOSTNAME).then(|| name(node)))
}

/// Whether a term of one pod is about another.
fn is_about(term: &Value, own: &Value, other: &Value) -> bool {
    is_in(term, namespace(own), namespace(other)) && is_picked(term, own, other)
}

/// Whether it is about pods in a namespace: its own pod's, unless it says more. Namespaces have no labels here that a selector could
/// go by.
fn is_in(term: &Value, own: &str, other: &str) -> bool {
    let named = list(term, "/namespaces");
    let selects = term.at("/namespaceSelector").is_some_and(|selector| !selector.is_null());
    selects || if named.is_empty() { own == other } else { named.iter().any(|one| one == other) }
}

/// Whether the `labelSelector` of a term or a constraint picks a pod: none at all picks nobody, an empty one everybody. The keys
/// beside it stand for the values that the term's own pod has.
pub(super) fn is_picked(term: &Value, own: &Value, other: &Value) -> bool {
    let Some(selector) = term.at("/labelSelector").filter(|selector| selector.is_object()) else {
        return false;
    };
    let equal = selector.at("/matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut equal = equal.map(|(key, value)| label(other, key) == value.as_str());
    let like_own = |keys: &str, wanted: bool| {
        let mut known =
            list(term, keys).iter().filter_map(Value::as_str).filter(|key| label(own, key).is_some());
        known.all(|key| (label(own, key) == label(other, key)) == wanted)
    };
    equal.all(|is_equal| is_equal)
        && list(selector, "/matchExpressions").iter().all(|e| holds(e, label(other, text(e, "/key"))))
        && like_own("/matchLabelKeys", true)
        && like_own("/mismatchLabelKeys", false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_term_is_about_its_own_pods_namespace_unless_it_says_more() {
        let table = [
            (json!({}), "a", true),
            (json!({}), "b", false),
            (json!({"namespaces": ["b"]}), "b", true),
            (json!({"namespaces": ["b"]}), "a", false),
            (json!({"namespaceSelector": {}}), "b", true),
            (json!({"namespaceSelector": null}), "b", false),
        ];
        for (term, other, expected) in table {
            assert_eq!(is_in(&term, "a", other), expected, "{term} {other}");
        }
    }
}
