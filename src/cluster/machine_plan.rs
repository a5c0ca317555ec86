//! Rancher's plan for this machine: the secret that rancher-system-agent reads, with its own credentials. Reads only.

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cluster::{ClusterError, ask};

/// The JSON of the plan in secret `namespace`/`name`, asked for over `kubeconfig` (the file's text).
///
/// # Errors
/// [`ClusterError`]; a secret without a plan is [`ClusterError::Gone`].
pub async fn read(kubeconfig: &str, namespace: &str, name: &str) -> Result<Vec<u8>, ClusterError> {
    let unusable =
        |source: Box<dyn std::error::Error + Send + Sync>| ClusterError::NoConfig { path: None, source };
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|error| unusable(Box::new(error)))?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| unusable(Box::new(error)))?;
    let client = Client::try_from(config).map_err(|error| unusable(Box::new(error)))?;
    let what = format!("read Rancher's plan for this machine in secret {namespace}/{name}");
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let secret = ask(what.clone(), secrets.get(name)).await?;
    let plan = secret.data.and_then(|mut data| data.remove("plan"));
    plan.map(|plan| plan.0).ok_or(ClusterError::Gone { what })
}
