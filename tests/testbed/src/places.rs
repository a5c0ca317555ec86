//! Where things are: the workspace, the cache of parts that every run shares, and a directory for one run.
//! Owns the directory of a run and removes it; never touches anything outside `target/` and the cache.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// The version of Kubernetes that `scripts/testbed` builds.
pub const KUBERNETES_VERSION: &str = "v1.35.4";

/// The oldest control plane that is taken from `PATH` or `KUBEBUILDER_ASSETS`: Harvester's oldest that is supported.
const OLDEST_MINOR: u32 = 33;

/// The root of the checkout.
#[must_use]
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().and_then(Path::parent).unwrap_or(package)
}

/// `$UPGRADE_AGENT_TESTBED_CACHE`, or else `target/testbed/cache` in the workspace.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("UPGRADE_AGENT_TESTBED_CACHE")
        .map_or_else(|| workspace().join("target/testbed/cache"), PathBuf::from)
}

/// The directory of one run, removed when this is dropped unless `UPGRADE_AGENT_TESTBED_KEEP` is set.
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes `target/testbed/run/<unique>`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{serial}", std::process::id());
        let path = workspace().join("target/testbed/run").join(unique);
        // A process of the same number may have been killed before it could clean up.
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove old {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if std::env::var_os("UPGRADE_AGENT_TESTBED_KEEP").is_some() {
            eprintln!("testbed: kept {}", self.0.display());
        } else if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("testbed: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// An address in 127.0.0.0/8 that no other test bed on this computer uses while this value lives.
///
/// With an address of one's own every port can be the well-known one, and nobody races for a free port.
#[derive(Debug)]
pub struct Loopback {
    address: Ipv4Addr,
    _claim: TcpListener,
}

/// A port that nothing else uses, bound for as long as the address is claimed.
const CLAIM_PORT: u16 = 7;

impl Loopback {
    /// Claims an address.
    ///
    /// # Errors
    /// When a hundred addresses in a row are in use.
    pub fn claim() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        for _ in 0..100 {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let [_, _, high, low] = std::process::id().to_be_bytes();
            let [.., third] = serial.to_be_bytes();
            // 127.16.x.x and up: away from 127.0.0.1, and from 127.0.0.53 where systemd-resolved sits.
            let second = 16 + third % 200;
            if let Ok(loopback) = Self::claim_this(Ipv4Addr::new(127, second, high, low.clamp(1, 254))) {
                return Ok(loopback);
            }
        }
        bail!("no free loopback address after 100 tries; stop other test beds")
    }

    /// Claims the address given.
    ///
    /// # Errors
    /// When another test bed has it.
    pub fn claim_this(address: Ipv4Addr) -> Result<Self> {
        let claim = TcpListener::bind((address, CLAIM_PORT))
            .with_context(|| format!("loopback address {address} is in use by another test bed"))?;
        Ok(Self { address, _claim: claim })
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `etcd`
    pub etcd: PathBuf,
    /// `kube-apiserver`
    pub kube_apiserver: PathBuf,
    /// `kube-controller-manager`
    pub kube_controller_manager: PathBuf,
    /// `kubectl`
    pub kubectl: PathBuf,
}

impl Programs {
    /// Looks in `$KUBEBUILDER_ASSETS`, then the cache, then `PATH`; what is too old is passed over.
    ///
    /// # Errors
    /// When one is nowhere; the text names the cure.
    pub fn find() -> Result<Self> {
        Ok(Self {
            etcd: find("etcd", &[])?,
            kube_apiserver: find("kube-apiserver", &["--version"])?,
            kube_controller_manager: find("kube-controller-manager", &["--version"])?,
            kubectl: find("kubectl", &["version", "--client"])?,
        })
    }
}

/// Finds one program; `version` are the arguments that make it print its Kubernetes version, if it has one.
fn find(name: &str, version: &[&str]) -> Result<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let built = cache().join(format!("k8s-{KUBERNETES_VERSION}"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = assets.into_iter().chain([built]).chain(std::env::split_paths(&path));
    places
        .map(|place| place.join(name))
        .filter(|program| program.is_file())
        .find(|program| version.is_empty() || is_recent(program, version))
        .with_context(|| {
            format!("{name} is neither in KUBEBUILDER_ASSETS, nor built, nor in PATH; run scripts/testbed")
        })
}

fn is_recent(program: &Path, version: &[&str]) -> bool {
    let Ok(output) = Command::new(program).args(version).output() else {
        return false;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_once("v1.")
        .and_then(|(_, rest)| rest.split('.').next())
        .and_then(|minor| minor.parse::<u32>().ok())
        .is_some_and(|minor| minor >= OLDEST_MINOR)
}
