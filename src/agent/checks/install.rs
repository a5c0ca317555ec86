//! Checks of the installation: where it is, whether it can be written, whether there is room, and whether RKE2 will find its
//! runtime images, old and new.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::checks::Check;
use crate::agent::room;
use crate::flow::place::Place;
use crate::flow::plan::NodePlan;
use crate::flow::prefix;
use crate::flow::runtime_image::{Archive, Contents, source};
use crate::flow::skew::Objection;
use crate::host::Host;
use crate::host::fs::{Fs, FsError};
use crate::host::rke2_config::Rke2Config;
use crate::host::runtime;

const SCOPE: &str = "machine";
/// Archives of some gigabytes are read to their lists, from a disk that others use as well.
const LOOKING: Duration = Duration::from_mins(5);

/// Where RKE2 is installed, as the live program and its unit file say, and whether a program can be swapped there.
pub(super) async fn prefix(host: &Host, live: &str, fragment: &str) -> Check {
    const NAME: &str = "install prefix";
    let found = match prefix::prefix(live, fragment) {
        Ok(found) => found,
        Err(Objection { why, fix }) => return Check::fail(NAME, SCOPE, why, fix),
    };
    let (root, bin) = (host.root.clone(), PathBuf::from(live));
    let read_only = move |fs: &Fs| -> Result<bool, FsError> {
        let bin = root.at(bin.parent().unwrap_or(Path::new("/")));
        let mount = fs.effects().mount(&bin).map_err(FsError::on("look at the file system of", &bin))?;
        Ok(mount.is_read_only)
    };
    let looked =
        host.root.fs().blocking(move |fs| read_only(fs).map_err(crate::agent::step_error::StepError::from));
    match looked.await {
        Err(error) => Check::unknown(NAME, SCOPE, &error),
        Ok(true) => {
            let Objection { why, fix } = prefix::read_only(&found);
            Check::fail(NAME, SCOPE, why, fix)
        }
        Ok(false) if found == prefix::PACKAGED => {
            let why = format!(
                "{found}, unit file {fragment}; the package manager will not know of the new version"
            );
            Check::pass(NAME, SCOPE, why)
        }
        Ok(false) => Check::pass(NAME, SCOPE, format!("{found}, unit file {fragment}")),
    }
}

/// Whether everything that will be written fits.
pub(super) async fn room(host: &Host, plan: &NodePlan, live: &str) -> Check {
    const NAME: &str = "disk space";
    match room::look(host, plan, live).await {
        Ok(Ok(why)) => Check::pass(NAME, SCOPE, why),
        Ok(Err(shortages)) => {
            let why: Vec<String> = shortages.iter().map(ToString::to_string).collect();
            Check::fail(NAME, SCOPE, why.join("; "), room::CURE)
        }
        Err(error) => Check::unknown(NAME, SCOPE, &error),
    }
}

/// Where RKE2 takes its runtime from: the new one, and the old one, without which there is no way back.
pub(super) async fn runtime_images(host: &Host, plan: &NodePlan) -> [Check; 2] {
    const NAMES: [&str; 2] = ["new runtime image", "old runtime image"];
    let versions = [plan.rke2.to.clone(), plan.rke2.from.clone()];
    let images = plan.artifacts.images.clone();
    let root = host.root.clone();
    let (wanted, deadline) = (versions.clone(), LOOKING);
    let look = host.root.fs().blocking(move |_| {
        let config = Rke2Config::read(&root).map_err(std::io::Error::other)?;
        let folders =
            |version| runtime::folders(&root, &config, version).map_err(std::io::Error::other);
        let [new, old] = &wanted;
        let folders = [folders(new)?, folders(old)?];
        let archives = runtime::archives(&root, &config).map_err(std::io::Error::other)?;
        let staged: Result<Vec<Archive>, _> = (0..)
            .zip(&images)
            .map(|(number, image)| match image.place(number).map_err(std::io::Error::other)? {
                Place::Disk(path) => runtime::archive_at(&root, &path).map_err(std::io::Error::other),
                Place::Server { url, .. } => Ok(Archive { name: url, contents: Contents::Unseen }),
                Place::Registry(_) | Place::Archive { .. } => {
                    Err(std::io::Error::other("an image archive is a file"))
                }
            })
            .collect();
        Ok::<_, std::io::Error>((folders, archives, staged?))
    });
    let looked = match tokio::time::timeout(deadline, look).await {
        Ok(looked) => looked,
        Err(_elapsed) => Err(std::io::Error::other("the image archives were not read in five minutes")),
    };
    let (folders, archives, staged) = match looked {
        Ok(looked) => looked,
        Err(error) => return NAMES.map(|name| Check::unknown(name, SCOPE, &error)),
    };
    let [new, old] = versions;
    let [new_folders, old_folders] = folders;
    // What the upgrade brings is of its new version.
    let check = |name, version, folders: &[_], staged: &[_]| match source(version, folders, &archives, staged)
    {
        Ok(source) => Check::pass(name, SCOPE, format!("{version}: {source}")),
        Err(Objection { why, fix }) => Check::fail(name, SCOPE, why, fix),
    };
    let [new_name, old_name] = NAMES;
    [check(new_name, &new, &new_folders, &staged), check(old_name, &old, &old_folders, &[])]
}
