//! A machine's tree in a temporary folder, on which releases are staged: here, or in a process of its own whose memory is
//! measured and which can be killed.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use upgrade_agent::flow::artifacts::Artifacts;
use upgrade_agent::host::release;
use upgrade_agent::host::root::HostRoot;

use crate::packing::sha256;

/// How a test tells its own process what to stage.
const JOB: &str = "DOWNLOADS_JOB";
/// How that answers.
const TOLD: &str = "staged in a process of its own: ";
const DEST: &str = "/opt/rke2/.stage/v1.35.6+rke2r1";

pub(crate) struct Ground {
    dir: tempfile::TempDir,
}

/// What a process of its own came to.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Told {
    /// Why it refused; empty when it did not.
    pub(crate) refusal: String,
    /// By how much its memory grew at most, in KiB.
    pub(crate) grown: u64,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ground = Self { dir };
        for (path, content) in
            [("/opt/rke2/bin/rke2", "old"), ("/etc/passwd", "root"), ("/release/empty", "")]
        {
            ground.put(path, content.as_bytes());
        }
        ground
    }

    pub(crate) fn put(&self, path: &str, content: &[u8]) {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// All names of the tree, with mode and content.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut found = BTreeMap::new();
        list(self.dir.path(), &mut found);
        found
    }

    /// Stages in this process.
    pub(crate) async fn stage(&self, artifacts: &Artifacts, seconds: u64) -> Result<PathBuf, String> {
        let root = HostRoot::new(self.dir.path().to_path_buf());
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let staged = release::stage(&root, artifacts, Path::new(DEST), deadline).await;
        staged.map_err(|error| {
            let error: &dyn std::error::Error = &error;
            let chain = std::iter::successors(Some(error), |error| error.source());
            chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        })
    }

    /// The staged binary.
    pub(crate) fn staged(&self) -> Vec<u8> {
        std::fs::read(self.at(DEST).join("bin/rke2")).unwrap()
    }

    /// Begins to stage in a process of its own, which runs the test `name` again, and has so many seconds.
    pub(crate) fn begin(&self, name: &str, artifacts: &Artifacts, seconds: u64) -> Child {
        let job = serde_json::to_string(&(self.dir.path(), artifacts, seconds)).unwrap();
        Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(JOB, job)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Stages in a process of its own, to its end.
    pub(crate) fn stage_apart(&self, name: &str, artifacts: &Artifacts) -> Told {
        self.stage_apart_within(name, artifacts, 300)
    }

    /// The same, with so many seconds for it.
    pub(crate) fn stage_apart_within(&self, name: &str, artifacts: &Artifacts, seconds: u64) -> Told {
        let output = self.begin(name, artifacts, seconds).wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = text.split(TOLD).nth(1).and_then(|told| told.lines().next());
        serde_json::from_str(told.unwrap_or_else(|| panic!("no word of it: {text}"))).unwrap()
    }
}

/// The process of its own: does its job and says what came of it. False in the test itself.
pub(crate) fn is_apart() -> bool {
    let Ok(job) = std::env::var(JOB) else { return false };
    let (dir, artifacts, seconds): (PathBuf, Artifacts, u64) = serde_json::from_str(&job).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let root = HostRoot::new(dir);
    // The peak so far is forgotten: what counts is what staging needs.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let staged = runtime.block_on(release::stage(&root, &artifacts, Path::new(DEST), deadline));
    let told = Told {
        refusal: staged.map_or_else(|error| format!("{error:?} {error}"), |_| String::new()),
        grown: memory("VmHWM:").saturating_sub(before),
    };
    println!("\n{TOLD}{}", serde_json::to_string(&told).unwrap());
    true
}

fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.trim().trim_end_matches(" kB").parse().unwrap()
}

fn list(dir: &Path, found: &mut BTreeMap<PathBuf, (u32, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let is_short = meta.is_file() && meta.len() < 1 << 20;
        let content = if is_short { sha256(&std::fs::read(&path).unwrap()) } else { meta.len().to_string() };
        let content = if meta.is_dir() { "a folder".to_owned() } else { content };
        found.insert(path.clone(), (meta.permissions().mode(), content));
        if meta.is_dir() {
            list(&path, found);
        }
    }
}
