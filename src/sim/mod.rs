//! An in-memory and on-wire world for rehearsals and tests: `KubeVirt`, kubelet and scheduler.
//! Nobody but the command line and the tests imports it.
