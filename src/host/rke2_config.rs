//! What RKE2's configuration files say, as far as it decides where its files are, and which those are. Reads
//! `config.yaml` and then `config.yaml.d/*.yaml` in the order of their names; the later one wins (reference
//! `rke2-and-rancher.md` §2.1). Does not know what was given on RKE2's command line or in its environment.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::host::fs::FsError;
use crate::host::root::HostRoot;

const FOLDER: &str = "/etc/rancher/rke2";
const DATA_DIR: &str = "/var/lib/rancher/rke2";

/// Settings of RKE2 on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rke2Config {
    /// Where it keeps its data; the machine's own path.
    pub data_dir: PathBuf,
}

/// Why the configuration is not known.
#[derive(Debug, thiserror::Error)]
pub enum Rke2ConfigError {
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] FsError),
    /// A file is not YAML, or a setting has another form.
    #[error("{} cannot be read as RKE2's configuration: {why}; correct the file", path.display())]
    Unreadable {
        /// The machine's own path.
        path: PathBuf,
        /// In the parser's words.
        why: String,
    },
}

#[derive(Default, Deserialize)]
struct File {
    #[serde(rename = "data-dir")]
    data_dir: Option<PathBuf>,
}

impl Rke2Config {
    /// Reads all of its files; without any, everything is as RKE2 has it by default.
    ///
    /// # Errors
    /// See [`Rke2ConfigError`].
    pub fn read(root: &HostRoot) -> Result<Self, Rke2ConfigError> {
        let mut paths = vec![root.at(Path::new(FOLDER).join("config.yaml"))];
        let more = root.fs().list_dir(&root.at(Path::new(FOLDER).join("config.yaml.d")))?;
        let is_yaml =
            |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        paths.extend(more.into_iter().filter(is_yaml));
        let mut config = Self { data_dir: PathBuf::from(DATA_DIR) };
        for path in paths {
            let Some(bytes) = root.fs().read_opt(&path)? else { continue };
            let unreadable = |why: String| Rke2ConfigError::Unreadable { path: root.strip(&path), why };
            let text = String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
            let file = parse(&text).map_err(unreadable)?;
            config.data_dir = file.data_dir.unwrap_or(config.data_dir);
        }
        Ok(config)
    }

    /// The folder of what RKE2 has unpacked, one data folder for each runtime image; as this process sees it.
    ///
    /// # Errors
    /// The way to it cannot be followed.
    pub fn unpacked(&self, root: &HostRoot) -> Result<PathBuf, FsError> {
        self.below(root, "data")
    }

    /// The folder whose archives RKE2 imports, and looks for its runtime image in; as this process sees it.
    ///
    /// # Errors
    /// The way to it cannot be followed.
    pub fn images(&self, root: &HostRoot) -> Result<PathBuf, FsError> {
        self.below(root, "agent/images")
    }

    /// The folder of etcd's data, as this process sees it; none where this machine has no etcd: on an agent, or on a server with
    /// an external datastore.
    ///
    /// # Errors
    /// Nobody can tell.
    pub fn etcd(&self, root: &HostRoot) -> Result<Option<PathBuf>, FsError> {
        let data = self.data_dir.join("server/db/etcd");
        let found = root.resolve(&data).and_then(|found| root.fs().effects().stat(&found).map(|_| found));
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FsError::on("look at", &data)(error)),
        }
    }

    fn below(&self, root: &HostRoot, folder: &str) -> Result<PathBuf, FsError> {
        let path = self.data_dir.join(folder);
        root.resolve(&path).map_err(FsError::on("find", &path))
    }
}

fn parse(text: &str) -> Result<File, String> {
    let file: Option<File> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    Ok(file.unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test writes the files that it reads")]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_wins_and_no_file_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        let usual = Rke2Config { data_dir: DATA_DIR.into() };
        assert_eq!(Rke2Config::read(&root).unwrap(), usual);
        let write = |name: &str, text: &str| {
            let path = root.at(Path::new(FOLDER).join(name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("config.yaml", "# nothing but a remark\n");
        assert_eq!(Rke2Config::read(&root).unwrap(), usual);
        write("config.yaml", "token: x\ntls-san:\n- a\ndata-dir: /data/one\n");
        write("config.yaml.d/90-b.yaml", "data-dir: \"/data/two\"\n");
        write("config.yaml.d/10-a.yaml", "data-dir: /data/three\n");
        write("config.yaml.d/95-c.yaml", "node-label+:\n- a=b\n");
        write("config.yaml.d/99-note.txt", "not: [yaml");
        assert_eq!(Rke2Config::read(&root).unwrap().data_dir, Path::new("/data/two"));
        write("config.yaml.d/50-torn.yaml", "tls-san: [");
        let error = Rke2Config::read(&root).unwrap_err().to_string();
        assert!(error.contains("/etc/rancher/rke2/config.yaml.d/50-torn.yaml"), "{error}");
    }
}
