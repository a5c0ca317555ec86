//! This machine: files under a host root, systemd over D-Bus, processes, disks, the lock.
//! Never talks to Kubernetes and never decides anything about an upgrade.
