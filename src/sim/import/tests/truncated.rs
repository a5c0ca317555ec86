//! Files that were cut short: an error or a warning, wherever the cut is.

use std::path::Path;

use super::super::read;
use super::{EXAMPLE, NODE, VM, VMI, stream};

/// Every cut of a text: refused with the file and the document, or read with a warning; `same` says how many bytes at
/// the end may be lost without any loss.
fn cut(text: &str, same: usize, step: usize) {
    let whole = read(Path::new("cluster.yaml"), text.as_bytes()).unwrap();
    let line_ends = text.match_indices('\n').flat_map(|(at, _)| [at, at + 1]).step_by(step.min(31));
    for at in (0..text.len()).step_by(step).chain(line_ends.filter(|at| *at < text.len())) {
        match read(Path::new("cluster.yaml"), &text.as_bytes()[..at]) {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("cluster.yaml"), "cut at {at}: {message}");
            }
            Ok(read) if at + same >= text.len() => assert_eq!(read.objects, whole.objects, "cut at {at}"),
            Ok(read) => {
                let is_told =
                    read.warnings.iter().any(|w| w.contains("cut short") || w.contains("nothing in this"));
                assert!(is_told, "cut at {at}, and nobody says so: {:?}", &text[..at].lines().last());
            }
        }
    }
}

#[test]
fn a_list_in_yaml() {
    let short = format!(
        "apiVersion: v1\nitems:\n{}kind: List\nmetadata:\n  resourceVersion: \"\"\n",
        [NODE, VM, VMI].map(|object| format!("- {}\n", object.trim_end().replace('\n', "\n  "))).concat()
    );
    let tail = "\nmetadata:\n  resourceVersion: \"\"\n".len();
    cut(&short, tail, 1);
    cut(EXAMPLE, tail, 1009);
}

#[test]
fn a_cut_list_is_always_refused() {
    let tail = EXAMPLE.rfind("kind: List").unwrap();
    for at in [tail, tail + 4, tail + 8, tail - 1, tail / 2] {
        assert!(read(Path::new("cluster.yaml"), &EXAMPLE.as_bytes()[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn single_objects_in_yaml() {
    cut(&stream(&[NODE, VM, VMI]), "...\n".len() - 3, 1);
}

#[test]
fn json() {
    let value: serde_json::Value = serde_saphyr::from_str(EXAMPLE).unwrap();
    let items = value["items"].as_array().unwrap();
    let short = serde_json::json!({"apiVersion": "v1", "items": [items[0], items[3]], "kind": "List"});
    cut(&serde_json::to_string_pretty(&short).unwrap(), 0, 1);
    cut(&format!("{value}\n"), 1, 997);
}

#[test]
fn a_cut_is_called_one() {
    let at = EXAMPLE.len() / 2;
    let message = read(Path::new("cluster.yaml"), &EXAMPLE.as_bytes()[..at]).unwrap_err().to_string();
    assert!(message.contains("cut short"), "{message}");
}

/// `kubectl … > file 2>&1`: what it could not get stands where the next field of the list would.
#[test]
fn what_kubectl_could_not_get_is_not_taken_for_a_field() {
    let list = format!(
        "apiVersion: v1\nitems:\n- {}\nkind: List\nmetadata: {{}}\n",
        NODE.trim_end().replace('\n', "\n  ")
    );
    for line in [
        "Error from server (NotFound): the server doesn't have a resource type \"upgrades\"",
        "Error from server (Forbidden): vms is forbidden: User \"x\" cannot list it",
        "error: the server doesn't have a resource type \"vmx\"",
        "Unable to connect to the server: net/http: TLS handshake timeout",
        "W1123 21:10:11.123456   11 warnings.go:70] kubevirt.io/v1alpha3 is deprecated: use v1",
    ] {
        let told = format!("\"{line}\" stands beside the objects");
        let unused = "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\n";
        for before in [&list, NODE, unused] {
            let text = format!("{before}{line}\n");
            let message = read(Path::new("cluster.yaml"), text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(&told) && message.contains("without 2>&1"), "{message}");
        }
    }
}
