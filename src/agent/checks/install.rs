//! Checks of the installation: where it is, whether it can be written, whether there is room, and whether RKE2 will find its
//! runtime images, old and new.

use std::path::{Path, PathBuf};

use crate::agent::checks::Check;
use crate::agent::room;
use crate::agent::runtime_images::{self, Archives};
use crate::agent::step_error::StepError;
use crate::flow::plan::{NodePlan, Role};
use crate::flow::prefix;
use crate::flow::skew::Objection;
use crate::flow::way_back::WayBack;
use crate::host::Host;
use crate::host::effects::FileKind;
use crate::host::fs::{Fs, FsError};
use crate::host::root::HostRoot;

const SCOPE: &str = "machine";

/// Where RKE2 is installed, as the live program and its unit file say, and whether a program can be swapped there.
pub(super) async fn prefix(host: &Host, live: &str, fragment: &str) -> Check {
    const NAME: &str = "install prefix";
    let found = match prefix::prefix(live, fragment) {
        Ok(found) => found,
        Err(Objection { why, fix }) => return Check::fail(NAME, SCOPE, why, fix),
    };
    let (root, at, folder) = (host.root.clone(), PathBuf::from(live), found.clone());
    let look = move |fs: &Fs| hindrance(fs, &root, &at, &folder).map_err(StepError::from);
    match host.root.fs().blocking(look).await {
        Err(error) => Check::unknown(NAME, SCOPE, &error),
        Ok(Some(Objection { why, fix })) => Check::fail(NAME, SCOPE, why, fix),
        Ok(None) if found == prefix::PACKAGED => {
            let why = format!(
                "{found}, unit file {fragment}; the package manager will not know of the new version"
            );
            Check::pass(NAME, SCOPE, why)
        }
        Ok(None) => Check::pass(NAME, SCOPE, format!("{found}, unit file {fragment}")),
    }
}

/// What keeps a program from being renamed to the live path; both paths are the machine's own view.
fn hindrance(fs: &Fs, root: &HostRoot, live: &Path, prefix: &str) -> Result<Option<Objection>, FsError> {
    let (file, bin) = (root.at(live), root.at(live.parent().unwrap_or(Path::new("/"))));
    let mount = fs.effects().mount(&bin).map_err(FsError::on("look at the file system of", &bin))?;
    if mount.is_read_only {
        return Ok(Some(prefix::read_only(prefix)));
    }
    let stat = |path: &Path| fs.effects().stat(path).map_err(FsError::on("look at", path));
    if fs.effects().stat_link(&file).map_err(FsError::on("look at", &file))?.kind != FileKind::File {
        return Ok(Some(prefix::no_file(&live.display().to_string())));
    }
    // What is staged in the prefix is renamed to the live path.
    if stat(&bin)?.device != stat(&root.at(prefix))?.device {
        return Ok(Some(prefix::apart(&live.display().to_string(), prefix)));
    }
    Ok(None)
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
pub(super) async fn runtime_images(host: &Host, plan: &NodePlan, role: Role) -> [Check; 2] {
    const NAMES: [&str; 2] = ["new runtime image", "old runtime image"];
    let found = match runtime_images::look(host, plan, Archives::Planned).await {
        Ok(found) => found,
        Err(error) => return NAMES.map(|name| Check::unknown(name, SCOPE, &error)),
    };
    let check = |name, version, source| match source {
        Ok(source) => Check::pass(name, SCOPE, format!("{version}: {source}")),
        Err(Objection { why, fix }) => Check::fail(name, SCOPE, why, fix),
    };
    let [new, old] = NAMES;
    let way = WayBack::of(role, &plan.rke2);
    [
        check(new, &plan.rke2.to, found.new_source(plan)),
        check(old, &plan.rke2.from, found.old_source(plan, &way)),
    ]
}
