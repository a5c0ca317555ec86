//! The real-parts test bed
mod cgroup;
mod children;
mod http_server;
pub mod machine;
pub mod stand_in;
pub mod pki;
pub mod places;
pub mod control_plane;
pub mod virt_api;
