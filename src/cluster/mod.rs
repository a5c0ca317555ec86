//! Kubernetes: one client, deadlines on every call, error classes that somebody reacts to.
//!
//! Never decides anything about an upgrade and never touches the machine.

pub mod access;
pub mod beside;
pub mod brief;
pub mod crd;
pub mod devices;
pub mod evict;
pub mod machine_plan;
pub mod migrations;
pub mod names;
pub mod nodes;
pub mod places;
pub mod restore_list;
pub mod turn;
pub mod vm_facts;
pub mod vm_mark;
pub mod vm_state;
pub mod vms;
pub mod volumes;
pub mod watch_pace;
pub mod write;

use std::error::Error as _;
use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Server-side field manager and event source of everything that the agent writes.
pub const FIELD_MANAGER: &str = "upgrade-agent";
/// One request may take this long; the retry ladder is above, in the driver.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// The cluster as a value.
#[derive(Clone)]
pub struct Cluster {
    /// For typed `Api`s.
    pub client: Client,
    /// Harvester's namespace: `Upgrade`s and `NodeUpgrade`s live there.
    pub namespace: String,
}

/// Why the cluster did not do what was asked. Classes by reaction, not by cause.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// No way to reach it is known.
    #[error("no usable kubeconfig{}; give --kubeconfig FILE or set KUBECONFIG", at(.path.as_ref()))]
    NoConfig {
        /// The file given.
        path: Option<PathBuf>,
        /// The reader's word.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Try again later.
    #[error("{what}: the API server is not available")]
    Unavailable {
        /// What was asked.
        what: String,
        /// The wire's word.
        #[source]
        source: Cause,
    },
    /// It did not answer in time.
    #[error("{what}: no answer from the API server in {} s", CALL_DEADLINE.as_secs())]
    NoAnswer {
        /// What was asked.
        what: String,
    },
    /// Not allowed.
    #[error(
        "{what}: the API server refuses it (403); apply manifests/rbac.yaml or use a kubeconfig that may do this"
    )]
    Denied {
        /// What was asked.
        what: String,
        /// The server's word.
        #[source]
        source: Cause,
    },
    /// The object, or its kind, is not there.
    #[error("{what}: not found")]
    Gone {
        /// What was asked.
        what: String,
    },
    /// Somebody else wrote first, or the state does not allow it: read again.
    #[error("{what}: conflicts with the present state")]
    Conflict {
        /// What was asked.
        what: String,
        /// The server's word.
        #[source]
        source: Cause,
    },
    /// Anything else: a bug here or there.
    #[error("{what}: the API server rejected it")]
    Rejected {
        /// What was asked.
        what: String,
        /// The server's word.
        #[source]
        source: Cause,
    },
}

fn at(path: Option<&PathBuf>) -> String {
    path.map(|path| format!(" at {}", path.display())).unwrap_or_default()
}

/// What the server or the wire said, in a form that people can read.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct Cause {
    /// HTTP status code; none when nothing came back.
    pub code: Option<u16>,
    /// The server's message, or the wire's error with its causes.
    pub text: String,
}

impl Cause {
    fn of(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self { code: Some(status.code), text: status.message.trim().to_owned() };
        }
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        Self { code: None, text }
    }
}

impl ClusterError {
    fn of(what: String, error: &kube::Error) -> Self {
        let source = Cause::of(error);
        let code = source.code;
        match code {
            Some(401 | 403) => Self::Denied { what, source },
            Some(404) => Self::Gone { what },
            // Also a list that was too old to go on with (410): it is read again.
            Some(409 | 410) => Self::Conflict { what, source },
            // Nothing came back, or the server is overloaded, restarting, or its webhook is away (500).
            None | Some(429 | 500..=599) => Self::Unavailable { what, source },
            Some(_) => Self::Rejected { what, source },
        }
    }

    /// May the same request succeed later without anybody's doing?
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::NoAnswer { .. } | Self::Conflict { .. } => true,
            Self::NoConfig { .. } | Self::Denied { .. } | Self::Gone { .. } | Self::Rejected { .. } => false,
        }
    }
}

/// One request with its deadline; `what` completes "could not …" in people's words and names the object.
///
/// # Errors
/// [`ClusterError`], classified.
pub async fn ask<T>(
    what: impl Into<String>,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ClusterError> {
    let what = what.into();
    match tokio::time::timeout(CALL_DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ClusterError::of(what, &error)),
        Err(_) => Err(ClusterError::NoAnswer { what }),
    }
}

/// Shows every object of a list to `look`, page by page: neither side holds all of them at once.
///
/// # Errors
/// [`ClusterError`].
pub async fn each<K: Clone + DeserializeOwned + Debug>(
    what: &str,
    api: &Api<K>,
    mut params: ListParams,
    mut look: impl FnMut(&K),
) -> Result<(), ClusterError> {
    loop {
        let page = ask(what, api.list(&params)).await?;
        page.items.iter().for_each(&mut look);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Like [`ask`], but an absent object is `None`.
///
/// # Errors
/// [`ClusterError`], classified.
pub async fn ask_opt<T>(
    what: impl Into<String>,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>, ClusterError> {
    match ask(what, request).await {
        Ok(answer) => Ok(Some(answer)),
        Err(ClusterError::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Cluster {
    /// A client from a kubeconfig file, else from the pod's service account. Talks to nobody yet.
    ///
    /// # Errors
    /// [`ClusterError::NoConfig`] when there is none or it cannot be used.
    pub async fn connect(kubeconfig: Option<&Path>, namespace: &str) -> Result<Self, ClusterError> {
        let no_config = |source: Box<dyn std::error::Error + Send + Sync>| ClusterError::NoConfig {
            path: kubeconfig.map(Path::to_owned),
            source,
        };
        let mut config = match kubeconfig {
            Some(file) => {
                let parsed = Kubeconfig::read_from(file).map_err(|error| no_config(error.into()))?;
                Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| no_config(error.into()))?
            }
            None => Config::incluster().map_err(|error| no_config(error.into()))?,
        };
        config.connect_timeout = Some(Duration::from_secs(10));
        let client = Client::try_from(config).map_err(|error| no_config(error.into()))?;
        Ok(Self { client, namespace: namespace.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classed_by_what_to_do() {
        let api = |code: u16| {
            let status = kube::core::Status { code, message: "m".into(), ..kube::core::Status::default() };
            ClusterError::of("read node node1".into(), &kube::Error::Api(Box::new(status)))
        };
        for code in [409, 429, 500, 503, 504] {
            assert!(api(code).is_passing(), "{code} passes");
        }
        for code in [400, 401, 403, 404, 405, 422] {
            assert!(!api(code).is_passing(), "{code} does not pass");
        }
        assert!(api(403).to_string().contains("read node node1"));
        assert!(api(403).to_string().contains("rbac.yaml"));
    }
}
