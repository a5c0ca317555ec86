//! Fields of the wrong type, missing ones, versions, and what the parsers refuse.

use super::{EXAMPLE, NODE, VM, VMI, read_text, refusal, refuses, stream};

#[test]
fn a_fault_names_document_object_field_cause_and_cure() {
    let vm = VM.replace("2Gi", "2Gx");
    assert_eq!(
        refusal(&stream(&[NODE, VMI, &vm])),
        "cluster.yaml, document 3, line 25 (VirtualMachine default/db), spec.template.spec.domain.memory.guest: \"2Gx\" \
         is no quantity; export the file again with kubectl"
    );
    let in_list = EXAMPLE.replacen("guest: 8Gi", "guest: [8Gi]", 1);
    refuses(
        &in_list,
        &["cluster.yaml, document 1, item 8, line ", "(VirtualMachine default/db)", "a list is no quantity"],
    );
}

/// In NODE, VM or VMI, `from` becomes `to`: the message has these parts.
#[test]
fn wrong_fields_are_named() {
    let cases: [(&str, &str, &str, &str); 24] = [
        (NODE, "  name: node1\n", "  uid: a\n", "(Node), metadata.name: it is missing"),
        (NODE, "name: node1", "name: 17", "metadata.name: 17 is no text"),
        (NODE, "name: node1", "name: \"\"", "metadata.name: \"\" is no name that Kubernetes takes"),
        (
            NODE,
            "  name: node1\n",
            "  name: node1\n  creationTimestamp: soon\n",
            "metadata.creationTimestamp: failed to parse",
        ),
        (
            NODE,
            "status:\n",
            "status:\n  addresses: 3\n",
            "(Node node1), status.addresses: invalid type: integer `3`",
        ),
        (
            VM,
            "        memory:\n",
            "        cpu:\n          cores: 99999999999999999999\n        memory:\n",
            "is no whole number",
        ),
        (NODE, "metadata:\n  name: node1\n", "metadata: x\n", "metadata: \"x\" is no mapping"),
        (NODE, "  name: node1\n", "  name: node1\n  labels:\n    a: 1\n", "metadata.labels.a: 1 is no text"),
        (NODE, "  name: node1\n", "  name: node1\n  labels: [a]\n", "metadata.labels: a list is no mapping"),
        (NODE, "memory: 64Gi", "memory: lots", "status.allocatable.memory: \"lots\" is no quantity"),
        (NODE, "memory: 64Gi", "memory: -1", "status.allocatable.memory: -1 is no quantity"),
        (NODE, "  allocatable:\n    memory: 64Gi\n", "", "status.allocatable: it is missing"),
        (NODE, "status:\n", "status:\n  conditions: {}\n", "status.conditions: a mapping is no list"),
        (
            NODE,
            "status:\n",
            "status:\n  conditions: [{type: a}]\n",
            "status.conditions[0].status: it is missing",
        ),
        (
            NODE,
            "  nodeInfo:\n    kubeletVersion: v1.34.2+rke2r1\n",
            "",
            "status.nodeInfo.kubeletVersion: it is missing",
        ),
        (NODE, "apiVersion: v1", "apiVersion: v2", "apiVersion: v2 is not read, only version v1"),
        (NODE, "apiVersion: v1\n", "", "apiVersion: it is missing"),
        (NODE, "kind: Node\n", "", "kind: it is missing"),
        (VM, "  namespace: default\n", "", "(VirtualMachine db), metadata.namespace: it is missing"),
        (VM, "  runStrategy: Always\n", "", "spec.runStrategy: it is missing, and spec.running too"),
        (VM, "Always", "Sometimes", "spec.runStrategy: \"Sometimes\" is not one of Always, "),
        (VMI, "phase: Running", "phase: 3", "status.phase: 3 is not one of"),
        (VMI, "  phase: Running\n", "", "status.phase: it is missing"),
        (VMI, "  nodeName: node1\n", "", "status.nodeName: it is missing although the guest is Running"),
    ];
    for (object, from, to, part) in cases {
        assert!(object.contains(from), "{from:?}");
        refuses(&stream(&[&object.replacen(from, to, 1)]), &["document 1", part, "; export"]);
    }
    let without_template = VM.split("  template").next().unwrap();
    refuses(&stream(&[without_template]), &["spec.template: it is missing"]);
}

#[test]
fn the_old_name_of_kubevirts_version_is_known() {
    let old = VM.replace("kubevirt.io/v1", "kubevirt.io/v1alpha3");
    assert_eq!(read_text(&stream(&[NODE, &old])).unwrap().objects.len(), 2);
    let foreign = "apiVersion: management.cattle.io/v3\nkind: Node\nmetadata: {name: m}\n";
    assert_eq!(read_text(&stream(&[NODE, foreign])).unwrap().ignored, ["Node (management.cattle.io): 1"]);
}

#[test]
fn an_order_of_the_agent_is_read_as_the_agent_reads_it() {
    let order = "apiVersion: agent.harvesterhci.io/v1alpha1\nkind: NodeUpgrade\nmetadata: {name: u, namespace: h}\n\
        spec: {upgradeName: u, upgradeUID: 0}\n";
    refuses(&stream(&[NODE, order]), &["(NodeUpgrade h/u), spec.upgradeUID: invalid type"]);
}

#[test]
fn what_parsers_refuse_is_told_with_its_line() {
    let cases = [
        (VM.replace("  name: db\n", "  name: db\n  name: db\n"), "line 5", "the key name is there twice"),
        (VM.replace("  name: db\n", "\tname: db\n"), "line 4", "YAML"),
        (VM.replace("guest: 2Gi", "guest: [2Gi"), "document 1", "cut short?"),
        (VM.replace("kind: VirtualMachine", "kind: \"VirtualMachine"), "document 1", "YAML"),
        (VM.replace("guest: 2Gi", "guest: 1e999"), "line 12", "1e999"),
        (VM.replace("guest: 2Gi", "guest: &a 2Gi"), "line 12", "write their contents out"),
        (VM.replace("guest: 2Gi", "<<: {a: 1}"), "line 12", "write their contents out"),
    ];
    for (text, line, part) in cases {
        refuses(&text, &["document 1", line, part]);
    }
    let json = r#"{"apiVersion":"v1","kind":"Node","#;
    for (rest, part) in [
        (r#""metadata":{"name":"a","name":"b"}}"#, "the key name is there twice"),
        (r#""kind":"Node"}"#, "the key kind is there twice"),
        (r#""a":1e999}"#, "number out of range"),
        (r#""a":"#, "the file was cut short"),
        (r#""a":tru}"#, "JSON"),
    ] {
        refuses(&format!("{json}{rest}"), &["document 1", "line 1", part]);
    }
}

#[test]
fn texts_that_look_like_something_else_stay_what_kubectl_wrote() {
    let node = NODE.replace(
        "  name: node1\n",
        "  name: node1\n  labels:\n    a: on\n    b: \"true\"\n    c: \"12e3\"\n    d: 2026-01-01\n    e: 1.2.3\n",
    );
    let labels = &read_text(&stream(&[&node])).unwrap().objects[0]["metadata"]["labels"];
    assert_eq!(labels.to_string(), r#"{"a":"on","b":"true","c":"12e3","d":"2026-01-01","e":"1.2.3"}"#);
}

#[test]
fn longhorn_keeps_its_objects_in_one_place() {
    let elsewhere = EXAMPLE.replacen("namespace: longhorn-system", "namespace: longhorn", 1);
    refuses(
        &elsewhere,
        &["metadata.namespace", "\"longhorn\" is not longhorn-system, where Longhorn keeps its objects"],
    );
}

#[test]
fn quantities_that_are_numbers_are_read_as_kubernetes_reads_them() {
    let node = NODE.replace(
        "    memory: 64Gi\n",
        "    memory: 68719476736\n    nvidia.com/A10: 1\n    cpu: 31.5\n    pods: 2e99\n",
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: default}\nstatus: {phase: Running}\n\
        spec:\n  overhead: {cpu: 1}\n  containers:\n  - name: c\n    resources: {requests: {memory: 1024, cpu: 100m}}\n";
    let vm = VM.replace("2Gi", "2147483648");
    let objects = read_text(&stream(&[&node, pod, &vm])).unwrap().objects;
    let texts = |object: usize, pointer: &str| objects[object].pointer(pointer).unwrap().to_string();
    assert_eq!(
        texts(0, "/status/allocatable"),
        r#"{"cpu":"31.5","memory":"68719476736","nvidia.com/A10":"1","pods":"2e+99"}"#
    );
    assert_eq!(texts(1, "/spec/containers/0/resources/requests"), r#"{"cpu":"100m","memory":"1024"}"#);
    assert_eq!(texts(1, "/spec/overhead/cpu"), r#""1""#);
    assert_eq!(texts(2, "/spec/template/spec/domain/memory/guest"), r#""2147483648""#);
}

#[test]
fn names_that_kubernetes_cannot_have_are_refused() {
    for (name, shown) in [
        ("Web_0", "Web_0"),
        ("a/b", "a/b"),
        ("a?b", "a?b"),
        ("a%2e", "a%2e"),
        ("\"web-\\u202e0\"", "web-\\u{202e}0"),
        ("\"h\\e[31mst1\"", "h\\u{1b}[31mst1"),
    ] {
        let vm = VM.replace("name: db", &format!("name: {name}"));
        let told =
            format!("(VirtualMachine), metadata.name: \"{shown}\" is no name that Kubernetes takes; export");
        refuses(&stream(&[NODE, &vm]), &["document 2", &told]);
    }
    let elsewhere = VM.replace("namespace: default", "namespace: team.a");
    refuses(
        &stream(&[NODE, &elsewhere]),
        &[
            "(VirtualMachine db), metadata.namespace: \"team.a\" is no name of a namespace that Kubernetes takes",
        ],
    );
    assert!(read_text(&stream(&[&NODE.replace("name: node1", "name: 10.0.0.1")])).is_ok());
}

#[test]
fn what_only_the_agents_types_refuse_is_told_with_its_field_too() {
    let time = VMI.replace("  name: db\n", "  name: db\n  creationTimestamp: 20x5-11-20T08:15:00Z\n");
    refuses(&stream(&[NODE, VM, &time]), &["default/db), metadata.creationTimestamp: failed to parse"]);
    let taints = NODE.replace(
        "status:\n",
        "spec:\n  taints:\n  - {key: a, effect: NoSchedule}\n  - {key: b, effect: NoSchedule, value: 3}\nstatus:\n",
    );
    refuses(&stream(&[&taints]), &["(Node node1), spec.taints[1].value: invalid type: integer `3`"]);
}

#[test]
fn a_field_that_is_null_is_not_there() {
    let null = VM.replace("  runStrategy: Always\n", "  runStrategy: Always\n  running: null\n");
    assert!(read_text(&stream(&[NODE, &null])).is_ok());
    let guest = VMI.replace("  domain:\n", "  nodeSelector: null\n  domain:\n    devices: {disks: null}\n");
    let node = NODE.replace("status:\n", "spec:\n  taints: null\nstatus:\n  images: null\n");
    assert_eq!(
        read_text(&stream(&[&node, VM, &guest])).map(|_| ()).map_err(|error| error.to_string()),
        Ok(())
    );
    let neither = null.replace("Always", "null");
    refuses(&stream(&[NODE, &neither]), &["spec.runStrategy: it is missing, and spec.running too"]);
}
