//! The custom resource definitions of the products on the node: the real ones where they are at hand.

use std::path::PathBuf;

use anyhow::Result;

use super::ControlPlane;
use crate::places;

/// Which definitions [`ControlPlane::install_crds`] used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crds {
    /// The real products' own, from this directory.
    Real(PathBuf),
    /// Ours: the same names, versions and subresources, but no schema.
    StandIn,
}

impl ControlPlane {
    /// Installs the custom resource definitions and waits until they are served.
    ///
    /// # Errors
    /// When one is refused.
    pub fn install_crds(&self) -> Result<Crds> {
        let (source, crds) = find_crds();
        let mut arguments = vec!["apply", "--server-side", "--force-conflicts"];
        for dir in &source {
            arguments.extend(["-f", dir.as_str()]);
        }
        self.run_kubectl(&arguments)?;
        self.run_kubectl(&["wait", "--for=condition=Established", "--timeout=5m", "crd", "--all"])?;
        Ok(crds)
    }
}

/// `$UPGRADE_AGENT_CRDS`, or else `../shared/crds` beside the checkout, or else the stand-ins.
fn find_crds() -> (Vec<String>, Crds) {
    let beside = places::workspace().parent().map(|parent| parent.join("shared/crds"));
    let real =
        std::env::var_os("UPGRADE_AGENT_CRDS").map(PathBuf::from).or(beside).filter(|dir| dir.is_dir());
    match real {
        Some(dir) => {
            let products = ["kubevirt", "harvester", "longhorn"].map(|product| dir.join(product));
            let products = products.iter().filter(|product| product.is_dir());
            (products.map(|product| product.display().to_string()).collect(), Crds::Real(dir))
        }
        None => (vec![concat!(env!("CARGO_MANIFEST_DIR"), "/crds").to_owned()], Crds::StandIn),
    }
}
