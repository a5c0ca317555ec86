//! The real-parts test bed
mod children;
pub mod pki;
pub mod places;
