//! What an operator sees of the import: what is read, and what each wrong file is told.

mod fields;
mod forms;
mod hostile;
mod truncated;

use std::path::Path;

use super::{ImportError, Imported, read};

/// The example that the documentation speaks of.
const EXAMPLE: &str = include_str!("../../../../tests/fixtures/cluster.yaml");

const NODE: &str = "apiVersion: v1
kind: Node
metadata:
  name: node1
status:
  allocatable:
    memory: 64Gi
  nodeInfo:
    kubeletVersion: v1.34.2+rke2r1
";
const VM: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: db
  namespace: default
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        memory:
          guest: 2Gi
";
const VMI: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: db
  namespace: default
  labels: {kubevirt.io/nodeName: node1}
spec:
  domain:
    memory:
      guest: 2Gi
status:
  nodeName: node1
  phase: Running
";

fn read_text(text: &str) -> Result<Imported, ImportError> {
    read(Path::new("cluster.yaml"), text.as_bytes())
}

/// Documents in one file, whose end is marked.
fn stream(documents: &[&str]) -> String {
    format!("{}...\n", documents.join("---\n"))
}

/// The message, which always names the file.
fn refusal(text: &str) -> String {
    let message = read_text(text).unwrap_err().to_string();
    assert!(message.contains("cluster.yaml"), "{message}");
    message
}

#[track_caller]
fn refuses(text: &str, parts: &[&str]) {
    let message = refusal(text);
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}
