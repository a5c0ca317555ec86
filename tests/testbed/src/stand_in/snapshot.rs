//! `rke2 etcd-snapshot save`: asks the running server whether it is there, and writes a file with the checksum at its end that etcd's
//! own snapshots have.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::identity::{Fault, own_version};
use super::{SETTINGS, Settings};

const SUPERVISOR: u16 = 9345;
/// How long the real one takes for a small cluster.
const SAVING: Duration = Duration::from_millis(300);

/// Saves a snapshot as `save --name NAME --dir FOLDER` says.
///
/// # Errors
/// When no server runs here, the words are others, or a fault says so.
pub fn save_snapshot(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["save", "--name", name, "--dir", folder] = words.as_slice() else {
        bail!("usage: rke2 etcd-snapshot save --name NAME --dir FOLDER");
    };
    let text = fs::read_to_string(SETTINGS).with_context(|| format!("cannot read {SETTINGS}"))?;
    let settings: Settings = serde_json::from_str(&text)?;
    let server = SocketAddr::from((settings.bind, SUPERVISOR));
    TcpStream::connect_timeout(&server, Duration::from_secs(5)).context("see server log for details")?;
    std::thread::sleep(SAVING);
    let pages = vec![b'e'; 64 * 512];
    let mut content = [pages.as_slice(), Sha256::digest(&pages).as_slice()].concat();
    match Fault::read(&own_version()?) {
        Some(Fault::NoSnapshot) => bail!("stand-in fault: no-snapshot"),
        Some(Fault::TornSnapshot) => content.truncate(9000),
        _ => {}
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
    let file = Path::new(folder).join(format!("{name}-{}-{now}", settings.node_name));
    fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    fs::File::open(&file)?.sync_all()?;
    Ok(())
}
