//! Serves an aggregated API from a closure, as virt-api serves `subresources.kubevirt.io`.
//! Owns the listener, its certificate and the registration; knows nothing of what is answered.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Request, Response};
use k8s_openapi::ByteString;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::control_plane::ControlPlane;
use crate::http_server;
use crate::pki::{Authority, Purpose};

/// How long the API server may take to find the aggregated API available.
const AVAILABLE_DEADLINE: Duration = Duration::from_mins(2);

/// A served API; the listener closes when this is dropped.
#[derive(Debug)]
pub struct AggregatedApi {
    port: u16,
    task: JoinHandle<()>,
}

impl AggregatedApi {
    /// The loopback port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for AggregatedApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hosts `service` as `v1.subresources.kubevirt.io` and `v1alpha3`, and waits until `v1` is available.
///
/// # Errors
/// When the API server does not find it available within 30 s.
pub async fn serve_aggregated<F, A>(control_plane: &ControlPlane, service: F) -> Result<AggregatedApi>
where
    F: Fn(Request<Bytes>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Bytes>> + Send + 'static,
{
    // The API server resolves the external name `localhost`, so here it is 127.0.0.1 and a free port.
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let authority = Authority::new("testbed-virt-api")?;
    // That is the name under which it looks for the service in the certificate.
    let hosts = ["virt-api.harvester-system.svc", "localhost"];
    let acceptor =
        http_server::acceptor(&authority.sign("virt-api", Purpose::Server, &hosts, &[localhost])?)?;
    let listener = TcpListener::bind((localhost, 0)).await?;
    let port = listener.local_addr()?.port();
    let api =
        AggregatedApi { port, task: tokio::spawn(http_server::serve(listener, Some(acceptor), service)) };

    control_plane.apply(&registration(port, &authority))?;
    wait_available(control_plane).await?;
    Ok(api)
}

fn registration(port: u16, authority: &Authority) -> String {
    let certificate = ByteString(authority.certificate().as_bytes().to_vec());
    let mut items = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "virt-api", "namespace": "harvester-system"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    })];
    items.extend(["v1", "v1alpha3"].map(|version| {
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.subresources.kubevirt.io")},
            "spec": {
                "group": "subresources.kubevirt.io", "version": version,
                "groupPriorityMinimum": 1000, "versionPriority": 15,
                "service": {"name": "virt-api", "namespace": "harvester-system", "port": port},
                "caBundle": certificate,
            },
        })
    }));
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

async fn wait_available(control_plane: &ControlPlane) -> Result<()> {
    let services: Api<APIService> = Api::all(control_plane.client());
    let began = Instant::now();
    loop {
        let status = services.get_status("v1.subresources.kubevirt.io").await?.status;
        let conditions = status.and_then(|status| status.conditions).unwrap_or_default();
        let available = conditions.iter().find(|condition| condition.type_ == "Available");
        if available.is_some_and(|condition| condition.status == "True") {
            return Ok(());
        }
        if began.elapsed() > AVAILABLE_DEADLINE {
            bail!("v1.subresources.kubevirt.io is not available after 30 s: {available:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
