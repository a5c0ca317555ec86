//! Where pods land, and the scheduler's word where they do not.

use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::sim::object::Object;

const ALONE: &str = "app=quorum";
const HOST: &str = "kubernetes.io/hostname";

/// Namespace, node, label and spec of a pod that is there.
type There<'a> = (&'a str, &'a str, &'a str, Value);

/// Three nodes, the first in a zone of its own, with these pods on them, and where one more goes; of the message that it has no
/// place, what keeps it off.
fn placed(there: &[There<'_>], (label, spec): (&str, Value)) -> String {
    let mut view = View::default();
    let now = Instant::now();
    for (node, zone) in [("node1", "a"), ("node2", "b"), ("node3", "b")] {
        let node = json!({"metadata": {"name": node, "uid": node, "resourceVersion": "1",
                "labels": {"kubernetes.io/hostname": node, "zone": zone}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        view.store(Kind::Node, Object::of(node), now);
    }
    let pod = |namespace: &str, name: &str, label: &str, spec: &Value| {
        let (key, value) = label.split_once('=').unwrap();
        json!({"metadata": {"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1",
            "labels": {key: value}}, "spec": spec})
    };
    for (number, (namespace, node, label, spec)) in there.iter().enumerate() {
        let mut pod = pod(namespace, &format!("pod{number}"), label, spec);
        pod["spec"]["nodeName"] = json!(node);
        view.store(Kind::Pod, Object::of(pod), now);
    }
    let new = pod("default", "new", label, &spec);
    let key = Key::of(&new);
    view.store(Kind::Pod, Object::of(new), now);
    match place(&view, view.entry(Kind::Pod, &key).unwrap()) {
        Ok(node) => node,
        Err(message) => message.trim_start_matches("0/3 nodes are available: ").to_owned(),
    }
}

fn required(kind: &str, topology: &str, more: &Value) -> Value {
    let mut term = json!({"topologyKey": topology});
    fields::merge(&mut term, more);
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn apart(topology: &str, more: &Value) -> Value {
    required("podAntiAffinity", topology, more)
}

fn together(topology: &str, more: &Value) -> Value {
    required("podAffinity", topology, more)
}

fn expression(operator: &str, values: &[&str]) -> Value {
    json!({"labelSelector": {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}})
}

/// One on each of these nodes, and a crowd on the third.
fn there(nodes: &[&'static str], spec: &Value) -> Vec<There<'static>> {
    let crowd = (0..4).map(|_| ("kube-system", "node3", "a=b", json!({})));
    crowd.chain(nodes.iter().map(|node| ("default", *node, ALONE, spec.clone()))).collect()
}

#[test]
fn pods_that_must_be_apart_are() {
    let any = || json!({});
    let labels = json!({"labelSelector": {"matchLabels": {"app": "quorum"}}});
    let elsewhere = json!({"labelSelector": {"matchLabels": {"app": "quorum"}}, "namespaces": ["other"]});
    let own = "3 node(s) didn't match pod anti-affinity rules.";
    let existing = "3 node(s) didn't satisfy existing pods anti-affinity rules.";
    // Those who are there are on node1 and node2, and whoever need not be apart from them goes to one of these.
    for (what, of_others, of_new, expected) in [
        ("nobody", any(), any(), "node1"),
        ("by labels", any(), apart(HOST, &labels), "node3"),
        ("in", any(), apart(HOST, &expression("In", &["quorum", "other"])), "node3"),
        ("in others", any(), apart(HOST, &expression("In", &["other"])), "node1"),
        ("not in", any(), apart(HOST, &expression("NotIn", &["other"])), "node3"),
        ("exists", any(), apart(HOST, &expression("Exists", &[])), "node3"),
        ("does not exist", any(), apart(HOST, &expression("DoesNotExist", &[])), "node1"),
        ("an unknown word", any(), apart(HOST, &expression("Like", &["quorum"])), "node1"),
        ("everybody of its namespace", any(), apart(HOST, &json!({"labelSelector": {}})), "node3"),
        ("no selector", any(), apart(HOST, &any()), "node1"),
        ("another namespace", any(), apart(HOST, &elsewhere), "node1"),
        ("in zones", any(), apart("zone", &labels), own),
        ("in a topology that no node has", any(), apart("rack", &labels), "node1"),
        ("they say so", apart(HOST, &labels), any(), "node3"),
        ("they say so of others", apart(HOST, &expression("In", &["other"])), any(), "node1"),
        ("they say so of racks", apart("rack", &labels), any(), "node1"),
        ("they say so of zones", apart("zone", &labels), any(), existing),
    ] {
        assert_eq!(placed(&there(&["node1", "node2"], &of_others), (ALONE, of_new)), expected, "{what}");
    }
}

#[test]
fn pods_that_must_be_together_are() {
    let cache = [("default", "node2", "app=cache", json!({}))];
    let with = |app: &str| json!({"labelSelector": {"matchLabels": {"app": app}}});
    let mut of_others = with("cache");
    of_others["namespaces"] = json!(["other"]);
    let nowhere = "3 node(s) didn't match pod affinity rules.";
    for (what, label, spec, expected) in [
        ("on its node", "app=shop", together(HOST, &with("cache")), "node2"),
        ("in its zone", "app=shop", together("zone", &with("cache")), "node3"),
        ("by an expression", "app=shop", together(HOST, &expression("In", &["cache"])), "node2"),
        ("with nobody there", "app=shop", together(HOST, &with("other")), nowhere),
        ("in another namespace", "app=shop", together(HOST, &of_others), nowhere),
        ("where no node has the label", "app=shop", together("rack", &with("cache")), nowhere),
        ("the first of its group", "app=shop", together(HOST, &with("shop")), "node1"),
        ("the second of its group", "app=cache", together(HOST, &with("cache")), "node2"),
    ] {
        assert_eq!(placed(&cache, (label, spec)), expected, "{what}");
    }
}

#[test]
fn pods_are_spread_as_their_constraints_say() {
    let spread = |more: Value| {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "quorum"}}});
        fields::merge(&mut constraint, &more);
        json!({"topologySpreadConstraints": [constraint]})
    };
    let on_node1 = |policy: &str| {
        let mut spec = spread(json!({"nodeAffinityPolicy": policy}));
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": "node1"});
        spec
    };
    let word = "node(s) didn't match pod topology spread constraints";
    let (uneven, unlabelled) = (format!("3 {word}."), format!("3 {word} (missing required label)."));
    let unselected = format!("2 node(s) didn't match Pod's node affinity/selector, 1 {word}.");
    for (what, nodes, spec, expected) in [
        ("one on each", &["node1", "node2"][..], spread(json!({})), "node3"),
        ("two are no more than two", &["node1", "node2"], spread(json!({"maxSkew": 2})), "node1"),
        (
            "if it can be",
            &["node1", "node2"],
            spread(json!({"whenUnsatisfiable": "ScheduleAnyway"})),
            "node1",
        ),
        ("of others", &["node1", "node2"], spread(json!({"labelSelector": {}})), "node3"),
        ("over zones", &["node2", "node3"], spread(json!({"topologyKey": "zone"})), "node1"),
        (
            "over more zones than there are",
            &["node1", "node2"],
            spread(json!({"topologyKey": "zone", "minDomains": 3})),
            &uneven,
        ),
        ("over what no node has", &[], spread(json!({"topologyKey": "rack"})), &unlabelled),
        ("nodes that it may not use do not count", &["node1"], on_node1("Honor"), "node1"),
        ("unless it says so", &["node1"], on_node1("Ignore"), &unselected),
    ] {
        assert_eq!(placed(&there(nodes, &json!({})), (ALONE, spec)), expected, "{what}");
    }
}

#[test]
fn a_pod_that_waits_for_company_is_looked_at_when_somebody_has_come() {
    let mut view = View::default();
    let now = Instant::now();
    let cache = json!({"labelSelector": {"matchLabels": {"app": "cache"}}});
    let pod = |name: &str, version: &str, spec: Value| {
        Object::of(json!({"metadata": {"namespace": "default", "name": name, "uid": name,
            "resourceVersion": version}, "spec": spec}))
    };
    view.store(Kind::Pod, pod("waits", "1", together(HOST, &cache)), now);
    view.store(Kind::Pod, pod("does-not", "2", apart(HOST, &cache)), now);
    let woken = view.store(Kind::Pod, pod("cache", "3", json!({"nodeName": "node1"})), now);
    let woken: Vec<&str> = woken.iter().map(|(_, key)| key.name()).collect();
    assert_eq!(woken, ["cache", "waits"]);
}
