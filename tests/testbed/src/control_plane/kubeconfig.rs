//! Kubeconfig files: the admin's, and those of service accounts. Each holds all it needs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use super::ControlPlane;
use crate::pki::Authority;

impl ControlPlane {
    /// A kubeconfig file with a token of this service account, which must exist; good for a day.
    ///
    /// # Errors
    /// When the API server refuses the token.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(86_400), ..Default::default() };
        let request = TokenRequest { spec, ..Default::default() };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for service account {namespace}/{name}"))?;
        let token = answer.status.context("the token request was answered without a token")?.token;
        let file = self.dir.join(format!("{namespace}.{name}.kubeconfig"));
        write(&file, &self.server_url(), self.authority(), name, &token)?;
        Ok(file)
    }
}

pub(super) async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Everything is inside the file, so that a copy of it works on a machine.
pub(super) fn write(file: &Path, server: &str, authority: &Authority, user: &str, token: &str) -> Result<()> {
    let certificate = ByteString(authority.certificate().as_bytes().to_vec());
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority-data": certificate}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
    });
    fs::write(file, text.to_string()).with_context(|| format!("cannot write {}", file.display()))
}
