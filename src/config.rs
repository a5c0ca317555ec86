//! Settings: flags over environment over `/etc/upgrade-agent/config.toml` over defaults.
//!
//! Read and validated once, by [`Config::load`], and passed on as a value; nothing else reads the environment.
//! Never opens what the settings point at.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

const FILE: &str = "etc/upgrade-agent/config.toml";
const STATE: &str = "var/lib/rancher/upgrade-agent";
const BUS_SOCKET: &str = "run/dbus/system_bus_socket";
const ENVIRONMENT: [&str; 7] = [
    "NODE_NAME",
    "KUBECONFIG",
    "UPGRADE_AGENT_HOST_ROOT",
    "UPGRADE_AGENT_STATE_DIR",
    "UPGRADE_AGENT_SYSTEM_BUS",
    "UPGRADE_AGENT_LOCAL_ADDRESS",
    "UPGRADE_AGENT_SOAK_SECONDS",
];
/// Long enough to see an RKE2 die that comes up and ends a minute later.
const SOAK: Duration = Duration::from_secs(90);

/// Settings given on the command line; flattened into the commands that need them.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct FlagConfig {
    /// Name of this machine's Node object [env: `NODE_NAME`]
    #[arg(global = true, long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Kubeconfig file; without one, the pod's service account [env: `KUBECONFIG`]
    #[arg(global = true, long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the machine's `/` is seen from here [env: `UPGRADE_AGENT_HOST_ROOT`] [default: /]
    #[arg(global = true, long, value_name = "DIR")]
    pub host_root: Option<PathBuf>,
    /// Socket of the machine's D-Bus system bus [env: `UPGRADE_AGENT_SYSTEM_BUS`]
    #[arg(global = true, long, value_name = "PATH")]
    pub system_bus: Option<PathBuf>,
    /// Where journals are kept, as seen from here [env: `UPGRADE_AGENT_STATE_DIR`]
    #[arg(global = true, long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Address of this node's own health ports [env: `UPGRADE_AGENT_LOCAL_ADDRESS`] [default: 127.0.0.1]
    #[arg(global = true, long, value_name = "ADDRESS")]
    pub local_address: Option<String>,
    /// Seconds for which the new RKE2 has to serve without a break [env: `UPGRADE_AGENT_SOAK_SECONDS`] [default: 90]
    #[arg(global = true, long, value_name = "SECONDS")]
    pub soak_seconds: Option<String>,
    /// Namespace of the Upgrade and `NodeUpgrade` objects [default: harvester-system]
    #[arg(global = true, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Settings in `etc/upgrade-agent/config.toml` of the machine. Its paths are the machine's own paths: the host root is
/// put in front of them, so that one file serves the unit on the machine and the pod that sees the machine at `/host`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Name of this machine's Node object.
    pub node_name: Option<String>,
    /// Kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// Socket of the D-Bus system bus.
    pub system_bus: Option<PathBuf>,
    /// Where journals are kept.
    pub state_dir: Option<PathBuf>,
    /// Address of this node's own health ports.
    pub local_address: Option<String>,
    /// Seconds for which the new RKE2 has to serve without a break.
    pub soak_seconds: Option<u32>,
    /// Namespace of the Upgrade and `NodeUpgrade` objects.
    pub namespace: Option<String>,
}

/// The settings in force. Paths are as this process sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this machine's Node object; `None` = to be found out.
    pub node_name: Option<String>,
    /// Kubeconfig file; `None` = the pod's service account, or what kubectl would use.
    pub kubeconfig: Option<PathBuf>,
    /// Where the machine's `/` is seen from here.
    pub host_root: PathBuf,
    /// Socket of the machine's system bus; `None` = the one this process has by default.
    pub system_bus: Option<PathBuf>,
    /// Where journals are kept.
    pub state_dir: PathBuf,
    /// Where this node's own health ports listen.
    pub local_address: IpAddr,
    /// How long the new RKE2 has to serve without a break before it counts as serving.
    pub soak: Duration,
    /// Namespace of the Upgrade and `NodeUpgrade` objects.
    pub namespace: String,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("cannot read `{}`; make it a readable file, or remove it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds an unknown key or a value of the wrong type.
    #[error("`{}`, line {line}, key `{key}`: {problem}; correct or remove this line", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key on that line.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that cannot be meant.
    #[error("{setting} is `{value}`; {cure}")]
    Value {
        /// The flag, variable or key, ready to print.
        setting: String,
        /// What was found.
        value: String,
        /// What it has to be.
        cure: &'static str,
    },
}

impl Config {
    /// Reads environment and file, and merges them with `flags`. The only reader of both.
    ///
    /// # Errors
    /// When the file is unreadable or wrong, or when any setting cannot be meant. A missing file is fine.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment and this file")]
    pub fn load(flags: FlagConfig) -> Result<Self, ConfigError> {
        for name in ENVIRONMENT {
            if let Err(std::env::VarError::NotUnicode(value)) = std::env::var(name) {
                return Err(refuse(name, &value.to_string_lossy(), "use a value in UTF-8"));
            }
        }
        let env = |name: &str| std::env::var(name).ok();
        let path = host_root(flags.host_root.clone(), &env)?.join(FILE);
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => FileConfig::parse(&path, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => FileConfig::default(),
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        Self::merge(flags, env, file)
    }

    /// Flags over `env` over `file` over defaults; an empty variable counts as not set. Pure.
    ///
    /// # Errors
    /// When any setting cannot be meant, naming where it came from.
    pub fn merge(
        flags: FlagConfig,
        env: impl Fn(&str) -> Option<String>,
        file: FileConfig,
    ) -> Result<Self, ConfigError> {
        let host_root = host_root(flags.host_root, &env)?;
        let on_host = |path: PathBuf| host_root.join(path.strip_prefix("/").unwrap_or(&path));

        let node_name =
            first(("--node-name", flags.node_name), "NODE_NAME", &env, ("node_name", file.node_name))
                .map(|found| {
                    found.checked(is_dns_name, "use the node's name as `kubectl get nodes` prints it")
                })
                .transpose()?;
        let kubeconfig = first(
            ("--kubeconfig", flags.kubeconfig.map(text)),
            "KUBECONFIG",
            &env,
            ("kubeconfig", file.kubeconfig.map(&on_host).map(text)),
        )
        .map(|found| found.checked(|value| !value.contains(':'), "name one file; lists are not merged"))
        .transpose()?
        .map(PathBuf::from);
        let system_bus = first(
            ("--system-bus", flags.system_bus.map(text)),
            "UPGRADE_AGENT_SYSTEM_BUS",
            &env,
            ("system_bus", file.system_bus.map(&on_host).map(text)),
        )
        .map(Found::absolute)
        .transpose()?
        .or_else(|| (host_root != Path::new("/")).then(|| host_root.join(BUS_SOCKET)));
        let state_dir = first(
            ("--state-dir", flags.state_dir.map(text)),
            "UPGRADE_AGENT_STATE_DIR",
            &env,
            ("state_dir", file.state_dir.map(&on_host).map(text)),
        )
        .map_or_else(|| Ok(host_root.join(STATE)), Found::absolute)?;
        let local_address = first(
            ("--local-address", flags.local_address),
            "UPGRADE_AGENT_LOCAL_ADDRESS",
            &env,
            ("local_address", file.local_address),
        )
        .map_or(Ok(IpAddr::from([127, 0, 0, 1])), Found::address)?;
        let soak = first(
            ("--soak-seconds", flags.soak_seconds),
            "UPGRADE_AGENT_SOAK_SECONDS",
            &env,
            ("soak_seconds", file.soak_seconds.map(|seconds| seconds.to_string())),
        )
        .map_or(Ok(SOAK), Found::soak)?;
        let namespace = first(("--namespace", flags.namespace), "", &env, ("namespace", file.namespace))
            .map_or_else(
                || Ok("harvester-system".to_owned()),
                |found| {
                    found
                        .checked(|value| is_dns_name(value) && !value.contains('.'), "use a namespace's name")
                },
            )?;
        Ok(Self { node_name, kubeconfig, host_root, system_bus, state_dir, local_address, soak, namespace })
    }
}

impl FileConfig {
    /// Parses the file's text; `path` is for the error.
    ///
    /// # Errors
    /// When a key is unknown or a value has the wrong type, naming the line and the key.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let key = text.lines().nth(line - 1).and_then(|l| l.split('=').next()).unwrap_or_default();
            let (path, key) = (path.to_owned(), key.trim().to_owned());
            ConfigError::File { path, line, key, problem: error.message().replace('\n', "; ") }
        })
    }
}

/// A value and where it came from.
struct Found {
    setting: String,
    value: String,
}

impl Found {
    fn checked(self, accepts: impl Fn(&str) -> bool, cure: &'static str) -> Result<String, ConfigError> {
        if accepts(&self.value) { Ok(self.value) } else { Err(self.refused(cure)) }
    }

    fn absolute(self) -> Result<PathBuf, ConfigError> {
        self.checked(|value| value.starts_with('/'), "use an absolute path").map(PathBuf::from)
    }

    fn address(self) -> Result<IpAddr, ConfigError> {
        match IpAddr::from_str(&self.value) {
            Ok(address) if !address.is_unspecified() => Ok(address),
            _ => Err(self.refused("use one IP address that can be connected to, such as 127.0.0.1")),
        }
    }

    fn soak(self) -> Result<Duration, ConfigError> {
        // Verification as a whole has a quarter of an hour.
        match self.value.parse::<u32>() {
            Ok(seconds) if (1..=600).contains(&seconds) => Ok(Duration::from_secs(u64::from(seconds))),
            _ => Err(self.refused("use 1 to 600 seconds")),
        }
    }

    fn refused(&self, cure: &'static str) -> ConfigError {
        refuse(&self.setting, &self.value, cure)
    }
}

fn refuse(setting: &str, value: &str, cure: &'static str) -> ConfigError {
    ConfigError::Value { setting: format!("`{setting}`"), value: value.to_owned(), cure }
}

/// The strongest source that says something: flag, environment, file.
fn first(
    (flag, given): (&str, Option<String>),
    variable: &str,
    env: &impl Fn(&str) -> Option<String>,
    (key, written): (&str, Option<String>),
) -> Option<Found> {
    let from = |setting: &str, value: String| Found { setting: setting.to_owned(), value };
    given
        .map(|value| from(flag, value))
        .or_else(|| env(variable).filter(|value| !value.is_empty()).map(|value| from(variable, value)))
        .or_else(|| written.map(|value| from(&format!("{key} in /{FILE}"), value)))
}

fn host_root(flag: Option<PathBuf>, env: &impl Fn(&str) -> Option<String>) -> Result<PathBuf, ConfigError> {
    // The file lies under the host root and so cannot name it.
    first(("--host-root", flag.map(text)), "UPGRADE_AGENT_HOST_ROOT", env, ("", None))
        .map_or_else(|| Ok(PathBuf::from("/")), Found::absolute)
}

/// Settings are text in environment and file; a path that is not UTF-8 shows its replacement characters in the error.
fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap_or_else(|odd| odd.to_string_lossy().into_owned())
}

fn is_dns_name(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    value.len() <= 253
        && value.split('.').all(|label| {
            label.starts_with(plain) && label.ends_with(plain) && label.chars().all(|c| plain(c) || c == '-')
        })
}

#[cfg(test)]
mod tests;
