//! Kubernetes: clients, error classes, nodes, virtual machines, evictions.
