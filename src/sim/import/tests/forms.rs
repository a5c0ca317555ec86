//! The forms in which objects come, and files that hold something else.

use std::path::Path;

use serde_json::{Value, json};

use super::super::{Import, LARGEST_FILE, check_size, read, read_all};
use super::{EXAMPLE, NODE, VM, VMI, read_text, refusal, refuses, stream};

fn as_json() -> Value {
    serde_saphyr::from_str(EXAMPLE).unwrap()
}

fn kinds(text: &str) -> Vec<String> {
    let objects = read_text(text).unwrap().objects;
    objects.iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_example_is_read_without_a_complaint() {
    let imported = read_text(EXAMPLE).unwrap();
    let count = |kind| imported.objects.iter().filter(|object| object["kind"] == kind).count();
    assert_eq!(
        (count("Node"), count("VirtualMachine"), count("VirtualMachineInstance")),
        (4, 5, 4),
        "Longhorn has Nodes too"
    );
    assert_eq!(imported.ignored, ["StorageClass (storage.k8s.io): 1"]);
    assert_eq!(imported.warnings, Vec::<String>::new());
}

#[test]
fn every_form_gives_the_same_objects() {
    let list = read_text(EXAMPLE).unwrap().objects;
    let items = as_json()["items"].as_array().unwrap().clone();
    let yaml: Vec<String> = items.iter().map(|item| serde_saphyr::to_string(item).unwrap()).collect();
    let yaml: Vec<&str> = yaml.iter().map(String::as_str).collect();
    let lines: Vec<String> = items.iter().map(Value::to_string).collect();
    let forms = [
        ("JSON", serde_json::to_string_pretty(&as_json()).unwrap()),
        ("a stream of JSON", lines.join("\n")),
        ("a stream of YAML", stream(&yaml)),
        ("JSON between marks", lines.join("\n---\n")),
        ("lines of Windows", EXAMPLE.replace('\n', "\r\n")),
        ("a byte order mark", format!("\u{feff}{EXAMPLE}")),
        ("comments", format!("# of cluster A\n%YAML 1.2\n---\n{EXAMPLE}...\n# end\n")),
    ];
    for (form, text) in forms {
        let imported = read_text(&text).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(imported.objects, list, "{form}");
        assert_eq!(imported.warnings, Vec::<String>::new(), "{form}");
    }
}

#[test]
fn forms_may_be_mixed_in_one_file() {
    let mut pods = json!({"apiVersion": "v1", "kind": "PodList", "items": [
        {"metadata": {"name": "p", "namespace": "default"}, "status": {"phase": "Running"}}]});
    let text = format!("{NODE}---\n{pods}\n---\napiVersion: v1\nitems: []\nkind: List\n---\n{VM}...\n");
    assert_eq!(kinds(&text), ["Node", "Pod", "VirtualMachine"]);
    pods["items"] = Value::Null;
    assert_eq!(kinds(&format!("{NODE}---\n{pods}\n")), ["Node"]);
}

#[test]
fn several_files_make_one_cluster() {
    let imported = read_all([
        (Path::new("nodes.yaml"), NODE.as_bytes()),
        (Path::new("vms.yaml"), stream(&[VM, VMI]).as_bytes()),
    ])
    .unwrap();
    assert_eq!(imported.objects.len(), 3);
    let twice = [(Path::new("a.yaml"), NODE.as_bytes()), (Path::new("b.yaml"), NODE.as_bytes())];
    let message = read_all(twice).unwrap_err().to_string();
    assert_eq!(
        message,
        "b.yaml, document 1, line 1 (Node node1) is in a.yaml, document 1, line 1 (Node node1) as well; \
         leave one of them out"
    );
}

#[test]
fn what_is_confidential_or_useless_is_never_kept() {
    let secret = "apiVersion: v1\ndata:\n  token: aHVudGVyMg==\nkind: Secret\nmetadata:\n  name: s\n  namespace: default\n";
    let node = NODE
        .replace("metadata:\n", "metadata:\n  managedFields: [{manager: hunter2}]\n")
        .replace("status:\n", "status:\n  images:\n  - names: [hunter2/image]\n");
    let disk =
        "      volumes:\n      - cloudInitNoCloud:\n          userData: hunter2\n        name: cloud\n";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"}}, "status": {"phase": "Running"},
        "spec": {"containers": [{"name": "c", "env": [{"name": "PASSWORD", "value": "hunter2"}]}]}});
    let text = stream(&[secret, &node, &format!("{VM}{disk}"), &format!("{pod}\n")]);
    let imported = read_text(&text).unwrap();
    assert_eq!(imported.ignored, ["Secret: 1"]);
    let kept = format!("{imported:?}");
    assert!(!kept.contains("hunter2") && !kept.contains("aHVudGVyMg"), "{kept}");
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let file = Path::new("cluster.yaml");
    check_size(file, LARGEST_FILE).unwrap();
    let message = check_size(file, LARGEST_FILE + 1).unwrap_err().to_string();
    for part in ["cluster.yaml", "65 MiB", "64 MiB", "leave out kinds or namespaces", "--cluster"] {
        assert!(message.contains(part), "{message}");
    }
    let mut import = Import::default();
    let spaces = [NODE.as_bytes(), vec![b'\n'; usize::try_from(LARGEST_FILE).unwrap()].as_slice()].concat();
    assert!(import.add(file, &spaces).is_err());
}

#[test]
fn other_files_are_called_what_they_are() {
    let cases = [
        ("", "there is nothing in the file"),
        (" \n\n", "there is nothing in the file"),
        ("# nothing\n---\n", "there is no Node in it"),
        (
            "replicaCount: 1\nimage:\n  tag: x\n",
            "has no kind, so it is no Kubernetes object; its keys are image, replicaCount",
        ),
        ("<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "this is a web page"),
        (
            "error: the server doesn't have a resource type \"vm\"\n",
            "message of kubectl (\"error: the server doesn't",
        ),
        ("Error from server (Forbidden): nodes is forbidden\n", "message of kubectl"),
        ("No resources found\n", "message of kubectl"),
        ("E1121 06:22:47.123456    4711 memcache.go:265] couldn't get\n", "this is a log"),
        ("NAME    STATUS   ROLES\nnode1   Ready    etcd\n", "-o yaml"),
        ("2026-11-21T06:22:47Z INFO starting: now\nmore: x: y\n", "it has no apiVersion"),
        ("just a line of text\n", "this is plain text, not a Kubernetes object"),
        (
            "upgradeName: a\nnodeName: node1\nrke2: {from: v1, to: v2}\n",
            "this is a plan of one node; give it to plan",
        ),
        ("apiVersion: v1\nkind: Config\nclusters: []\nusers: []\n", "this is a kubeconfig"),
        (
            "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"message\":\"forbidden\"}",
            "answer of the API server, \"forbidden\"",
        ),
        ("{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"rows\":[]}", "export again with -o yaml"),
        ("{\"level\":\"info\",\"msg\":\"up\"}\n{\"level\":\"info\"}\n", "has no kind"),
        ("[1, 2]\n", "a list without a kind"),
        ("- a\n", "a list without a kind"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "no Node in it; not used: ConfigMap: 1"),
    ];
    for (text, part) in cases {
        refuses(text, &[part, ";"]);
    }
    let warned = format!("Warning: kubevirt.io/v1 is deprecated\n{EXAMPLE}");
    refuses(&warned, &["a warning of kubectl", "without 2>&1"]);
}

#[test]
fn bytes_that_are_no_text_are_told_apart() {
    let utf16: Vec<u8> = "\u{feff}apiVersion: v1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&[u8], &str); 5] = [
        (b"\x1f\x8b\x08\0\0", "gunzip"),
        (b"PK\x03\x04", "zip"),
        (&utf16, "UTF-16; PowerShell"),
        (b"apiVersion: v1\nkind: No\xffde\n", "cluster.yaml, line 2: this is not UTF-8"),
        (b"apiVersion: v1\n\n\0kind: Node\n", "cluster.yaml, line 3: a NUL byte"),
    ];
    for (bytes, part) in cases {
        let message = read(Path::new("cluster.yaml"), bytes).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("cluster.yaml"), "{message}");
    }
}

#[test]
fn guests_need_their_node() {
    let elsewhere = VMI.replace("node1", "node9");
    assert_eq!(
        refusal(&stream(&[NODE, VM, &elsewhere])),
        "cluster.yaml, document 3, line 24 (VirtualMachineInstance default/db), status.nodeName: there is no Node node9 \
         in the files; export nodes too, as docs/rehearse.md shows"
    );
    let gone = elsewhere.replace("phase: Running", "phase: Succeeded");
    assert!(read_text(&stream(&[NODE, VM, &gone])).is_ok());
    refuses(&stream(&[VM, VMI]), &["there is no Node in it", "export nodes too"]);
    // Who is on a node is asked for by the label, which nobody but KubeVirt can change.
    let unlabelled = VMI.replace("  labels: {kubevirt.io/nodeName: node1}\n", "");
    refuses(
        &stream(&[NODE, VM, &unlabelled]),
        &[
            "(VirtualMachineInstance default/db)",
            "metadata.labels[kubevirt.io/nodeName]",
            "\"node1\", its status.nodeName",
        ],
    );
    let done = unlabelled.replace("phase: Running", "phase: Succeeded");
    assert!(read_text(&stream(&[NODE, VM, &done])).is_ok());
}

#[test]
fn what_only_looks_odd_is_a_warning() {
    let replica = "apiVersion: longhorn.io/v1beta2\nkind: Replica\nmetadata: {name: r, namespace: longhorn-system}\n\
        spec: {volumeName: v, nodeID: node7}\n";
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: other, namespace: default}\n";
    let disk = "      volumes:\n      - name: a\n        persistentVolumeClaim:\n          claimName: lost\n";
    let vm = format!("{VM}{disk}");
    let warnings = read_text(&stream(&[NODE, &vm, replica, claim])).unwrap().warnings.join("\n");
    for part in [
        "VirtualMachine default/db should run but has no VirtualMachineInstance",
        "PersistentVolumeClaim default/lost is a disk",
        "Replica longhorn-system/r belongs to a Longhorn volume that is not in the files",
        "Replica longhorn-system/r is on a node that is not in the files",
        "there is no Longhorn volume",
        "there is no KubeVirt",
    ] {
        assert!(warnings.contains(part), "{part} is not in:\n{warnings}");
    }
    assert!(read_text(NODE).unwrap().warnings.iter().any(|warning| warning.contains("no VirtualMachine")));
}

#[test]
fn a_guest_is_its_vms_own_by_uid() {
    let warns = |text: &str| {
        let warnings = read_text(text).unwrap().warnings;
        warnings.into_iter().find(|one| one.contains("nothing starts it again"))
    };
    assert_eq!(warns(EXAMPLE), None);
    let other = EXAMPLE.replacen("uid: cee73b3d-7e5e-4c95-8580-baa150d5af4c", "uid: another", 1);
    let warning = warns(&other).unwrap();
    assert!(
        warning.contains("VirtualMachineInstance default/app-1 belongs to no VirtualMachine"),
        "{warning}"
    );
    let loose = EXAMPLE.replacen("controller: true", "controller: false", 1);
    assert!(warns(&loose).is_some());
}

#[test]
fn a_guest_of_something_else_than_a_vm_is_told_with_its_owner() {
    let owned = |kind: &str| {
        let owner =
            format!("{{apiVersion: kubevirt.io/v1, kind: {kind}, name: web, uid: u, controller: true}}");
        let vmi = VMI.replace("  name: db\n", &format!("  name: web-x\n  ownerReferences: [{owner}]\n"));
        let warnings = read_text(&stream(&[NODE, &vmi])).unwrap().warnings;
        warnings
            .into_iter()
            .filter(|one| one.contains("VirtualMachineInstance default/web-x"))
            .collect::<Vec<_>>()
    };
    let of_set = owned("VirtualMachineInstanceReplicaSet");
    assert_eq!(
        of_set,
        [
            "cluster.yaml: VirtualMachineInstance default/web-x of VirtualMachineInstanceReplicaSet web is no VM's: what makes \
          guests anew there is not rehearsed, so nothing starts it again"
        ]
    );
    assert!(owned("VirtualMachine")[0].contains("belongs to no VirtualMachine in the files"));
}
