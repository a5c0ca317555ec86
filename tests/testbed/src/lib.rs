//! The real-parts test bed: a real API server, a real systemd machine, a stand-in `rke2`.
