//! A copy of this program on the machine, for systemd to run there: the agent itself may live in a pod that ends. Owns that
//! one file; whole at every instant, and on disk when [`install`] returns.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::host::effects::Opening;
use crate::host::fs::{Fs, FsError, beside};

const PIECE: usize = 1 << 18;

/// Where the copy is, below the state directory.
#[must_use]
pub fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("bin/upgrade-agent")
}

/// Copies `program` to its place below `state_dir`, with the `SELinux` label of `like`; one of an earlier agent is replaced in one
/// instant, the same is left as it is.
///
/// # Errors
/// The disk's; what was there before is still there then.
pub fn install(fs: &Fs, program: &Path, state_dir: &Path, like: Option<&Path>) -> Result<PathBuf, FsError> {
    let place = path_in(state_dir);
    if let Some(folder) = place.parent() {
        fs.create_dir_sync(folder)?;
    }
    let there = fs.sha256_opt(&place)?;
    if there.is_none() || there != Some(fs.sha256_file(program)?) {
        let temp = beside(&place, "new");
        fs.remove_if_there(&temp).map_err(FsError::on("remove", &temp))?;
        copy(fs, program, &temp)?;
        if let Some(like) = like {
            label_as(fs, like, &temp)?;
        }
        fs.effects().rename(&temp, &place).map_err(FsError::on("rename", &temp))?;
    }
    // Also for the same: whoever renamed it may have been killed before this.
    fs.sync_dir(place.parent().unwrap_or(state_dir))?;
    Ok(place)
}

/// Takes the copy away; none is fine.
///
/// # Errors
/// The disk's.
pub fn remove(fs: &Fs, state_dir: &Path) -> Result<(), FsError> {
    let place = path_in(state_dir);
    let temp = beside(&place, "new");
    fs.remove_if_there(&temp).map_err(FsError::on("remove", &temp))?;
    fs.remove_opt(&place).map(drop)
}

fn copy(fs: &Fs, from: &Path, to: &Path) -> Result<(), FsError> {
    let mut source = fs.effects().open(from).map_err(FsError::on("read", from))?;
    let written = (|| {
        let mut file = fs.effects().create(to, Opening::New, 0o755)?;
        let mut piece = vec![0; PIECE];
        loop {
            let got = match source.read(&mut piece) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            file.write_all(piece.get(..got).unwrap_or_default())?;
        }
        file.set_mode(0o755)?;
        file.sync()
    })();
    written.map_err(FsError::on("write", to))
}

fn label_as(fs: &Fs, like: &Path, path: &Path) -> Result<(), FsError> {
    let effects = fs.effects();
    let Some(label) = effects.label(like).map_err(FsError::on("read the SELinux label of", like))? else {
        return Ok(());
    };
    effects.set_label(path, &label).map_err(FsError::on("set the SELinux label of", path))?;
    effects.sync(path).map_err(FsError::on("sync", path))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests look past the door they test")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_copy_is_whole_runs_and_replaces_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("agent");
        for content in [vec![b'a'; 700_000], vec![b'b'; 10]] {
            std::fs::write(&program, &content).unwrap();
            let place = install(&Fs::kernel(), &program, &dir.path().join("state"), None).unwrap();
            assert_eq!(std::fs::read(&place).unwrap(), content);
            assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o755);
            assert_eq!(Fs::kernel().list_dir(place.parent().unwrap()).unwrap(), [place]);
        }
        remove(&Fs::kernel(), &dir.path().join("state")).unwrap();
        remove(&Fs::kernel(), &dir.path().join("state")).unwrap();
        assert!(!path_in(&dir.path().join("state")).exists());
    }
}
